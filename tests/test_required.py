"""What is missing is a skip with its reason, and a failure where KPARITY_REQUIRE names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kparity.errors import Unavailable, UnknownName
from tests.conftest import TOOLS, absent, needing, required

TESTS = Path(__file__).resolve().parent
OF_LLAMACPP = (
    "test_llamacpp.py::test_distributions_agree",
    "test_bench_e2e.py::test_another_c_interface_and_another_model_are_refused",
    "test_tokenizer.py::test_same_ids_as_llama_cpp[None]",
)


@pytest.mark.parametrize("tool", [*TOOLS, "hip"])
@pytest.mark.parametrize("asked", ["{}", "numpy, {}", "all"])
def test_what_is_required_fails_and_what_is_not_is_skipped(
    tool: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPARITY_REQUIRE", "numpy")
    with pytest.raises(pytest.skip.Exception, match="not there"):
        absent("not there", tool)
    monkeypatch.setenv("KPARITY_REQUIRE", asked.format(tool))
    with pytest.raises(pytest.fail.Exception, match="not there"):
        absent("not there", tool)


def test_either_of_two_names_requires_and_what_cannot_be_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPARITY_REQUIRE", "gpu")
    assert required("cuda", "gpu") and not required("cuda")
    monkeypatch.setenv("KPARITY_REQUIRE", "all")
    with pytest.raises(UnknownName, match="did you mean 'llamacpp'"):
        required("llamacp")


def test_a_wrong_number_ends_the_run_with_a_sentence() -> None:
    for value in ("abc", "-1", "1.5"):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(TESTS / "test_ops.py")],
            env={**os.environ, "KPARITY_SEED": value}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 4 and "Traceback" not in done.stdout + done.stderr
        assert f"ERROR: KPARITY_SEED is {value!r}, expected a whole number" in done.stderr


def test_only_what_is_unavailable_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KPARITY_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"llamacpp: \[KP-X\] no library; install it"), needing("llamacpp"):
        raise Unavailable("no library", "install it", "KP-X")
    with pytest.raises(OSError, match="broken"), needing("llamacpp"):
        raise OSError("broken")


@pytest.mark.parametrize(
    ("asked", "outcome", "how"),
    [("", "3 skipped", ()), ("llamacpp", "3 errors", ()), ("llamacpp", "3 errors", ("-n", "2", "--dist", "loadfile"))],
)
def test_llama_cpp_is_required_in_every_test_of_it(
    asked: str, outcome: str, how: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('taken away')\n")
    nodes = [str(TESTS / node) for node in OF_LLAMACPP]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *how, *nodes],
        env={**os.environ, "PYTHONPATH": path, "KPARITY_BACKENDS": "numpy", "KPARITY_REQUIRE": asked},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].startswith(outcome), done.stdout
    assert "[KP-LLAMACPP-NOLIB]" in done.stdout and "taken away" in done.stdout
