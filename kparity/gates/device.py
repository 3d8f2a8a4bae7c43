"""Whether a GPU computed, by what its driver counts of the process, judged by the parent: no word of the backend's."""

from __future__ import annotations

from kparity.contracts import Contract
from kparity.device.adapter import DeviceInfo
from kparity.device.usage import Evidence, Reading
from kparity.gates.verdict import Gate, GpuProof, Measure

Walk = tuple[Evidence, Evidence]
"""Before and after a stage that does nothing but steps."""
LEAST_NS = 100_000_000
"""Time on processors that is compared: ten of the ticks in which systems count it."""


def judged(
    info: DeviceInfo, evidence: Evidence, model_bytes: int, claimed_ns: float, contract: Contract,
    required: bool = False, walk: Walk | None = None,
) -> tuple[GpuProof, list[str], Gate | None]:  # fmt: skip
    """The verdict of ``proved``, what it rests on, and the gate that refuses it where that must be; ``required`` takes
    what is verified alone.
    """
    place = info.uuid.removeprefix("pci ") if info.uuid.startswith("pci ") else ""
    verdict, lines = proved(evidence, model_bytes, claimed_ns, contract, walk, place.lower())
    if not info.identified:
        lines.append("identity unknown: it tells neither UUID nor bus, and another card of its model is no other to it")
    gate, why = None, "; ".join(lines)
    if verdict == "refuted":
        told = f"{info.device} claims to be a GPU, its driver says otherwise: {why}"
        gate = Gate("device", "FAIL", code="KP-FALSE-GPU", reason=told)
    elif verdict == "not verified" and required:
        told = f"not verified that {info.device} computes on a GPU, which is required: {why}"
        gate = Gate("device", "FAIL", code="KP-NOT-VERIFIED", reason=told)
    return verdict, lines, gate


def proved(
    evidence: Evidence, model_bytes: int, claimed_ns: float, contract: Contract, walk: Walk | None = None,
    place: str = "",
) -> tuple[GpuProof, list[str]]:  # fmt: skip
    """The verdict, and what it rests on in words.

    ``claimed_ns`` is what the backend says that its device has worked at least, ``place`` the PCI address of that
    device, where it is known: what is counted on another one is not looked at. Refuted is who has no device file
    open, of whom a driver counts too little time or memory, or whose every device file is of a driver that counts no
    work. Verified is of whom a driver counts enough; that it counts nothing, or not this, is neither, nor is time that
    does not fit what the process has spent on processors meanwhile.
    """
    if evidence.files is None:
        return "not verified", ["the system does not tell which files its process has open"]
    if not evidence.files:
        return "refuted", ["its process has no device file of a GPU driver open"]
    lines, measures = [f"open: {', '.join(evidence.files)}"], list[Measure]()
    readings = [each for each in evidence.readings if not place or each.place in ("", place)]

    def held(bytes_: int, by: str) -> bool:
        measures.append(Measure.of(contract, "device_memory", bytes_ / model_bytes))
        lines.append(f"{by} {bytes_} bytes, {measures[-1].text()} of the model's")
        return measures[-1].holds

    worked = [each for each in readings if each.worked]
    time = sum(each.busy_ns or 0 for each in worked)
    if time:
        measures.append(Measure.of(contract, "device_busy", time / max(claimed_ns, 1.0)))
        lines.append(f"{_names(worked)}: busy for {time / 1e6:.3g} ms, {measures[-1].text()} of what it says itself")
    if told := [each.memory for each in worked if each.memory is not None]:
        held(max(told), f"{_names(worked)}: holds")
    if measures and not all(each.holds for each in measures):
        return "refuted", lines
    if measures:
        idle = _beside(walk, contract) if time else None
        lines += [f"in steps busy for {idle.text()} of its process's time on processors"] if idle else []
        return "verified" if idle is None or idle.holds else "not verified", lines
    for each in readings:
        if each.worked is None and each.memory is not None and held(each.memory, f"{_names([each])}: holds"):
            return "verified", lines
    rest = [each for each in readings if each.worked is False]
    if rest and not evidence.silent:
        return "refuted", [*lines, f"{_names(rest)}: counted no work of its process"]
    went = [each for each in evidence.left if place in ("", each[0])]
    if any(held(size, f"memory in use of {card}: came and went with its process:") for card, size in went):
        return "verified", lines
    return "not verified", [*lines, "no driver counts enough time or memory for its process"]


def _beside(walk: Walk | None, contract: Contract) -> Measure | None:
    """Time on engines against time on processors of steps alone; None where that is not told, or too short to tell."""
    if walk is None or walk[0].cpu_ns is None or walk[1].cpu_ns is None:
        return None
    spent = walk[1].cpu_ns - walk[0].cpu_ns
    if spent < LEAST_NS:
        return None
    return Measure.of(contract, "device_share", (walk[1].busy_ns - walk[0].busy_ns) / spent)


def _names(readings: list[Reading]) -> str:
    return ", ".join(dict.fromkeys(f"{each.source} {each.place}".strip() for each in readings))
