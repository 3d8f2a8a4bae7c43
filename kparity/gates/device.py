"""Whether a GPU computed, by what its driver counts of the process, judged by the parent: no word of the backend's."""

from __future__ import annotations

from kparity.contracts import Contract
from kparity.device.usage import Evidence, Reading
from kparity.gates.verdict import GpuProof, Measure


def proved(evidence: Evidence, model_bytes: int, claimed_ns: float, contract: Contract) -> tuple[GpuProof, list[str]]:
    """The verdict, and what it rests on in words.

    ``claimed_ns`` is what the backend says that its device has worked at least. Refuted is who has no device file
    open, of whom a driver counts too little time or memory, or whose every device file is of a driver that counts no
    work. Verified is of whom a driver counts enough; that it counts nothing, or not this, is neither.
    """
    if evidence.files is None:
        return "not verified", ["the system does not tell which files its process has open"]
    if not evidence.files:
        return "refuted", ["its process has no device file of a GPU driver open"]
    lines, measures = [f"open: {', '.join(evidence.files)}"], []

    def held(bytes_: int, by: str) -> bool:
        measures.append(Measure.of(contract, "device_memory", bytes_ / model_bytes))
        lines.append(f"{by} {bytes_} bytes, {measures[-1].text()} of the model's")
        return measures[-1].holds

    worked = [each for each in evidence.readings if each.worked]
    if worked and (time := sum(each.busy_ns or 0 for each in worked)):
        measures.append(Measure.of(contract, "device_busy", time / max(claimed_ns, 1.0)))
        lines.append(f"{_names(worked)}: busy for {time / 1e6:.3g} ms, {measures[-1].text()} of what it says itself")
    if told := [each.memory for each in worked if each.memory is not None]:
        held(max(told), f"{_names(worked)}: holds")
    if measures:
        return "verified" if all(each.holds for each in measures) else "refuted", lines
    for each in evidence.readings:
        if each.worked is None and each.memory is not None and held(each.memory, f"{_names([each])}: holds"):
            return "verified", lines
    idle = [each for each in evidence.readings if each.worked is False]
    if idle and not evidence.silent:
        return "refuted", [*lines, f"{_names(idle)}: counted no work of its process"]
    if any(held(size, f"memory in use of {place}: grew by") for place, size in evidence.grown):
        return "verified", lines
    return "not verified", [*lines, "no driver counts enough time or memory for its process"]


def _names(readings: list[Reading]) -> str:
    return ", ".join(dict.fromkeys(f"{each.source} {each.place}".strip() for each in readings))
