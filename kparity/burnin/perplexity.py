"""Perplexity of two engines on one text, and whether the second may differ so much from the first."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from kparity import contracts
from kparity.burnin.stats import Judged, Stats, finite
from kparity.engines.base import Engine
from kparity.errors import WrongInput
from kparity.host import files, progress
from kparity.ladder.prompts import built_in
from kparity.ladder.stream import rows_of
from kparity.numerics.logits import log_total
from kparity.numerics.perplexity import difference, perplexity, windows
from kparity.ops.spec import Array
from kparity.receipts.cutover import Gate, State, target

LONGEST = 64 << 20
"""Bytes of a text."""
Bos = Literal["first", "each"]
"""BOS at the beginning of the text, or of every window; in either case where the model wants one."""


class Plan(msgspec.Struct, frozen=True):
    """What is read: at most ``tokens`` ids, in windows of ``window`` positions that begin ``stride`` tokens apart."""

    tokens: int
    window: int
    stride: int
    bos: Bos


class Scored(msgspec.Struct):
    """An engine on a text: the negative log-likelihood, in nats, of every token but the first; None where it is not
    finite (a likelihood of 0, or NaN), and ``ppl`` with it.
    """

    engine: str
    version: str
    model: str
    vocab: int
    ppl: float | None
    nll: list[float | None]


class Perplexity(Judged):
    """``delta`` is the perplexity of the candidate minus that of the reference, with the 95 % interval of a paired
    bootstrap, None where they are not finite; ``ids`` the start of the SHA-256 of the token ids, ``why`` what the
    verdict rests on.
    """

    why: str
    reference: Scored
    candidate: Scored
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    limit: float
    scored: int
    plan: Plan
    ids: str
    text: str
    contract: str
    schema: str = "kparity-ppl-v1"


def text_of(path: str | None) -> tuple[str, str]:
    """A text and its name; the built-in one is no text that a model of kparity was trained on."""
    if path is None:
        return built_in(), "built-in"
    text = files.read_text(path, "a text", LONGEST)
    return text, f"{Path(path).name}, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def score(engine: Engine, ids: Sequence[int], plan: Plan) -> Scored:
    """An engine on token ids; raises WrongInput where it does not tell how likely one is."""
    facts, found = engine.facts, list[float | None]()
    again = plan.bos == "each" and facts.add_bos and facts.bos >= 0
    parts = list(windows(len(ids), plan.window - again, plan.stride))
    rows = rows_of(facts)
    with progress.task(f"{facts.name}: perplexity", len(ids) - 1) as task:
        for begin, end, first in parts:
            fed = [*([facts.bos] if again and begin else []), *ids[begin:end]]
            shift = len(fed) - (end - begin) - begin  # where a token of the text stands in what is fed
            engine.reset()
            for at in range(0, len(fed) - 1, rows):
                logits = engine.score(fed[at : min(at + rows, len(fed) - 1)])
                for place, row in enumerate(logits, at + 1):
                    if place - shift >= first:
                        found.append(finite(_nll(engine, row, fed[place], place - shift)))
            task.done = len(found)
    return Scored(facts.name, facts.version, facts.model, facts.vocab, finite(perplexity(_of(found))), found)


def _of(nll: Sequence[float | None]) -> Array:
    """[tokens], NaN for what is not finite."""
    return np.asarray(nll, np.float64)


def _nll(engine: Engine, row: np.ndarray, token: int, place: int) -> float:
    """Of a token in nats, infinite where the logits are not finite."""
    if engine.facts.gives == "logits":
        return log_total(row) - float(row[token]) if np.isfinite(row).all() else math.inf
    if np.isnan(row[token]):
        told, vocab = engine.facts.gives.partition(":")[2], engine.facts.vocab
        raise WrongInput(
            f"{engine.facts.name} tells {told} of {vocab} log-probabilities, and not that of token {place}; ask for "
            f"all by ?probs={vocab}, where it gives them"
        )
    return -float(row[token])


def ids_of(text: str, engines: Sequence[Engine], plan: Plan) -> list[int]:
    """Ids of the beginning of a text, the same for all; raises WrongInput where their tokenizers differ."""
    found = [engine.tokenize(text)[: plan.tokens] for engine in engines]
    for engine, ids in zip(engines, found, strict=True):
        if ids != found[0]:
            at = next((at for at, (a, b) in enumerate(zip(found[0], ids, strict=False)) if a != b), len(ids))
            raise WrongInput(
                f"{engine.facts.name} has other tokens than {engines[0].facts.name} from position {at} on; name two "
                "that read a text alike"
            )
    if len(found[0]) < 2:
        raise WrongInput(f"the text has {len(found[0])} tokens; give one of at least {plan.tokens}")
    return found[0]


def compared(reference: Scored, candidate: Scored, ids: Sequence[int], plan: Plan, text: str) -> Perplexity:
    """The verdict on two engines that read the same ids."""
    judge = contracts.load(contracts.CUTOVER)
    verdict, why, (delta, low, high) = judged(reference, candidate)
    return Perplexity(
        verdict, why, reference, candidate, finite(delta), finite(low), finite(high),
        judge.threshold("ppl_delta").value, len(ids) - 1, plan, digest(ids), text, f"{judge.id} {judge.version}",
    )  # fmt: skip


def judged(reference: Scored, candidate: Scored) -> tuple[State, str, tuple[float, float, float]]:
    """The verdict, why, and the difference with its interval, from what every token cost."""
    judge, (before, after) = contracts.load(contracts.CUTOVER), (_of(side.nll) for side in (reference, candidate))
    found = difference(before, after)
    limit, least, noise = (judge.threshold(name) for name in ("ppl_delta", "ppl_tokens", "ppl_noise"))
    (delta, low, high), tokens, ppl = found, len(before) + 1, perplexity(before)
    span = f"Δ {delta:+.4f}, 95 % {low:+.4f} to {high:+.4f}"
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    if not np.isfinite(before).all():
        return "INCONCLUSIVE", "the reference's likelihoods are not finite: nothing is held against it", found
    if not noise.holds(ppl / reference.vocab):
        return "INCONCLUSIVE", (
            f"the reference predicts nothing: its perplexity of {ppl:.4g} is near the vocabulary of "
            f"{reference.vocab}; give a text of the model's language, or the weights that belong to its tokenizer"
        ), found  # fmt: skip
    if not (math.isfinite(low) and math.isfinite(high)):
        return "FAIL", "the candidate's likelihoods are not finite", found
    if not limit.holds(nearest):
        return "FAIL", f"{span}: beyond ±{limit.value:g}", found
    if not least.holds(tokens):
        why = f"{span}; {tokens} tokens are fewer than {least.value:.0f}: give more, by --tokens and a longer text"
        return "INCONCLUSIVE", why, found
    if not limit.holds(max(abs(low), abs(high))):
        wanted = tokens * ((high - low) / 2 / max(abs(limit.value - abs(delta)), 1e-9)) ** 2  # it narrows as 1/√tokens
        more = f"some {wanted:.2g} tokens would tell, if it stays so" if wanted < LONGEST else "no text would tell"
        return "INCONCLUSIVE", f"{span}: on both sides of ±{limit.value:g}; {more}", found
    return "PASS", f"{span}: within ±{limit.value:g}", found


def gate(found: Perplexity) -> Gate:
    """The gate of a cutover: judged again, from what every token cost."""
    limit = contracts.load(contracts.CUTOVER).threshold("ppl_delta")
    verdict, why, (delta, low, high) = judged(found.reference, found.candidate)
    needs = "" if verdict == "PASS" else why
    return Gate(limit.id, target(limit), finite(delta), verdict, finite(low), finite(high), needs)


def weigh(found: Stats, document: Perplexity) -> None:
    """Let the JSON of ``kparity ppl`` be a gate of a burn-in, whose v1 was its reference."""
    found.weigh(gate(document), document.reference.ppl, document.candidate.ppl)


def digest(ids: Sequence[int]) -> str:
    """The start of the SHA-256 of token ids."""
    return hashlib.sha256(np.asarray(ids, "<i8").tobytes()).hexdigest()[:16]


WHAT, LARGEST = "the JSON of kparity ppl", 256 << 20


def read(path: str) -> Perplexity:
    """What ``kparity ppl --json`` wrote; raises WrongInput."""
    return parse(files.read(path, WHAT, LARGEST), path)


def parse(data: bytes, path: str) -> Perplexity:
    """The same of what was read already."""
    return files.parse_record(data, path, Perplexity, f"not {WHAT}", "name one")


def baseline(path: str, ids: Sequence[int], plan: Plan) -> Scored:
    """The candidate of an earlier document; raises WrongInput where it read other tokens, or read them otherwise."""
    found = read(path)
    if found.ids != digest(ids) or found.plan != plan:
        raise WrongInput(
            f"{path} is of other tokens, or of other windows ({found.plan}); give the same text and options"
        )
    return found.candidate
