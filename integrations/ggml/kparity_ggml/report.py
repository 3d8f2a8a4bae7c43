"""The tables of docs/ggml.md.

``python -m kparity_ggml.report check.json…`` shows what ``kparity check --json`` found; ``python -m
kparity_ggml.report`` plants defects in the results of ggml's processor code and shows which criterion sees them.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kparity import ops
from kparity.check.core import check_case
from kparity.ops.spec import Array, Case
from kparity_ggml.backend import Cpu, GgmlProgram

NMSE = {"ggml_mul_mat": 5e-4, "ggml_flash_attn": 5e-4, "ggml_soft_max": 1e-6}
"""What test-backend-ops admits, of the others 1e-7 (tests/test-backend-ops.cpp at 0054f92869, ``max_nmse_err``)."""
CASES = (
    ("ggml_mul_mat", {"type": "tq2_0", "M": 64, "N": 33, "K": 512}), ("ggml_mul_mat", {"M": 64, "N": 33, "K": 512}),
    ("ggml_flash_attn", {"T": 9, "KV": 257, "H": 4, "G": 2, "D": 64}),
    ("ggml_soft_max", {"H": 4, "T": 33, "KV": 257}), ("ggml_rope", {"T": 33, "H": 4, "D": 64, "last": 4095}),
    ("ggml_rms_norm", {"T": 33, "D": 1025}), ("ggml_add", {"H": 4, "T": 33, "D": 257}),
)  # fmt: skip


def tail(y: Array) -> None:
    """The last element of the last row is not computed."""
    y.reshape(-1)[-1] = 0


def offset(y: Array) -> None:
    """The last row is written one element too far to the left."""
    row = y.reshape(-1, y.shape[-1])[-1]
    row[:] = np.roll(row, -1)


def half(y: Array) -> None:
    """Every value is rounded to f16."""
    y[:] = y.astype(np.float16)


def row(y: Array) -> None:
    """One row is zero."""
    y.reshape(-1, y.shape[-1])[y.size // y.shape[-1] // 2] = 0


def heads(y: Array) -> None:
    """Two rows, or heads of a token, are exchanged."""
    rows = y.reshape(-1, y.shape[-1])
    rows[[0, 1]] = rows[[1, 0]]


def element(y: Array) -> None:
    """One element is 2 % too large."""
    y.reshape(-1)[y.size // 3] *= np.float32(1.02)


def nothing(y: Array) -> None:
    """As the library computed it."""


DEFECTS: tuple[Callable[[Array], None], ...] = (nothing, tail, offset, half, row, heads, element)


class PlantedProgram(GgmlProgram):
    """Runs the graph and spoils the output of each launch."""

    def _run(self) -> None:
        super()._run()
        device: Planted = self.backend  # type: ignore[assignment]
        for launch in self.launches:
            output = launch.buffers[len(launch.kernel.args) - 1]
            y = device.download(output)
            right = y.copy()
            device.defect(y)
            device.errors.append(nmse(y, right))
            device.write(output, y)


class Planted(Cpu):
    """ggml's processor code with a defect behind it."""

    program = PlantedProgram
    defect: Callable[[Array], None] = staticmethod(nothing)
    errors: list[float]
    """The NMSE of each launch's output against what it was."""


def planted() -> Planted:
    """The device, without a defect yet."""
    device = Planted.open()
    assert isinstance(device, Planted)
    return device


def nmse(candidate: Array, reference: Array) -> float:
    """As test-backend-ops computes it: Σ(a − b)² / Σa², 0/0 not a number."""
    a, b = candidate.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.square(a - b).sum() / np.square(a).sum())


def seen(device: Planted, case: Case) -> tuple[bool, bool]:
    """Whether kparity sees the device's defect on any kind of input of a case, and whether the NMSE does."""
    device.errors = []
    records = check_case(device, ops.get(case.op), case)
    return any(each.outcome == "FAIL" for each in records), max(device.errors) > NMSE.get(case.op, 1e-7)


def criteria() -> Iterator[str]:
    """A line per case: who sees which defect."""
    device, words = planted(), {(0, 0): "none", (1, 0): "kparity", (0, 1): "NMSE", (1, 1): "both"}
    yield f"| case | NMSE limit | {' | '.join(defect.__name__ for defect in DEFECTS)} |"
    yield f"|---|---|{'---|' * len(DEFECTS)}"
    for name, params in CASES:
        case, found = ops.get(name).case(**params), []
        for defect in DEFECTS:
            device.defect = defect
            found.append(words[seen(device, case)])
        told = " ".join(f"{key}={value}" for key, value in params.items())
        yield f"| {name} {told} | {NMSE.get(name, 1e-7):g} | {' | '.join(found)} |"


def _by_number(place: tuple[str, str]) -> tuple[str, int]:
    return place[0], int(place[1].split()[-1])


def findings(records: list[dict[str, Any]]) -> Iterator[str]:
    """Outcomes by backend and op, what failed (the worst of each op, type and wish) and the accuracy by path."""
    counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    worst: dict[tuple[str, ...], dict[str, Any]] = {}
    paths: dict[tuple[str, ...], dict[tuple[str, str], float]] = defaultdict(dict)
    unsupported: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in records:
        counts[each["backend"], each["op"]][each["outcome"]] += each["runs"]
        about = each["params"]
        if each["outcome"] == "UNSUPPORTED":
            unsupported[each["backend"], each["reason"]].append(each["case"])
        if not each["outputs"]:
            continue
        kind = str(about.get("type", about.get("kv", about.get("mode", ""))))
        used = each["outputs"][0]
        key = each["backend"], each["op"], kind
        if each["outcome"] == "FAIL" and used["utilisation"] > worst.get(key, {"used": 0.0})["used"]:
            worst[key] = {**each, "used": used["utilisation"]}
        if (
            "[B=1,K=512," in each["case"]
            and ",N=33,R=1,layout=plain," in each["case"]
            and about["M"] in (1, 8, 9)
            and each["kind"] == "random"
        ):
            paths["MUL_MAT, NMSE", kind, about["prec"]][each["backend"], f"M = {about['M']}"] = used["nmse"]
        if each["op"] == "ggml_rope":
            path = paths["ROPE, largest error", f"base {about['base']:g}", ""]
            place = (each["backend"], f"to {about['last']}")
            path[place] = max(path.get(place, 0.0), used["max_abs"])
    yield "| backend | op | PASS | FAIL | UNSUPPORTED | SKIPPED |\n|---|---|---|---|---|---|"
    for (backend, op), found in counts.items():
        numbers = " | ".join(str(found[word]) for word in ("PASS", "FAIL", "UNSUPPORTED", "SKIPPED"))
        yield f"| {backend} | {op} | {numbers} |"
    for (backend, reason), cases in unsupported.items():
        yield f"\n{backend}: {reason}\n"
        yield from (f"- `{case}`" for case in cases)
    yield "\n| device | case, kind and inputs | wrong | worst: got | want | error | limit | NMSE | times the peer |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for each in worst.values():
        y = each["outputs"][0]
        case = f"`{each['case']}` {each['kind']} {each['inputs_sha256'][:16]}"
        yield (
            f"| {each['device']} | {case} | {y['wrong']} of {y['count']} | {y['got']:.6g} | {y['want']:.6g} | "
            f"{y['error']:.2e} | {y['limit']:.2e} | {y['nmse']:.1e} | {y['peer_ratio']:.3g} |"
        )
    for what in sorted({key[0] for key in paths}):
        rows = {key: value for key, value in paths.items() if key[0] == what}
        places = sorted({place for value in rows.values() for place in value}, key=_by_number)
        yield f"\n| {what} | {' | '.join(' '.join(place) for place in places)} |\n|---|{'---|' * len(places)}"
        for key, value in rows.items():
            cells = " | ".join(f"{value[place]:.1e}" if place in value else "" for place in places)
            yield f"| {' '.join(key[1:]).strip()} | {cells} |"


def main(paths: list[str]) -> None:
    """Print the tables."""
    documents = [json.loads(Path(path).read_text("utf-8")) for path in paths]
    records = [record for document in documents for record in document["records"]]
    for line in findings(records) if paths else criteria():
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
