"""What the tensors hold: scales, rows, codes and norms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from kparity.doctor.patient import Patient
from kparity.doctor.record import Finding, Verdict
from kparity.doctor.structure import some
from kparity.model import soundness
from kparity.model.census import Seen, seen
from kparity.model.gguf_file import GgufFile, TensorInfo
from kparity.model.inspection import norm_statistics
from kparity.model.tensors import load_vector
from kparity.model.types import I2_S, READABLE, TQ2_0, TensorType
from kparity.ops.spec import Array

LEAST, MOST = 0.01, 0.98
"""Shares of a code that trained weights do not leave: an encoder that lost a sign, or rounded all to zero, does."""
SKEW = 0.2
"""By how much of all nonzero weights -1 and +1 may differ in number; in trained models they are even to a few %."""
INVERSE = 4.0
"""A scale of a whole tensor from here on is likelier the inverse of one: weights of a layer are smaller than 1."""
DEAD = 0.01
"""Share of a tensor's rows that may be zero."""


def findings(patient: Patient) -> Iterator[Finding]:
    """Of all tensors whose type is known."""
    if patient.file is None:
        return
    file, inside = patient.file, [each for each in patient.placed.values() if each.end <= patient.file.n_bytes]
    looked = {each.name: seen(file, each) for each in inside if each.type.ternary}
    kinds = {each.name: each.type for each in inside}
    yield _scales(file, inside)
    yield _spans(looked)
    yield _codes(looked, kinds)
    yield _rows(looked, {each.name: each.rows for each in inside})
    yield _norms(patient, inside)


def _scales(file: GgufFile, inside: list[TensorInfo]) -> Finding:
    item, known = "scales", [each for each in inside if each.type in READABLE or each.type.scale_at >= 0]
    faults = soundness.found_in(file, known)
    worst: Verdict = "wrong" if any(each.fatal for each in faults) else "doubtful"
    if faults:
        told = "; ".join(f"{each.tensor}: {each.reason}" for each in faults[:3])
        return Finding(item, worst, told + (f"; {len(faults) - 3} more" if len(faults) > 3 else ""))
    values = {each.name: _largest(file, each) for each in known if each.type.ternary}
    beside = {each.name: float(load_vector(file, each)[0]) for each in known if each.name.endswith("scale")}
    large = [f"{name} = {value:.4g}" for name, value in (values | beside).items() if value >= INVERSE]
    if large:
        return Finding(item, "doubtful", f"{some(large)}: the inverse of a scale? One converter divides by it")
    if not values:
        return Finding(item, "not applicable", "no ternary tensor that can be read")
    span = f"{min(values.values()):.4g} to {max(values.values()):.4g}"
    apart = f", {len(beside)} tensors of scales beside" if beside else ""
    return Finding(item, "ok", f"finite; the largest of each of {len(values)} ternary tensors is {span}{apart}")


def _spans(looked: dict[str, Seen]) -> Finding:
    """For how many weights a scale counts, whatever the type of the tensor would allow."""
    if not looked:
        return Finding("spans", "not applicable", "no ternary tensor that can be read")
    counts = Counter(each.span for each in looked.values())
    told = ", ".join(
        f"{count} with {f'a scale for {span} weights' if span else 'one scale'}"
        for span, count in sorted(counts.items())
    )
    return Finding("spans", "ok", told)


def _largest(file: GgufFile, tensor: TensorInfo) -> float:
    """The largest scale of a ternary tensor."""
    if tensor.type is I2_S:
        at = tensor.rows * tensor.shape[0] // 4
        return float(file.data(tensor)[at : at + 4].view("<f4")[0])
    blocks = file.data(tensor).reshape(-1, tensor.type.block_bytes)
    at = tensor.type.scale_at
    return float(blocks[:, at : at + 2].copy().view("<f2").max())


def _codes(looked: dict[str, Seen], kinds: dict[str, TensorType]) -> Finding:
    item = "codes"
    total = sum((each.codes for each in looked.values()), np.zeros(4, np.int64))
    if not total.any():
        return Finding(item, "not applicable", "no ternary tensor that can be read")
    shares = total / total.sum()
    told = ", ".join(f"{code} {share:.1%}" for code, share in zip(("-1", "0", "+1"), shares, strict=False))
    told += f" of {total.sum()} weights"
    third = [name for name, each in looked.items() if each.codes[3]]
    if third:
        count, names = int(total[3]), {kinds[name] for name in third}
        if TQ2_0 in names:
            return Finding(item, "wrong", f"{told}; code 3 stands {count} times in {some(third)}: no weight of TQ2_0")
        means = (
            "0 to bitnet.cpp, and no packer writes it"
            if I2_S in names
            else "+2, which is legal and rare: kernels differ"
        )
        return Finding(item, "doubtful", f"{told}; code 3 stands {count} times in {some(third)}: it is {means}")
    odd = [name for name, each in looked.items() if _odd(each.codes)]
    if odd:
        return Finding(item, "doubtful", f"{told}; {some(odd)}: a code is missing, or -1 and +1 are far from even")
    return Finding(item, "ok", f"{told}; no +2")


def _odd(codes: Array) -> bool:
    shares = codes[:3] / codes.sum()
    return bool(shares.min() < LEAST or shares.max() > MOST or abs(shares[0] - shares[2]) > SKEW * (1 - shares[1]))


def _rows(looked: dict[str, Seen], rows: dict[str, int]) -> Finding:
    if not looked:
        return Finding("rows", "not applicable", "no ternary tensor that can be read")
    dead = {name: each.zero_rows for name, each in looked.items() if each.zero_rows}
    many = [f"{name} ({count} of {rows[name]})" for name, count in dead.items() if count > DEAD * rows[name]]
    if many:
        return Finding("rows", "doubtful", f"rows of zeros in {some(many)}")
    return Finding("rows", "ok", f"{sum(dead.values())} rows of zeros in {sum(rows[name] for name in looked)}")


def _norms(patient: Patient, inside: list[TensorInfo]) -> Finding:
    """As ``kparity model inspect`` judges them."""
    width = patient.keys.get(f"{patient.arch}.embedding_length")
    norms = [each for each in inside if each.name.endswith("norm.weight") and each.type in READABLE]
    if patient.file is None or not norms or not isinstance(width, int) or width < 1:
        return Finding("norms", "not applicable", "no norm that can be read")
    statistics = {each.name: norm_statistics(load_vector(patient.file, each), width) for each in norms}
    bad = [f"{name}: {each['reason']}" for name, each in statistics.items() if each["verdict"] != "OK"]
    if bad:
        fatal = any(each["not_finite"] for each in statistics.values())
        return Finding("norms", "wrong" if fatal else "doubtful", some(bad))
    return Finding("norms", "ok", f"{len(norms)}, each of a root mean square of ordinary size")
