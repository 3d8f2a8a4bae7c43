"""Everything from outside, fuzzed: some seconds each here, KPARITY_FUZZ_SECONDS for more, and what once did harm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import absent, number
from tests.fuzz import gguf_fields, json_values
from tests.fuzz.targets import KEPT, TARGETS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("path", sorted(KEPT.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_did_harm_is_refused_in_a_sentence(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_to_begin_with_are_taken(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for seed in seeds:
        TARGETS[name].run(seed)


def test_what_is_right_comes_through_to_its_end() -> None:
    """Else the fuzzers would try nothing but refusals."""
    assert TARGETS["message"].run(next(TARGETS["message"].seeds())).accepted  # type: ignore[attr-defined]
    for seed in TARGETS["verdict"].seeds():
        assert TARGETS["verdict"].run(seed)


def test_the_mutator_of_json_keeps_its_form() -> None:
    seed = next(TARGETS["receipt"].seeds())
    mutate = json_values.mutator(lambda data, _limit: b"")
    changed = {mutate(seed, 1 << 20, draw) for draw in range(60)} - {b""}
    trees = [json.loads(each.decode("utf-8", "surrogatepass")) for each in changed]
    assert sum(isinstance(tree, dict) and tree != json.loads(seed) for tree in trees) > 35


def test_the_mutator_knows_the_numbers_of_a_header() -> None:
    seed = next(TARGETS["gguf"].seeds())
    fields = gguf_fields.fields(seed)
    assert len(fields) > 300 and {width for _, width in fields} == {1, 4, 8}
    changed = gguf_fields.mutator(lambda data, _limit: data)(seed, len(seed), 3)
    assert len(changed) == len(seed) and changed != seed


Fuzzed = dict[str, Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """The runs of the targets that were asked for, two at a time, beside other tests that run meanwhile."""
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        absent(f"atheris: {error}", "atheris")
    seconds = str(number("KPARITY_FUZZ_SECONDS", 5))

    def fuzz(name: str) -> subprocess.CompletedProcess[str]:
        command = ["nice", "-n", "5", sys.executable, "-m", "tests.fuzz", name, "--seconds", seconds]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    chosen = [each.callspec.params["name"] for each in request.session.items if "fuzzed" in each.fixturenames]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(fuzz, name) for name in chosen}


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_in_some_seconds(name: str, fuzzed: Fuzzed) -> None:
    done = fuzzed[name].result()
    assert done.returncode == 0, done.stderr[-6000:]
    assert "stat::number_of_executed_units" in done.stderr, done.stderr[-2000:]
