"""Machine code is read rightly, and that of the kernels shows what their comments promise, on every target.

The listings under ``tests/listings`` are of ``tiny.cu`` there, small enough to count by hand. The gates compile and
need no device: nvcc and the wheel ``nvidia-cuda-nvdisasm``, or clang; where one is missing they are skips, and failures
where ``KPARITY_REQUIRE`` names ``nvcc`` or ``clang``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import json as coding

from kparity import ops
from kparity.errors import Unavailable, WrongInput
from tests.conftest import absent
from tools import machine_table, predicted
from tools.machine import Kind, Measures, Step, isa, measure, sass
from tools.machine.limits import Limits, limits
from tools.machine.occupancy import lanes
from tools.toolchains import Resources, Target, compilers

LISTINGS = Path(__file__).parent / "listings"
READERS = {"sm_90.sass": sass.steps, "gfx942.s": isa.steps, "gfx1201.s": isa.steps}


def tiny(listing: str) -> dict[str, list[Step]]:
    return READERS[listing]((LISTINGS / f"tiny.{listing}").read_text(encoding="utf-8"))


@pytest.mark.parametrize("listing", READERS)
def test_small_kernels_measure_what_a_person_counts(listing: str) -> None:
    found = {entry: measure(steps) for entry, steps in tiny(listing).items()}
    assert set(found) == {"together", "chained", "looped"}
    together, chained, looped = (found[name] for name in ("together", "chained", "looped"))
    assert (together.in_flight, together.stream, together.kept) == (2, 2, 2)
    assert (together.rounds, together.late, together.barriers) == (1, 0, 1)
    assert (chained.in_flight, chained.rounds, chained.late, chained.barriers) == (1, 2, 1, 0)
    lines = {"sm_90.sass": 12, "gfx942.s": 9, "gfx1201.s": 10}[listing]  # from the label to the branch back
    assert (looped.in_flight, looped.stream, looped.per_load, looped.rounds) == (1, 1, lines, 1)


@pytest.mark.parametrize("listing", READERS)
def test_waits_name_the_loads_that_must_have_arrived(listing: str) -> None:
    steps = tiny(listing)["together"]
    loads = [at for at, step in enumerate(steps) if step.bytes]
    assert [steps[at].bytes for at in loads] == [16, 16, 16]
    assert [steps[at].streamed for at in loads] == [False, True, True]
    waits = [sorted(step.waits) for step in steps if step.waits]
    assert waits[0] == loads[:1], "the activations alone, before they are stored"
    assert sorted(at for each in waits for at in each) == loads, "each is waited for once"
    share = next(at for at, step in enumerate(steps) if step.kind is Kind.SHARE)
    assert loads[-1] < share and not steps[share].waits - set(loads[:1])


def test_a_load_that_sinks_behind_a_wait_is_seen() -> None:
    """The listing of ``together`` with its last load moved behind the store to shared memory."""
    steps = tiny("gfx942.s")["together"]
    loads = [at for at, step in enumerate(steps) if step.bytes]
    moved = [step for at, step in enumerate(steps) if at != loads[-1]]
    share = next(at for at, step in enumerate(moved) if step.kind is Kind.SHARE)
    text = "\n".join(
        step.text.replace("vmcnt(2)", "vmcnt(1)")
        for step in [*moved[: share + 1], steps[loads[-1]], *moved[share + 1 :]]
    )
    head = '.amdgcn_target "amdgcn-amd-amdhsa--gfx942"\ntogether: ; @together\n'
    found = measure(isa.steps(f"{head}{text}\n .section end\n")["together"])
    assert (found.stream, found.kept, found.rounds) == (2, 1, 2)


def test_control_bits() -> None:
    # wait for 0, 2 and 5; operands count none; the result counts 3; yields; 1 cycle
    assert sass.control((0b100101 << 11 | 7 << 8 | 3 << 5 | 1 << 4 | 1) << 41) == (3, frozenset({0, 2, 5}))
    assert sass.control((7 << 8 | 7 << 5 | 5) << 41) == (None, frozenset())


def line(at: int, text: str, counts: int = 7, waits: int = 0) -> str:
    high = (waits << 11 | 7 << 8 | counts << 5) << 41
    return f"        /*{at:04x}*/ {text} ; /* 0x{0:016x} */\n /* 0x{high:016x} */\n"


def test_a_counted_wait_leaves_the_last_loads_under_way() -> None:
    text = '\t.section\t.text.k,"ax",@progbits\n'
    text += "".join(line(16 * at, f"LDG.E.128 R{4 * at}, desc[UR4][R2.64]", counts=1) for at in range(3))
    text += line(48, "DEPBAR.LE SB1, 0x2") + line(64, "FADD R1, R1, R2", waits=2) + line(80, "EXIT")
    steps = sass.steps(text)["k"]
    assert [sorted(step.waits) for step in steps] == [[], [], [], [0], [1, 2], []]
    with pytest.raises(WrongInput, match="nvdisasm -c -hex"):
        sass.steps(text.replace("\n /* 0x", "\n /* 1x"))
    with pytest.raises(WrongInput, match="no section of code"):
        sass.steps("")
    with pytest.raises(WrongInput, match="no entry point"):
        isa.steps("")


def test_limits_refuse_each_finding() -> None:
    good = Measures(in_flight=8, stream=8, kept=8, rounds=1, late=0, per_load=50.0, barriers=1)
    limit = Limits(8, 8, 1, "F0")
    assert limit.failures(good) == []
    for bad in ({"in_flight": 7}, {"kept": 0}, {"rounds": 2}, {"late": 1}):
        wrong = Measures(**{name: bad.get(name, getattr(good, name)) for name in good.__dataclass_fields__})
        assert len(limit.failures(wrong)) == 1
    assert limits(ops.get("add").cases()[0]) is None


def test_what_a_multiprocessor_holds() -> None:
    def room(arch: str, registers: int, shared: int, block: int) -> int:
        return lanes(Target(arch), Resources("k", registers, None, shared, 0, 0), block)

    assert room("sm_90", 128, 0, 128) == 512 and room("sm_90", 129, 0, 128) == 384, "registers come by eight a lane"
    assert room("sm_90", 32, 0, 64) == 32 * 64 and room("sm_80", 16, 0, 1024) == 2048
    assert room("sm_120", 16, 0, 512) == 1536
    assert room("sm_120", 16, 49 * 1024, 128) == 256, "100 KiB, and one of each group for the system"
    found = Resources("k", 100, 30, 0, 0, 0, 5)
    assert lanes(Target("gfx942", 64), found, 64) == 5 * 4 * 64 and lanes(Target("gfx1100"), found, 128) == 256


def test_a_predicted_launch_is_what_a_person_reckons() -> None:
    case = ops.get("tgemv").case(M=1, N=2560, K=2560)
    (stage,) = ops.get("tgemv").stages(case, "gpu")
    groups, block = stage.launch.groups[0], stage.launch.block
    load, wait = Step("load", Kind.LOAD, 16, True), Step("wait", waits=frozenset((0, 1)))
    steps = [load, load, wait, Step("barrier", Kind.BARRIER), Step("branch", back=3)]
    nbytes = ops.get("tgemv").work(case).bytes
    assert nbytes == 2560 * 2560 // 4 + 2560 + 4 * 2560
    found = predicted.part(case, stage, 3, steps, 2 * block, 0)
    # Every group is there at once, 32 bytes of each lane under way for 0.6 µs: that is slower than the memory here.
    at_once = min(groups, 2 * 132)
    assert found.stream == pytest.approx(nbytes / min(3e12, at_once * block * 32 / 0.6e-6, 132 * 110e9))
    assert (found.count, found.latency, found.rest) == (3, 0.6e-6, pytest.approx(0.3e-6))
    assert found.each == pytest.approx(1.2e-6 + 0.6e-6 + 0.3e-6 + found.stream)
    assert predicted.part(case, stage, 1, steps, block // 2, 0).stream == pytest.approx(found.stream * at_once / 132)


@pytest.mark.parametrize(("m", "groups", "trips", "ended"), [(32, 432, 3, 3 * 432), (512, 108 * 16, 10, 3 * 108 * 16)])
def test_a_predicted_prefill_is_what_a_person_reckons(m: int, groups: int, trips: int, ended: int) -> None:
    """Tiles of 32 rows whose waves share ten blocks of K, and of 128: 64 products and 100 instructions a block."""
    case = ops.get("tgemv").case(M=m, N=13824, K=2560)
    (stage,) = ops.get("tgemv").stages(case, "gpu")
    load, product, branch = Step("load", Kind.LOAD, 16, True), Step("IMMA.16832.S8.S8 R0"), Step("branch", back=0)
    steps = [*[load] * 4, *[product] * 64, *[Step("other")] * 31, branch]
    found = predicted.many(case, steps, 0)
    rows = 13824 * (m // 32) // groups
    assert found["second level"] == pytest.approx(groups * 2560 * (rows / 4 + 32) / 5.5e12)
    turns = -(-groups // 132) * 4 * trips
    assert found["matrix cores"] == pytest.approx(turns * 64 * 16 * 8 * 32 / (0.62 * 4096) / 1.755e9)
    assert found["instructions"] == pytest.approx(turns * 100 / 4 / 1.755e9)
    assert found["ended"] == pytest.approx(ended * 0.5e-9)
    part = predicted.part(case, stage, 1, steps, 384, 0)
    assert part.stream == max(each for name, each in found.items() if name != "ended") and part.bound == "second level"
    assert part.least == pytest.approx(max(m * 13824 * 2560 * 2 / 1979e12, predicted.bytes_of(case, 0) / 3.35e12))


def test_the_prediction_of_the_document_is_that_of_the_receipt() -> None:
    text = machine_table.DOCS.read_text(encoding="utf-8")
    receipt = coding.decode(predicted.RECEIPT.read_bytes(), type=predicted.Receipt)
    table = predicted.table(receipt)
    assert machine_table.between(text, predicted.BEGIN, predicted.END, table) == text, "python -m tools.predicted"


def opened(target: Target) -> tuple[compilers.Nvcc | compilers.Clang, Callable[[str], dict[str, list[Step]]]]:
    """The compiler for a target, and the reader of its listings."""
    label = "nvcc" if target in machine_table.CUDA else "clang"
    try:
        found = (compilers.Nvcc if label == "nvcc" else compilers.Clang)()
        if label == "nvcc":
            compilers.nvdisasm()
    except Unavailable as missing:
        absent(f"{label}: [{missing.code}] {missing}", label)
    return found, sass.steps if label == "nvcc" else isa.steps


@pytest.mark.compile
@pytest.mark.parametrize("target", (*machine_table.CUDA, *machine_table.HIP), ids=lambda target: target.name)
def test_machine_code_meets_the_limits(target: Target) -> None:
    opened(target)
    found = [machine_table.read(case, target) for case in machine_table.cases()]
    assert len(found) == len(machine_table.cases()) > 8
    assert machine_table.failures(machine_table.Half("", False, found)) == []


MATRIX = {
    **dict.fromkeys(machine_table.CUDA, ("IMMA.16832.S8.S8", 16 * 8 * 32)),
    Target("gfx90a", 64): ("v_mfma_i32_16x16x16i8", 16 * 16 * 16),
    Target("gfx942", 64): ("v_mfma_i32_16x16x32_i8", 16 * 16 * 32),
    Target("gfx1100"): ("v_wmma_i32_16x16x16_iu8", 16 * 16 * 16),
    Target("gfx1151"): ("v_wmma_i32_16x16x16_iu8", 16 * 16 * 16),
    Target("gfx1201"): ("v_wmma_i32_16x16x16_iu8", 16 * 16 * 16),
    Target("gfx1100", 64): ("no such instruction for 64 lanes here", 0),
    Target("gfx1030"): ("no such instruction", 0),
}
"""Target → its instruction of matrix cores, and the products of one."""


@pytest.mark.compile
@pytest.mark.parametrize("target", MATRIX, ids=lambda target: target.name)
def test_many_rows_are_multiplied_on_matrix_cores(target: Target) -> None:
    """All products of a block of 256 columns, 32 rows and 32 tokens, by that instruction; none where there is one."""
    toolchain, steps = opened(target)
    (instruction, each), op = MATRIX[target], ops.get("tgemv")
    for tokens in (32, 1):
        _, listing = toolchain.machine_code(toolchain.source(op.case(M=tokens, N=13824, K=2560), target), target)
        code = steps(listing)["tgemv"]
        found = sum(step.text.startswith(instruction) for step in code)
        assert found == measure(code).products == (32 * 32 * 256 // each if each and tokens == 32 else 0)


# The receipt and the document.


def test_what_was_before_fails_and_what_is_now_passes() -> None:
    receipt = machine_table.stored()
    assert receipt.schema == machine_table.SCHEMA and receipt.before is not None
    assert machine_table.failures(receipt.now) == []
    said = machine_table.failures(receipt.before)
    for finding in ("F1 F2 F3", "F4", "F5", "F6"):
        assert any(line.endswith(f"({finding})") for line in said), f"{finding}: a limit that nothing failed"
    wanted = {(case.id, target.name) for case in machine_table.cases()
              for target in (*machine_table.CUDA, *machine_table.HIP)}  # fmt: skip
    for half in (receipt.before, receipt.now):
        assert {(row.case, row.target) for row in half.rows} == wanted and len(half.commit) == 40


def test_the_table_of_the_document_is_that_of_the_receipt() -> None:
    text = machine_table.DOCS.read_text(encoding="utf-8")
    stored = machine_table.table(machine_table.stored())
    assert machine_table.between(text, machine_table.BEGIN, machine_table.END, stored) == text, (
        "tools.machine_table --docs"
    )
