"""A trace as an engine: what was recorded comes back bit for bit, nothing else does, and the ladder takes it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from kparity.engines.base import Engine
from kparity.engines.registry import open_here
from kparity.errors import KparityError, WrongInput
from kparity.ladder.climb import climb
from kparity.ladder.record import Settings
from kparity.model.gguf_file import embedded
from kparity.traces.capture import Wanted, capture
from tests.cli import run
from tests.test_engines_http import VOCAB, Fake, served
from tests.test_traces_files import sealed

TEXT = "And the light shined in the darkness; and the darkness comprehended it not."


def recorded(spec: str, folder: Path, text: str = TEXT, **wanted: Any) -> tuple[list[int], np.ndarray]:
    """Its tokens and logits [tokens, vocab], captured into a folder."""
    with closing(open_here(spec)) as engine:
        tokens = engine.tokenize(text)
        capture(engine, spec, tokens, folder, Wanted(**{"slots": ["logits"]} | wanted))
        engine.reset()
        return tokens, engine.score(tokens)


@pytest.mark.parametrize("spec", ["kparity:cpu", "reference", "f16"])
def test_what_was_recorded_comes_back_and_nothing_else(spec: str, tmp_path: Path) -> None:
    tokens, logits = recorded(spec, tmp_path / "t")
    engine = open_here(f"recorded:{tmp_path / 't'}")
    assert engine.facts.answers == tuple(tokens) and engine.facts.numerics == open_here(spec).facts.numerics
    assert np.array_equal(engine.score(tokens), logits)
    with pytest.raises(WrongInput, match=r"exceed the context of 24"):
        engine.step(tokens[0])
    engine.reset()
    rows = [engine.prefill(tokens[:4]), *(engine.step(token) for token in tokens[4:])]
    assert np.array_equal(np.stack(rows), logits[3:])
    engine.reset()
    with pytest.raises(WrongInput, match=rf"token 1 of what was recorded is {tokens[1]}, not 7"):
        engine.score([tokens[0], 7])
    assert np.array_equal(engine.score(tokens[:2]), logits[:2]), "a refused call feeds nothing"
    with pytest.raises(WrongInput, match="no tokenizer"):
        engine.tokenize(TEXT)


def test_a_server_is_recorded_with_what_it_does_not_tell(tmp_path: Path) -> None:
    with served(Fake()) as url:
        _, logits = recorded(f"{url}?probs=4&vocab={VOCAB}", tmp_path / "t")
    engine = open_here(f"recorded:{tmp_path / 't'}")
    assert engine.facts.gives == "logprobs:4"
    assert np.array_equal(engine.score(engine.facts.answers), logits, equal_nan=True)


def damaged(folder: Path, line: int, **changes: Any) -> None:
    """Other values in a record of a trace."""
    path = folder / "trace.jsonl"
    lines = [json.loads(each) for each in path.read_text().splitlines()]
    lines[line] |= changes
    path.write_text(sealed("".join(json.dumps(each) + "\n" for each in lines)))


def test_a_recording_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    recorded("kparity:cpu", tmp_path / "some", positions=[0, 3])
    recorded("kparity:cpu", tmp_path / "none", slots=["embd"])
    tokens, _ = recorded("kparity:cpu", tmp_path / "bits")
    with (tmp_path / "bits" / "logits.safetensors").open("r+b") as file:
        file.seek(4096)
        file.write(b"\x01")
    recorded("kparity:cpu", tmp_path / "ids")
    damaged(tmp_path / "ids", 0, tokens=[*tokens[:-1], 4096])
    for name, words in {
        "some": "no logits of all of its positions", "none": "no logits of all", "bits": "is not what was captured",
        "ids": "not of a vocabulary of 1536", "absent": "is not there", "": "no folder of a trace",
    }.items():  # fmt: skip
        with pytest.raises(KparityError, match=words):
            open_here(f"recorded:{tmp_path / name}" if name else "recorded")


def test_the_ladder_takes_the_tokens_of_a_recording(tmp_path: Path) -> None:
    """It never passes: who answers these tokens alone shows no mask and decodes nothing."""
    text = f"{TEXT} {TEXT}"  # enough positions for a median
    recorded("kparity:cpu", tmp_path / "right", text)
    settings = Settings(
        reference="reference", candidate=f"recorded:{tmp_path / 'right'}", third="", text=text, prompts=(text,),
        model=str(embedded()),
    )  # fmt: skip

    def opener(spec: str, model: str) -> Engine:
        return open_here(spec, model=model)

    found = climb(settings, opener)
    verdicts = [each.verdict for each in found.rungs]
    assert verdicts == ["PASS", "PASS", "INCONCLUSIVE", "PASS", "PASS", "INCONCLUSIVE"], found.rungs
    assert found.exit_code == 3 and found.metrics.token_count == 47
    wrong = climb(replace(settings, reference="f16", keep_going=True, overrides={"mse": 1e-9}), opener)
    assert wrong.verdict == "FAIL" and wrong.exit_code == 1


def test_statistics_alone_do_not_pass_a_wrong_engine(tmp_path: Path) -> None:
    """They see coarse defects: with other statistics and no tensors the comparison is inconclusive."""
    for name, spec in (
        ("right", "kparity:numpy"),
        ("wrong", "mutant:rope/convention-swapped"),
        ("again", "kparity:numpy"),
    ):
        done = run("trace", "capture", "-e", spec, "--tokens", "0,34,77,9,120", "-o", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    done = run("trace", "diff", str(tmp_path / "right"), str(tmp_path / "wrong"))
    assert done.returncode == 3 and "capture both with --tensors" in " ".join(done.stdout.split())
    done = run("trace", "diff", str(tmp_path / "right"), str(tmp_path / "again"))
    assert done.returncode == 0 and "every statistic is equal" in " ".join(done.stdout.split())
    assert "the autoregressive path" in " ".join(done.stdout.split())


def test_a_floor_of_other_tokens_is_refused(tmp_path: Path) -> None:
    for name, tokens in (("a", "0,34,77"), ("b", "0,34,77"), ("floor", "0,34,78")):
        done = run("trace", "capture", "-e", "kparity:cpu", "--tokens", tokens, "--tensors", "-o", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    index = tmp_path / "b" / "trace.jsonl"
    right = index.read_text()
    for said, instead, sentence in (
        ('"means":"', '"means":"before ', "record both with one version"), ('"layers":6', '"layers":5', "has layers 6"),
    ):  # fmt: skip
        assert said in right
        index.write_text(sealed(right.replace(said, instead)))
        done = run("trace", "diff", str(tmp_path / "a"), str(tmp_path / "b"))
        assert done.returncode == 2 and sentence in " ".join(done.stderr.split()), done.stderr
    index.write_text(right)
    done = run("trace", "diff", str(tmp_path / "a"), str(tmp_path / "b"), "--floor", str(tmp_path / "floor"))
    assert done.returncode == 2 and "are of other tokens" in done.stderr
    done = run(
        "trace", "capture", "-e", "kparity:cpu", "--tokens", "0,34,77", "--positions", "2-1", "-o", str(tmp_path / "c")
    )
    assert done.returncode == 2 and "ends before it begins" in done.stderr
    for tokens, status in (("0,99999", 2), ("0,34", 0)):  # what is refused is in nobody's way
        assert (
            run("trace", "capture", "-e", "kparity:cpu", "--tokens", tokens, "-o", str(tmp_path / "c")).returncode
            == status
        )
