"""Why a receipt is refused: a stable code, the place in the document, one sentence; and what is behind every code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kparity.device.remedies import Reason


@dataclass(frozen=True)
class Finding:
    """One reason to refuse a receipt; ``where`` is a JSON pointer into the statement."""

    code: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.code} {self.where or '/'}: {self.why}"


Findings = Iterator[Finding]

_AGAIN = "Run it again with --receipt; a receipt is never edited."
"""The remedy of a code for which none stands below."""
_TEXT = """\
# The document.
RCPT-SCHEMA: not the form of a receipt
  It does not have the form of receipt-v1: a field is missing, unknown, or of another type.
  Use the release of kparity that wrote it; kparity schema receipt prints the form.
RCPT-DIGEST: changed after it was written
  Its digest is not that of its content: it was changed after it was written.
  Get the file as it was written from whoever made it; ask for a signed one.
RCPT-SUBJECT: subjects and content differ
  The subjects are not exactly the model and the kernels, or the files, that it tells of.
  Get the file as it was written from whoever made it; ask for a signed one.
RCPT-TIME: times that cannot be
  It ended before it began, in the future, or was begun before there were receipts.
  Set the clocks of both machines (NTP), and run it again.
RCPT-DURATION: shorter than its samples
  The samples together take longer than the run did.
RCPT-AGE: too old
  It is older than --max-age allows.
  Run it again, or allow more days with --max-age.
RCPT-COMMIT: not of that commit
  It is of another commit than --commit asks for, or of a changed tree, or contradicts itself.
  Check that commit out, without changes, and run it again there.
RCPT-NAME: a name that passes for another
  A name holds a character that is not shown, that turns the direction, or that looks like another one.
  Correct the name where the device or the file has it; what passes for another name is believed by nobody.
RCPT-REQUEST: not what was asked for
  Command line, request and options contradict each other, or what was judged and measured.
RCPT-NONCE: not of that nonce
  Its work was drawn from another nonce than --nonce asks for.
  Run it with --nonce and the word that the verifier named.
RCPT-MODEL-SIZE: sizes that no file has
  The sizes and types of its model are no BitNet graph's, or do not give the bytes of the file.
RCPT-MODEL: not of that model
  Its model is not the file that --model names.
  Name the file that was measured, or measure this one.
# The signature.
RCPT-UNSIGNED: not signed
  --key was given and it is not signed.
  Ask for the signed envelope (kparity receipt sign), or verify without --key.
RCPT-SIGNATURE: no valid signature
  No signature fits the key and the payload.
  Check that --key is the public key of who signed it; else do not use it.
RCPT-PAYLOAD-TYPE: not an in-toto envelope
  The envelope says that its payload is something else than an in-toto statement.
  Sign with kparity receipt sign, or with the payload type application/vnd.in-toto+json.
# What ran.
RCPT-REPLAYED: used twice
  Its id or its samples, scaled or sorted too, stand in another of the given receipts, or twice in it.
  Give every receipt once; each measurement needs a run of its own.
RCPT-EMPTY: nothing was measured
  Nothing ran, or a benchmark measured nothing.
  See fallback and skipped in it for the reasons; kparity preflight says what this machine can run.
RCPT-FALLBACK: not what was requested
  What was requested is not what ran, and no reason is given for it.
  Run it again; if it comes back, the program that wrote it has a bug.
RCPT-FALLBACK-ONLY: another device served
  A GPU was requested and something else served (--require-gpu-kernels).
  The reason stands in fallback with its code: kparity explain CODE.
RCPT-NOT-A-GPU: a GPU API on no GPU
  A backend of a GPU API ran on a CPU or on a software device (--require-gpu-kernels).
  Run it on a machine with a GPU and its driver, or name only backends that have one.
RCPT-NO-GPU-KERNELS: no proof of a GPU
  Nothing in it shows kernels that a GPU executed (--require-gpu-kernels).
  Run it on a GPU whose API has timestamps: kernels, dispatches and the device's clock are the proof.
RCPT-NOT-VERIFIED: no driver says so
  No driver's counters confirm that its GPU computed (--require-gpu-kernels).
  Run it where the driver tells, or give --trust-claims for one that was run with it.
RCPT-SOFTWARE-GPU: software that calls itself a GPU
  A device that calls itself a GPU has the name of a software device or of a processor.
  Correct the kind that the backend's adapter tells.
RCPT-DEVICE: a device that cannot be
  A device contradicts its backend, kernels or host, or a GPU lacks what identifies it: UUID, driver.
  Update the driver and the API's library; a backend of your own must tell its device's identity.
RCPT-KERNEL-ID: a kernel of somebody else
  A kernel's id is not of a dialect of its backend or not of its op, or stands twice with different texts.
  Name kernels <op>_<dialect>_<variant>, in a dialect of the backend.
RCPT-KERNEL-TEXT: a text of nobody
  The version that measured is installed here, and its text of a kernel is another one.
RCPT-GRAPH: not the kernels of the model
  Kernels or launches are not those of the graph of a model of these sizes, with these options.
  Run it again; if it comes back, the program that wrote it has a bug.
RCPT-NO-KERNELS: no kernels
  A backend ran, or an op was timed, and no kernel was dispatched.
  Run it again; if it comes back, the program that wrote it has a bug.
RCPT-DISPATCHES: dispatches that do not add up
  The dispatch counts do not fit the replays of the graph or of an op's programs, or those not the samples.
  A backend of your own must count every launch once (Program.run); else run it again.
RCPT-DEVICE-TIME: the device's clock is wrong
  The device's clock is claimed and shows nothing, or more time than the wall saw.
  Update the driver; a backend without a clock of the device must not claim one.
# Whether it was right.
RCPT-PARITY: a verdict that does not follow
  The verdict does not follow from the gates, or contradicts the dispatch.
  Run it again; if it comes back, the program that wrote it has a bug.
RCPT-PARITY-REQUIRED: no passed parity
  A speed without a passed parity verdict (--require-parity).
  Run it again without --no-parity; kparity probe names the gate that fails.
RCPT-CONTRACT: judged by another contract
  The contract that judged is not the probe's, or of another major version than the one here.
  Verify with a release that has that major version of the contract, or run it again with this one.
RCPT-RANGE: a value that cannot be
  A cosine is beyond 1, a count is negative or no whole number, a distance is negative.
  Run it again; if it comes back, the program that wrote it has a bug.
RCPT-LOGITS: logits that were not drawn
  The logits are not at the drawn positions, tokens and entries, or two backends that passed tell different ones.
  Run it again with --receipt, and the nonce that was given; a receipt is never edited.
RCPT-GATE: a gate that does not follow
  A gate's limit is not the contract's, its verdict does not follow from its value, or it is none of the probe's.
RCPT-GATES-MISSING: gates are missing
  A passed verdict lacks gates that the contract's probe always measures.
  Run it again with the full probe (--depth full).
RCPT-OUTPUT: the timed output is wrong
  The output of the timed run was not verified, or was wrong.
  Find the kernel with kparity probe and kparity check on the same backend.
RCPT-DETERMINISM: not repeatable
  Repeated runs differ, or nothing was repeated, and the verdict is PASS.
  Look for a race or an order that changes; with too few repeats, give more --seconds.
RCPT-ERRORS: it says itself that it does not count
  It says itself that a run or a measurement does not count.
  See the quoted error.
# The figures.
RCPT-FLOOR: faster than memory
  A sample is faster than the memory can deliver the bytes of a token.
  Measure on an idle machine, so that the bandwidth of the same run is the real one; else a clock is wrong.
RCPT-BANDWIDTH: bytes or bandwidth that cannot be
  The bandwidth is not that of its samples, or a token's bytes are not those of the model's sizes.
RCPT-RECOMPUTED: a figure that does not follow
  A figure is not what the raw samples give.
RCPT-INTERVAL: an interval that does not follow
  An interval is not one that a bootstrap of the raw samples can give.
RCPT-SAMPLES: samples of no clock
  The samples are all the same, or a few values in turn: no clock gives that.
  Write samples as the clock gives them: never rounded or repeated.
"""
_REFUSAL = re.compile(r"^(RCPT-[A-Z-]+): (.+)\n  (.+)\n(?:  (.+)\n)?", re.MULTILINE)

REFUSALS = {code: Reason(title, cause, remedy or _AGAIN) for code, title, cause, remedy in _REFUSAL.findall(_TEXT)}
"""Code → title, cause and remedy (``kparity explain CODE``)."""
