"""The proof of a GPU at its limits, and each sentence that it rests on."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kparity import contracts
from kparity.backends.cpu import CpuBackend
from kparity.device.usage import Evidence, Reading
from kparity.gates.device import judged, proved

CONTRACT = contracts.load(contracts.PROBE)
CARD = "0000:0b:00.0"
BUSY = Reading("amdgpu", CARD, True, 2_000_000, 500)
AMD, OTHER = f"amdgpu {CARD}", "0000:01:00.0"
NOTHING = "no driver counts enough time or memory for its process"
OPEN = ("/dev/dri/renderD128",)


def of(*readings: Reading, **more: Any) -> Evidence:
    return Evidence(OPEN, readings=readings, **more)


def busy(share: str, who: str = AMD) -> str:
    return f"{who}: busy for 2 ms, {share} ≥ 0.1 of what it says itself"


def holds(share: str, who: str = AMD) -> str:
    return f"{who}: holds {share} ≥ 0.5 of the model's"


def went(share: str, card: str = CARD) -> str:
    return f"memory in use of {card}: came and went with its process: {share} ≥ 0.5 of the model's"


@pytest.mark.parametrize(("evidence", "verdict", "lines"), [
    (Evidence(None), "not verified", ["the system does not tell which files its process has open"]),
    (Evidence((), readings=(BUSY,)), "refuted", ["its process has no device file of a GPU driver open"]),
    (of(BUSY), "verified", [busy("0.1"), holds("500 bytes, 0.5")]),
    (of(replace(BUSY, busy_ns=1_999_000)), "refuted", [busy("0.09995"), holds("500 bytes, 0.5")]),
    (of(replace(BUSY, memory=499)), "refuted", [busy("0.1"), holds("499 bytes, 0.499")]),
    (of(replace(BUSY, busy_ns=1_000_000), replace(BUSY, busy_ns=1_000_000, memory=3, source="xe", place="")),
     "verified", [busy("0.1", f"{AMD}, xe"), holds("500 bytes, 0.5", f"{AMD}, xe")]),
    (of(replace(BUSY, busy_ns=None)), "verified", [holds("500 bytes, 0.5")]),
    (of(replace(BUSY, memory=None)), "verified", [busy("0.1")]),
    (of(replace(BUSY, worked=None)), "verified", [holds("500 bytes, 0.5")]),
    (of(replace(BUSY, worked=None, memory=499)), "not verified", [holds("499 bytes, 0.499"), NOTHING]),
    (of(replace(BUSY, worked=False)), "refuted", [f"{AMD}: counted no work of its process"]),
    (of(replace(BUSY, worked=False), silent=("/dev/kfd",)), "not verified", [NOTHING]),
    (of(left=((CARD, 500),)), "verified", [went("500 bytes, 0.5")]),
    (of(left=((CARD, 499), (OTHER, 400))), "not verified",
     [went("499 bytes, 0.499"), went("400 bytes, 0.4", OTHER), NOTHING]),
    (of(), "not verified", [NOTHING]),
])  # fmt: skip
def test_what_counts_as_proof(evidence: Evidence, verdict: str, lines: list[str]) -> None:
    opened = [f"open: {OPEN[0]}"] if evidence.files else []
    assert proved(evidence, 1000, 2e7, CONTRACT) == (verdict, [*opened, *lines])


def test_another_card_is_not_looked_at() -> None:
    there, elsewhere = (
        of(BUSY, left=((CARD, 500),)),
        of(replace(BUSY, place=OTHER), left=(("0000:01:00.0", 500),)),
    )
    assert proved(there, 1000, 2e7, CONTRACT, place=CARD)[0] == "verified"
    assert proved(elsewhere, 1000, 2e7, CONTRACT, place=CARD)[0] == "not verified"
    assert proved(of(replace(BUSY, place="")), 1000, 2e7, CONTRACT, place=CARD)[0] == "verified"
    assert proved(of(BUSY), 1000, 0.0, CONTRACT)[0] == "verified", "nothing was claimed"


@pytest.mark.parametrize(("cpu", "busy", "verdict"), [
    (100_000_000, 1_000_000, "verified"), (100_000_000, 999_000, "not verified"), (99_999_999, 0, "verified"),
    (None, 0, "verified"), (100_000_000, 0, "not verified"), (10_000_000_000, 100_000_000, "verified"),
])  # fmt: skip
def test_time_on_engines_fits_that_on_processors(cpu: int | None, busy: int, verdict: str) -> None:
    before = of(replace(BUSY, busy_ns=7_000), cpu_ns=5_000)
    after = of(replace(BUSY, busy_ns=7_000 + busy), cpu_ns=None if cpu is None else 5_000 + cpu)
    found, lines = proved(of(BUSY), 1000, 2e7, CONTRACT, (before, after))
    assert found == verdict and lines[-1].startswith("in steps busy for ") is (cpu is not None and cpu >= 10**8)
    assert proved(of(replace(BUSY, busy_ns=None)), 1000, 2e7, CONTRACT, (before, after))[0] == "verified"
    assert proved(of(BUSY), 1000, 2e7, CONTRACT, (replace(before, cpu_ns=None), after))[0] == "verified"


@pytest.mark.parametrize(("evidence", "required", "code", "said"), [
    (of(BUSY), True, "", ""), (of(), False, "", ""),
    (of(), True, "KP-NOT-VERIFIED", "not verified that card computes on a GPU, which is required: open: "),
    (Evidence(()), False, "KP-FALSE-GPU", "card claims to be a GPU, its driver says otherwise: its process has no"),
    (Evidence(()), True, "KP-FALSE-GPU", "card claims to be a GPU"),
])  # fmt: skip
@pytest.mark.parametrize("uuid", ["", f"pci {CARD.upper()}"])
def test_a_claim_is_refused_where_it_must_be(
    evidence: Evidence, required: bool, code: str, said: str, uuid: str
) -> None:
    info = replace(CpuBackend().info, kind="gpu", device="card", uuid=uuid)
    verdict, lines, gate = judged(info, evidence, 1000, 2e7, CONTRACT, required)
    assert verdict == proved(evidence, 1000, 2e7, CONTRACT)[0]
    assert (lines[-1].startswith("identity unknown")) is not info.identified
    assert (gate.code if gate else "") == code and (not gate or gate.reason.startswith(said))
    other = judged(info, of(replace(BUSY, place=OTHER)), 1000, 2e7, CONTRACT)[0]
    assert other == ("not verified" if uuid else "verified")
