"""Mutants of the harness: a fixed sample of them is noticed, and the tool that runs them can tell."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("cosmic_ray", reason="cosmic-ray is not installed")

from tools import harness_mutants as tool


def test_a_sample_of_the_mutants_of_the_gates_is_noticed() -> None:
    words = ("--only", "kparity/gates/p", "--sample", "6")
    done = subprocess.run(
        [sys.executable, "-m", "tools.harness_mutants", *words], cwd=tool.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " of 6 noticed, 0 survivors unknown" in done.stdout


@pytest.mark.parametrize(("limit", "code"), [(60, 1), (1e-3, None)])
def test_a_change_is_seen_by_the_tests_of_its_fork_alone(limit: float, code: int | None) -> None:
    class Doubled(tool.Mutant, frozen=True):
        def text(self) -> str:
            return (tool.ROOT / self.path).read_text(encoding="utf-8").replace("gap <= 2 * noise", "gap <= 6 * noise")

    tests = ["tests/test_harness.py::test_a_tie_is_near_within_twice_the_noise"]
    mutant = Doubled("kparity/gates/decode.py", "core/NumberReplacer", 0, b"")
    assert tool.exit_code(tests, mutant, limit) == code
    if code:
        assert tool.exit_code(tests, None, limit) == 0


def test_annotations_are_no_places_and_a_place_has_one_mutant_a_kind() -> None:
    path = tool.ROOT / "kparity" / "gates" / "reset.py"
    found = [*tool.mutants_of(path, "1")]
    assert found == [*tool.mutants_of(path, "1")] != [*tool.mutants_of(path, "2")] and len(found) > 20
    for mutant in found:
        assert mutant.change.startswith("kparity/gates/reset.py: ") and " → " in mutant.change
        assert not mutant.change.split(" → ")[0].endswith("-> Gate:")
