"""The packages of ``examples``: kernels in Numba and Triton, and an engine behind an interface that is not OpenAI's."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from kparity.errors import Unavailable
from tests.cli import run
from tests.conftest import needing

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
JIT, ENGINE = EXAMPLES / "own_jit", EXAMPLES / "own_engine"
FEW = "M=1,N=3 and random"
"""Few enough outputs for Triton's interpreter."""


def compiled(name: str) -> Path:
    """The kernel in this language, whose compiler is here."""
    with needing(name):
        for each in {"triton": ("triton", "torch")}.get(name, (name,)):
            if find_spec(each) is None:
                raise Unavailable(f"{each} is not installed", f"pip install {each}", "KP-IMPORT")
    return JIT / "own_gemv" / f"with_{name}.py"


@pytest.mark.parametrize("name", ["numba", "triton"])
def test_a_kernel_of_another_compiler_passes(name: str) -> None:
    done = run("check", f"{compiled(name)}:gemv", "--op", "tgemv", "--quick", "-k", FEW)
    assert done.returncode == 0 and re.search(r"PASS: [1-9]\d* PASS, 0 FAIL", done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("numba", "range(16):", "range(15):"),
        ("numba", "for n in range(w.shape[0]):", "for n in range(w.shape[0] - 1):"),
        ("triton", "2 * (e // 4)", "2 * (e // 8)"),
        ("triton", "range(0, words, BLOCK)", "range(0, words - BLOCK, BLOCK)"),
    ],
)
def test_a_wrong_one_is_rejected(tmp_path: Path, name: str, before: str, after: str) -> None:
    text = compiled(name).read_text(encoding="utf-8")
    assert text.count(before) == 1
    (tmp_path / "wrong.py").write_text(text.replace(before, after), encoding="utf-8")
    done = run("check", f"{tmp_path / 'wrong.py'}:gemv", "--op", "tgemv", "--quick", "-k", f"K=257 and {FEW}")
    assert done.returncode == 1, done.stdout + done.stderr


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The example's server; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(ENGINE / "raw_server.py"), str(port), *options])
    try:
        until = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < until:
            with socket.socket() as tried:
                if not tried.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has the engine's package, as its pyproject.toml says."""
    entry = re.search(r'entry-points."kparity.engines"\]\n(.*)\n', (ENGINE / "pyproject.toml").read_text("utf-8"))
    assert entry
    info = tmp_path / "raw_logits-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: raw-logits\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[kparity.engines]\n" + entry[1].replace('"', "") + "\n")
    return {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ENGINE)))}


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--wrong",), 1)])
def test_an_engine_behind_its_own_interface_climbs_the_ladder(
    installed: dict[str, str], options: tuple[str, ...], code: int
) -> None:
    with serving(*options) as address:
        given = ("--ref", "reference", "--cand", f"raw:{address}", "--positions", "32", "--ladder", "positions")
        done = run("ladder", *given, env=installed)
    assert done.returncode == code, done.stdout + done.stderr


def test_a_server_that_is_not_there_is_told(installed: dict[str, str]) -> None:
    done = run("ladder", "--ref", "reference", "--cand", "raw:http://127.0.0.1:9", "--ladder", "tokens", env=installed)
    assert done.returncode == 3 and "start the server" in done.stdout + done.stderr, done.stdout + done.stderr
    done = run("ladder", "--ref", "reference", "--cand", "raw:nowhere", "--ladder", "tokens", env=installed)
    assert done.returncode == 2 and "give the server's address" in done.stderr, done.stdout + done.stderr
