"""The NEON kernels, built for AArch64 and executed by an emulated processor: the cases of every op.

Each is judged as on any backend, by its op's bounds against fp64 truth; and where a set has no say in the order of
sums, its bits are those of the portable kernels, of that build and of this machine's.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kparity.backends.cpu import CpuBackend
from kparity.device.adapter import filled
from kparity.errors import Unavailable
from kparity.mutate import native
from kparity.numerics.compare import Comparison
from kparity.ops.spec import DTYPES, Array, Case, Op
from tests.conftest import needing
from tests.test_cpu import CASES, exact, launch

ROOT = Path(__file__).resolve().parent.parent
Findings = Callable[[Case, str, Callable[[Op, Case, list[Array]], list[Array]]], list[Comparison]]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SOURCES = ("csrc/isa_neon.cpp", "csrc/isa_scalar.cpp", "csrc/kernel.cpp", "tests/kernels_by_themselves.cpp")


class Driver:
    """``kernels_by_themselves.cpp``, running on a processor that has the dot products of ARMv8.2."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [EMULATOR, "-cpu", "max", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def launch(self, isa: str, op: Op, case: Case, inputs: list[Array], threads: int = 1) -> list[Array]:
        """Outputs of a case, poisoned before; what is only read must stay as it was."""
        given, args = iter(inputs), op.args(case)
        arrays = [filled(arg.shape, arg.dtype, 0xFF) if arg.role == "out" else next(given) for arg in args]
        sent = [np.ascontiguousarray(array).tobytes() for array in arrays]
        defines = {name: float(value) for name, value in op.defines(case).items()}
        lines = [f"{isa} {op.name} {threads} {len(defines)} {len(sent)}", *(f"{k} {v!r}" for k, v in defines.items())]
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n".join([*lines, " ".join(str(len(each)) for each in sent), ""]).encode())
        self.process.stdin.writelines(sent)
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said == b"ok\n", f"{case.id}: {said!r}"
        found = [self.process.stdout.read(len(each)) for each in sent]
        for arg, before, after in zip(args, sent, found, strict=True):
            assert arg.role != "in" or before == after, f"{case.id}: {arg.name} was written over"
        return [
            np.frombuffer(raw, DTYPES[arg.dtype]).reshape(arg.shape)
            for arg, raw in zip(args, found, strict=True)
            if arg.role != "in"
        ]

    def close(self) -> None:
        """End it."""
        self.process.communicate()


def built(folder: Path, root: Path) -> Path:
    """The program from the sources below ``root``, compiled as a wheel's are."""
    shared = [COMPILER, "-std=c++17", "-O3", "-DNDEBUG", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    objects = [folder / f"{Path(source).stem}.o" for source in SOURCES]
    builds = [
        subprocess.Popen([*shared, *native.flags(made.stem), "-c", root / source, "-o", made])
        for source, made in zip(SOURCES, objects, strict=True)
    ]
    assert [each.wait(300) for each in builds] == [0] * len(builds)
    subprocess.run([COMPILER, "-static", *objects, "-o", folder / "program"], check=True)
    return folder / "program"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Of these sources."""
    with needing("qemu"):
        for name, package in ((COMPILER, "g++-aarch64-linux-gnu libc6-dev-arm64-cross"), (EMULATOR, "qemu-user")):
            if shutil.which(name) is None:
                raise Unavailable(f"{name} is not on PATH", f"apt-get install {package}", "KP-IMPORT")
    with closing(Driver(built(tmp_path_factory.mktemp("neon"), ROOT))) as found:
        yield found


@pytest.fixture(scope="module")
def portable() -> Iterator[CpuBackend]:
    """The kernels in plain C++, on this machine."""
    with closing(CpuBackend("scalar", 1)) as backend:
        yield backend


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.id for _, case in CASES])
def test_every_kind_of_input_is_within_the_bounds(op: Op, case: Case, driver: Driver, findings: Findings) -> None:
    for kind in op.kinds(case):
        for found in findings(case, kind, lambda op, case, inputs: driver.launch("neon", op, case, inputs)):
            assert found.ok, str(found)


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.id for _, case in CASES])
def test_threads_change_no_bit_and_sets_no_integer(op: Op, case: Case, driver: Driver, portable: CpuBackend) -> None:
    inputs = op.inputs(case, np.random.default_rng(case.seed()))
    neon, scalar = (driver.launch(isa, op, case, inputs) for isa in ("neon", "scalar"))
    shared, here = driver.launch("neon", op, case, inputs, threads=3), launch(portable, op, case, inputs)
    outputs = (arg for arg in op.args(case) if arg.role != "in")
    for arg, a, b, c, d in zip(outputs, neon, shared, scalar, here, strict=True):
        assert a.tobytes() == b.tobytes(), f"{arg.name} depends on the number of threads"
        if exact(op, arg):
            assert a.tobytes() == c.tobytes() == d.tobytes(), f"{arg.name} differs between the sets"


WRONG = {
    "tgemv": ("vshrq_n_u8(words, 4)", "vshrq_n_u8(words, 3)"),
    "act_quant": ("vcvtnq_s32_f32", "vcvtmq_s32_f32"),  # rounds down, not to the nearest
    "glu": ("vrndnq_f32(x)", "x"),
}
"""An op → a text of simd_neon.h and what makes that op wrong."""


def test_wrong_texts_are_rejected(tmp_path: Path, driver: Driver, findings: Findings) -> None:
    others = shutil.ignore_patterns("*.py", "__pycache__", "*.cu", "*.wgsl")
    for part in ("csrc", "kernels"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=others)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / SOURCES[-1], tmp_path / SOURCES[-1])
    header = tmp_path / "csrc/simd_neon.h"
    text = header.read_text("utf-8")
    for before, after in WRONG.values():
        assert text.count(before) == 1
        text = text.replace(before, after)
    header.write_text(text, "utf-8")
    rejected = set()
    with closing(Driver(built(tmp_path, tmp_path))) as wrong:
        for op, case in CASES:
            if op.name in WRONG and op.name not in rejected:
                found = findings(case, "random", lambda op, case, inputs: wrong.launch("neon", op, case, inputs))
                rejected |= {op.name for each in found if not each.ok}
    assert rejected == WRONG.keys()
