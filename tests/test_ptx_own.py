"""``kparity check --cuda``: somebody's own kernel, the one of ``examples/own_cuda``, right and wrong in many ways."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.check.formula import calculated
from kparity.check.own_cuda import OwnBackend, backends, read
from kparity.check.record import FAIL, PASS, UNSUPPORTED, Record
from kparity.device import registry
from kparity.errors import KparityError
from kparity.ops.spec import Case
from tests.cli import run
from tests.conftest import needing

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "own_cuda"
TEXT, MAP = (FOLDER / f"ternary_gemv{ending}" for ending in (".cu", ".yaml"))
OP = ops.get("tgemv")
KERNEL = ("--kernel", "ternary_gemv", "--op", "tgemv")
BARRIER = "        __syncthreads(); /* this tile is there */"
Edited = Callable[..., Path]


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    """A copy of a file in which each piece, which is there once, is another one; its lines stay."""

    def edit(source: Path, *changes: tuple[str, str]) -> Path:
        text = source.read_text(encoding="utf-8")
        for before, after in changes:
            assert text.count(before) == 1
            text = text.replace(before, after)
        target = tmp_path / source.name
        target.write_text(text, encoding="utf-8")
        return target

    return edit


def judged(text: Path, case: Case, mapping: Path | None = MAP, kinds: tuple[str, ...] = ("random",)) -> list[Record]:
    """The records of the kernel at one case, with everything watched."""
    own = read(str(text), "ternary_gemv", "tgemv", str(mapping) if mapping else None)
    with needing("cuda-ptx"):
        registry.open_backend("cuda-ptx").close()
    device = own.adapter("cuda-ptx").open(sanitize=True)
    assert isinstance(device, OwnBackend)
    try:
        return check_case(device, OP, case, kinds=kinds)
    finally:
        device.close()


CASES = [OP.case(M=m, N=n, K=k) for m, n, k in ((1, 1, 1), (1, 3, 257), (3, 17, 768), (9, 33, 640), (2, 5, 2560))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_right_kernel_passes(case: Case) -> None:
    records = judged(TEXT, case, kinds=("random", "opposed", "one_hot", "nan"))
    assert [(each.outcome, each.reason) for each in records] == [(PASS, "")] * 4
    assert {each.kernel for each in records} == {"tgemv_ptx_own_dp4a"}


def test_a_case_that_the_mapping_leaves_out_is_unsupported() -> None:
    (record,) = judged(TEXT, OP.case(M=1, N=3, K=257, out="i32"))
    assert record.outcome == UNSUPPORTED and str(MAP) in record.reason


def test_a_planted_race_is_found_with_both_lines(edited: Edited) -> None:
    text = edited(TEXT, (BARRIER, ""))
    (record,) = judged(text, CASES[1])
    lines = text.read_text(encoding="utf-8").split("\n")
    places = [int(line) for line in re.findall(rf"{re.escape(str(text))}:(\d+)", record.reason)]
    assert record.outcome == FAIL and "race on active" in record.reason and len(places) == 2
    assert "x = active[" in lines[places[0] - 1] and "active[i] =" in lines[places[1] - 1]


WRONG = [
    ("y[token * rows + row] =", "y[token * rows + row + 1] =", "write of 4 bytes at byte 12 of y, which has 12"),
    ("if (lane == 0 && row < rows)", "if (lane == 0)", "write of 4 bytes at byte 12 of y, which has 12"),
    ("words - first)", "words - first) - 1", "elements outside their limit"),
    ("acc = __dp4a((int)0xFFFFFFFF", "if (s) acc = __dp4a((int)0xFFFFFFFF", "elements outside their limit"),
    ("half > 0; half", "half > 1; half", "elements outside their limit"),
]
"""An off-by-one store, a store without its bound, a tail that is lost, a wrong decoder, half of a sum."""


@pytest.mark.parametrize(("before", "after", "reason"), WRONG)
def test_a_wrong_kernel_is_rejected(edited: Edited, before: str, after: str, reason: str) -> None:
    (record,) = judged(edited(TEXT, (before, after)), CASES[1 if "byte" in reason else 2])
    assert record.outcome == FAIL and reason in record.reason


def test_without_a_mapping_the_op_says_how_it_is_called(tmp_path: Path) -> None:
    text = tmp_path / "plain.cu"
    text.write_text(
        """extern "C" __global__ void ternary_gemv(const unsigned* w, const float* wscale, const signed char* q,
                const float* ascale, const int* qsum, float* y) {
            if (threadIdx.x % LANES) return;
            const int n = blockIdx.x * ROWS + threadIdx.x / LANES;
            for (int m = blockIdx.y * TILE_M; n < N && m < M && m < (blockIdx.y + 1) * TILE_M; ++m) {
                int acc = -qsum[m];
                for (int k = 0; k < KP; ++k)
                    acc += (w[n * WORDS + k / 16] >> (8 * (k % 4) + 2 * (k % 16 / 4)) & 3) * q[m * KP + k];
                y[m * N + n] = (float)acc * (ascale[m] * wscale[0]);
            }
        }""",
        encoding="utf-8",
    )
    records = judged(text, CASES[3], None, ("random", "opposed"))
    assert [(each.outcome, each.reason) for each in records] == [(PASS, "")] * 2


def test_the_command_passes_the_right_kernel(tmp_path: Path) -> None:
    with needing("cuda-ptx"):
        registry.open_backend("cuda-ptx").close()
    found = tmp_path / "found.json"
    given = ("--cuda", str(TEXT), *KERNEL, "--map", str(MAP), "-b", "cuda-ptx", "--quick", "-k", "K=768, and random")
    done = run("check", *given, "--sanitize", "--perturb", "--json", str(found))
    assert done.returncode == 0 and "in the place of tgemv, on cuda-ptx" in done.stderr
    document = json.loads(found.read_text(encoding="utf-8"))
    assert document["request"]["own"]["kernel"] == "ternary_gemv" and document["request"]["own"]["map"] == str(MAP)
    assert {each["outcome"] for each in document["records"]} == {PASS, UNSUPPORTED}


def test_what_fails_is_kept_and_runs_again_by_its_line(edited: Edited, tmp_path: Path) -> None:
    with needing("cuda-ptx"):
        registry.open_backend("cuda-ptx").close()
    text, kept = edited(TEXT, (BARRIER, "")), tmp_path / "kept"
    given = ("--cuda", str(text), "--kernel", "ternary_gemv", "--map", str(MAP))
    done = run(
        "check", *given, "--op", "tgemv", "-b", "cuda-ptx", "--sanitize", "-k", "K=257,M=1,N=3,ascale=token and f32"
        " and wscale=tensor and random", "--quick", "--dump", str(kept),
    )  # fmt: skip
    assert done.returncode == 1
    (folder,) = kept.iterdir()
    repeated = run(*shlex.split(json.loads((folder / "dump.json").read_text(encoding="utf-8"))["rerun"])[1:])
    assert repeated.returncode == 1 and "race on active" in repeated.stdout
    assert text.read_text(encoding="utf-8") in (folder / "source.cu").read_text(encoding="utf-8")
    right = run("check", "--replay", str(folder), "--cuda", str(TEXT), *given[2:], "--sanitize")
    assert right.returncode == 0 and "1 PASS" in right.stdout


REFUSED = [
    ({}, ("--kernel", "gemv", "--op", "tgemv"), r"unknown kernel of .*_gemv\.cu 'gemv': did you mean 'ternary_gemv'"),
    ({}, ("--kernel", "ternary_gemv", "--op", "tgemm"), r"unknown op 'tgemm': did you mean 'tgemv'"),
    ({}, ("--kernel", "ternary_gemv"), r"name the one op that ternary_gemv computes"),
    ({}, ("--op", "tgemv"), r"name the kernel"),
    ({}, (*KERNEL, "-b", "cpu"), r"which cpu does not take; use cuda or cuda-ptx"),
    ({}, (*KERNEL, "--lf"), r"--lf remembers what the built-in kernels failed at"),
    ({"map": ("[q, w,", "[q, weights,")}, KERNEL, r"argument 1 is no buffer of tgemv \(w, wscale, .*'weights'"),
    ({"map": ("[q, w, y,", "[q, w,")}, KERNEL, r"y, which tgemv writes, is none of the arguments"),
    ({"map": (", N, KP", ", KP")}, KERNEL, r"ternary_gemv has 7 parameters, 6 arguments are given"),
    ({"map": (", N, KP", ", {i64: N}, KP")}, KERNEL, r"parameter 5 has 4 bytes, N \(int64\) has 8"),
    ({"map": ("(N + 3) // 4", "N / 4")}, KERNEL, r"grid is \[0\.\d+, 1\], expected 1 to 3 whole numbers"),
    ({"map": ("(N + 3) // 4", "open('x')")}, KERNEL, r"grid: .* is not taken"),
    ({"map": ("grid:", "grids:")}, KERNEL, r"unknown field `grids`|missing required field `grid`"),
    ({"map": ("block: [", "block: [[")}, KERNEL, r", line \d+: not a mapping that can be read"),
    ({"text": ("int acc = 0;", "int acc = none;")}, KERNEL, r'ternary_gemv\.cu:\d+: identifier "none" is undefined'),
    ({"text": ("half /= 2", "half /= 2.5f.")}, KERNEL, r"does not compile: .*ternary_gemv\.cu:\d+: "),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "options", "reason"), REFUSED)
def test_bad_input_is_one_sentence(
    edited: Edited, changes: dict[str, tuple[str, str]], options: tuple[str, ...], reason: str
) -> None:
    with needing("cuda-ptx"):
        registry.open_backend("cuda-ptx").close()
    text = edited(TEXT, changes["text"]) if "text" in changes else TEXT
    mapping = edited(MAP, changes["map"]) if "map" in changes else MAP
    done = run("check", "--cuda", str(text), "--map", str(mapping), *options, "--quick", "-k", "M=1,N=1,")
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(reason, done.stderr) and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("option", ["--cuda", "--map"])
def test_a_file_that_is_not_there(option: str) -> None:
    files = {"--cuda": str(TEXT), "--map": str(MAP), option: "not_there"}
    done = run("check", *(word for pair in files.items() for word in pair), *KERNEL)
    assert done.returncode == 2 and done.stderr.startswith("kparity: not_there cannot be read: ")


def test_without_nvrtc_it_says_what_to_install(tmp_path: Path) -> None:
    hidden = "import ctypes\nload = ctypes.CDLL.__init__\n"
    hidden += (
        "def refused(self, name, *more, **options):\n    if any(word in str(name) for word in ('nvrtc', 'cuda')):\n"
    )
    hidden += "        raise OSError(name)\n    load(self, name, *more, **options)\nctypes.CDLL.__init__ = refused\n"
    (tmp_path / "sitecustomize.py").write_text(hidden, encoding="utf-8")
    done = run("check", "--cuda", str(TEXT), *KERNEL, "--map", str(MAP), env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3 and len(done.stderr.strip().splitlines()) == 1
    assert "cuda-ptx: NVRTC was not found" in done.stderr and "[ptx]" in done.stderr


def test_a_gpu_is_tried_first() -> None:
    assert backends()[:2] == ["cuda", "cuda-ptx"] and len(backends()) == 2


NAMES = {"N": 10, "K": 300, "out": "f32"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(N + 3) // 4", 3), ("-N % 4", 2), ("N / 4", 2.5), ("min(N, K, 7)", 7), ("max(N, K)", 300), ("N", 10),
        ("out == 'f32' and N < K <= 300", True), ("out in ('i32', 'f16') or not N", False),
        ("1 if K > 256 else 2", 1), (4, 4),
    ],
)  # fmt: skip
def test_a_formula(text: str | int, value: object) -> None:
    assert calculated(text, NAMES) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "N.real", "[n for n in N]", "lambda: 1", "2 ** 99", "out * 9", "N // 0", "N +",
        "1e300 * 1e300", "M", "K" * 500, "(" * 399, "9" * 25, "N[0]", "f'{N}'", "min(N)", "out < 3", "(x := 3)",
        "min(N, out)", "-" * 399 + "1",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(KparityError):
        calculated(text, NAMES)
