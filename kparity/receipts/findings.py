"""Why a receipt is refused: a stable code, the place in the document, and one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CODES: Mapping[str, str] = {
    "RCPT-SCHEMA": "It does not have the form of receipt-v1: a field is missing, unknown, or of another type.",
    "RCPT-DIGEST": "Its digest is not that of its content: it was changed after it was written.",
    "RCPT-SUBJECT": "The subjects are not exactly the model and the kernels that it tells of.",
    "RCPT-TIME": "It ended before it began, or in the future.",
    "RCPT-DURATION": "The samples together take longer than the run did.",
    "RCPT-AGE": "It is older than --max-age allows.",
    "RCPT-COMMIT": "It is of another commit than --commit asks for, or of a changed tree, or contradicts itself.",
    "RCPT-MODEL": "Its model is not the file that --model names.",
    "RCPT-UNSIGNED": "--key was given and it is not signed.",
    "RCPT-SIGNATURE": "No signature fits the key and the payload.",
    "RCPT-PAYLOAD-TYPE": "The envelope says that its payload is something else than an in-toto statement.",
    "RCPT-REPLAYED": "Its id or its samples stand in another of the given receipts, or twice in it.",
    "RCPT-EMPTY": "Nothing ran, or a benchmark measured nothing.",
    "RCPT-FALLBACK": "What was requested is not what ran, and no reason is given for it.",
    "RCPT-FALLBACK-ONLY": "A GPU was requested and something else served (--require-gpu-kernels).",
    "RCPT-NOT-A-GPU": "A backend of a GPU API ran on a CPU or on a software device (--require-gpu-kernels).",
    "RCPT-NO-GPU-KERNELS": "No run shows kernels that a GPU executed (--require-gpu-kernels).",
    "RCPT-SOFTWARE-GPU": "A device that calls itself a GPU has the name of a software device or of a processor.",
    "RCPT-DEVICE": "A device contradicts its backend, or a GPU lacks what identifies it: UUID, driver.",
    "RCPT-KERNEL-ID": "A kernel's id is not of a dialect of its backend, or stands twice with different texts.",
    "RCPT-NO-KERNELS": "A backend ran and no kernel was dispatched.",
    "RCPT-DISPATCHES": "The dispatch counts do not fit the graph, the steps and the chunks.",
    "RCPT-DEVICE-TIME": "The device's clock is claimed and shows nothing, or more time than the wall saw.",
    "RCPT-PARITY": "The verdict does not follow from the gates, or contradicts the dispatch.",
    "RCPT-PARITY-REQUIRED": "A speed without a passed parity verdict (--require-parity).",
    "RCPT-CONTRACT": "The contract that judged is not the probe's, or of another major version than the one here.",
    "RCPT-GATE": "A gate's limit is not the contract's, or its verdict does not follow from its value.",
    "RCPT-GATES-MISSING": "A passed verdict lacks gates that the contract's probe always measures.",
    "RCPT-OUTPUT": "The output of the timed run was not verified, or was wrong.",
    "RCPT-DETERMINISM": "Repeated runs differ, or nothing was repeated, and the verdict is PASS.",
    "RCPT-ERRORS": "It says itself that a run or a measurement does not count.",
    "RCPT-FLOOR": "A sample is faster than the memory can deliver the bytes of a token.",
    "RCPT-BANDWIDTH": "The bandwidth is not that of its samples, or a token's bytes are fewer than the model's.",
    "RCPT-RECOMPUTED": "A figure is not what the raw samples give.",
    "RCPT-INTERVAL": "An interval is not one that a bootstrap of the raw samples can give.",
    "RCPT-SAMPLES": "The samples have a regularity that no clock gives.",
}
"""Code → what it means. A code never changes its meaning."""


@dataclass(frozen=True)
class Finding:
    """One reason to refuse a receipt; ``where`` is a JSON pointer into the statement."""

    code: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.code} {self.where or '/'}: {self.why}"


Findings = Iterator[Finding]
