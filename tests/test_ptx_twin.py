"""The interpreter beside a processor: one text that nvcc compiles for both, bit for bit."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import absent
from tests.ptx_texts import launch

TEXT = Path(__file__).parent / "twin.cu"
BLOCKS, THREADS = 24, 96


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ctypes.CDLL]:
    """PTX, and the same functions as a library of the processor; neither contracts a product and a sum."""
    nvcc = shutil.which("nvcc") or absent("nvcc is not here", "nvcc")
    folder = tmp_path_factory.mktemp("twin")
    ptx, library = folder / "twin.ptx", folder / "twin.so"
    device = ["--ptx", "--fmad=false", "-arch=sm_75", "-o", ptx]
    host = ["-x", "c++", "-DHOST", "-shared", "-O1", "-cudart", "none", "-Xcompiler", "-fPIC,-ffp-contract=off",
            "-o", library]  # fmt: skip
    for options in (device, host):
        subprocess.run([nvcc, *options, TEXT], check=True, capture_output=True)
    return ptx.read_text(), ctypes.CDLL(str(library))


def test_the_processor_and_the_interpreter_have_the_same_bits(compiled: tuple[str, ctypes.CDLL]) -> None:
    ptx, library = compiled
    count, rng = BLOCKS * THREADS, np.random.default_rng(11)
    a, b = rng.integers(0, 2**32, (2, count), dtype=np.uint32)
    a[:8], b[:8] = [0, 1, 2**31, 2**32 - 1, 2**31 - 1, 0, 7, 2**31], [0, 0, 1, 2**32 - 1, 2, 5, 2**31, 2**31]
    with np.errstate(all="ignore"):
        x = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)  # NaN, infinities and denormals among them
        y = rng.standard_normal(count).astype(np.float32) * np.float32(10) ** rng.integers(-30, 30, count)
        y = y.astype(np.float32)
    x[:8], y[:8] = [0, -0.0, np.inf, np.nan, 1e-45, 3e38, 0.5, 2.5], [0, 1, 0, 1, 1e-45, 3e38, -0.5, np.inf]
    out, made = np.zeros(2 * count, np.uint32), np.zeros(2 * count, np.float32)
    wanted, right = out.copy(), made.copy()
    pointers = (each.ctypes.data_as(ctypes.c_void_p) for each in (a, b, x, y, wanted, right))
    library.twin(*pointers, ctypes.c_uint32(count))
    *_, out, made = launch(ptx, [a, b, x, y, out, made], (THREADS, 1, 1), (BLOCKS, 1, 1), sanitize=True)
    assert np.array_equal(out, wanted) and len(np.unique(out)) > count
    nan = np.isnan(right)
    assert np.array_equal(np.isnan(made), nan) and 0 < nan.sum() < count  # the bits of a NaN are each device's own
    assert np.array_equal(made[~nan].view(np.uint32), right[~nan].view(np.uint32))
