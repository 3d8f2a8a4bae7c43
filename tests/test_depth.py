"""How deep a probe reaches: faults of late positions, and what may be served of them."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import kparity
from kparity import ops
from kparity.errors import Refused
from kparity.gates import filled
from kparity.gates.edges import at_edges
from kparity.model.writer import TINY, write
from kparity.plain import logits
from tests.cli import LIARS, TAG, run
from tests.liars.kparity_liars import Honest

PROVED = "proved to position"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a context of 4,096."""
    path = tmp_path_factory.mktemp("long") / "long.gguf"
    write(path, dataclasses.replace(TINY, context=4096))
    return path


@pytest.mark.parametrize(("liar", "words"), [
    ("late-replay", r"\[KP-DEPTH\] \d+ logits differ between the recording and its launches one by one"),
    ("last-part", r"\[KP-DEPTH\] cosine"), ("ring", r"\[KP-DEPTH\] cosine vs plain fp64 = .* of 4096"),
])  # fmt: skip
def test_a_late_fault_is_rejected(liar: str, words: str, long: Path) -> None:
    model = ("--model", str(long)) if liar == "ring" else ()
    done = run("probe", "-b", f"liar-{liar},cpu", *model, liars=True)
    assert re.match(rf"\[{TAG}\] liar-{liar} path rejected, attempting fallback: {words}", done.stderr), done.stderr
    assert f"), {PROVED} {4095 if model else 511}\n" in done.stderr and done.returncode == 1


def test_one_lost_key_behind_a_part_is_outside_the_bound_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LIARS))
    op, last_part = ops.get("attention"), import_module("kparity_late_liars").LastPart
    for rows in (1, 32):
        case = op.case(M=rows, L=512, H=4, G=2, D=64)
        for backend, good in ((Honest.open(), True), (last_part.open(), False)):
            backend.rows, backend.parts = range(1, 33), range(384, 385)  # type: ignore[attr-defined]
            found = at_edges(backend.build(op, case), op, case, 512)
            assert all(each.ok for each in found) is good and len(found) == 2


@pytest.mark.parametrize("context", [2, 100, 129, 512, 1000, 4096, 131072])
def test_spans_end_at_the_last_position_and_none_reads_what_one_before_it_stored(context: int) -> None:
    spans = filled.spans([0, 5, 6, 7], context, seed=1)
    assert max(span.end for span in spans) == context == filled.edges(context)[-1] + 1
    written: set[int] = set()
    for span in spans:
        assert 0 <= span.start < span.end <= context and not written & set(range(span.start))
        written |= set(range(span.start, span.end))
    powers = {each for bit in range(7, 17) if (each := 1 << bit) < context}
    assert {each - side for each in powers for side in (0, 1)} <= {
        span.start for span in spans if len(span.tokens) == 1
    }


def test_what_stands_behind_a_given_cache_is_what_stands_behind_the_tokens_that_made_it() -> None:
    tokens, kept = [0, *range(300, 340)], list[tuple[np.ndarray, np.ndarray]]()

    def keep(layer: int, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept.append((keys, values))
        return keys, values

    walked = logits(None, tokens, act="token", kv="f16", past=keep)
    spans = [filled.Span(at, tokens[at:end]) for at, end in ((40, 41), (33, 40), (17, 18))]
    given = logits(None, [0], act="token", kv="f16", spans=spans, past=lambda layer, keys, values: kept[layer])
    for row, span in zip(given.logits[1:], spans, strict=True):
        np.testing.assert_allclose(row, walked.logits[span.end - 1], rtol=0, atol=1e-9)


def test_nothing_is_served_beyond_what_was_proved_unless_told(long: Path) -> None:
    words = ("run", "-b", "cpu", "--prompt", "In the beginning", "--max-tokens", "3")
    done = run(*words, "--depth", "bos")
    assert done.returncode == 3 and "cpu is proved to position 0, and " in done.stderr, done.stderr
    assert run(*words, "--depth", "bos", "--beyond-proof").returncode == 0
    chosen = kparity.select("cpu", model=long, context=64, log=lambda line: None)
    assert chosen.rows[0].proved == 63 and chosen.engine.context == 64, "the least that the contract asks for"
    chosen.close()
    chosen = kparity.select("cpu", depth="bos", log=lambda line: None)
    chosen.engine.step(0)
    with pytest.raises(Refused, match="proved to position 0, and 2 tokens reach position 1"):
        chosen.engine.step(1)
    chosen.close()
    assert "--context 513 is more than the 512 positions" in run("probe", "-b", "cpu", "--context", "513").stderr


def test_the_embedded_context_is_said_to_be_that() -> None:
    assert (
        "proved to position 255 of the embedded model (--model proves yours)"
        in run("probe", "-b", "cpu", "--context", "256").stdout
    )
