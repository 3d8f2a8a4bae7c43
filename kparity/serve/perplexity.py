"""Perplexity of a text: exp of the mean negative log-likelihood of its tokens, in windows.

Every window of ``window`` positions begins ``stride`` tokens behind the one before it, on an empty cache. A token is
scored once, in the first window that has it; the first token of all has nothing before it and is not scored. BOS stands
at the beginning of the text alone, where the model wants one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kparity.numerics.perplexity import perplexity as exp_of_mean
from kparity.numerics.perplexity import windows
from kparity.serve.forms import PplForm, Sampling
from kparity.serve.problem import wrong
from kparity.serve.service import Service

MOST_WINDOWS = 128


class Perplexity(msgspec.Struct):
    """The answer; ``nll`` in nats, of each scored token in ``token_nll`` where that was asked for."""

    ppl: float
    nll: float
    scored: int
    tokens: int
    window: int
    stride: int
    bos: bool
    model: str
    system_fingerprint: str
    token_nll: list[float] | None = None


async def perplexity(service: Service, form: PplForm) -> Perplexity:
    """Raises Problem."""
    if (form.text is None) == (form.tokens is None):
        raise wrong("give either text or tokens", "text")
    bos, room = service.tokenizer.bos, service.room()
    tokens = service.checked(form.tokens if form.text is None else await service.encoded(form.text), "text")  # type: ignore[arg-type]
    window = form.window or room
    stride = form.stride or max(1, window // 2)
    if window > room:
        raise wrong(f"window is {window}, this server has room for {room} positions", "window")
    if stride >= window:
        raise wrong(f"stride is {stride}; it must be smaller than the window of {window}", "stride")
    if len(tokens) < 2:
        raise wrong("one token has no perplexity; give more text", "text")
    parts = list(windows(len(tokens), window, stride))
    nll = list[float]()
    for at in range(0, len(parts), MOST_WINDOWS):
        nll += await _scored(service, tokens, parts[at : at + MOST_WINDOWS])
    mean = math.fsum(nll) / len(nll)
    return Perplexity(
        exp_of_mean(nll), mean, len(nll), len(tokens), window, stride, tokens[0] == bos, service.name,
        service.fingerprint, nll if form.details else None,
    )  # fmt: skip


async def _scored(service: Service, tokens: list[int], parts: Sequence[tuple[int, int, int]]) -> list[float]:
    """Negative log-likelihoods of some windows, in their order."""
    pieces = [tokens[begin:end] for begin, end, _ in parts]
    asks = service.asks(pieces, Sampling(temperature=0.0), 0, 0, echo=True)
    writings = service.begun(asks, (), [0] * len(asks))
    async for _ in service.written(writings):
        pass
    found = list[float]()
    for (begin, _, first), writing in zip(parts, writings, strict=True):
        found += [-told.logprob for told in writing.prompt[first - begin - 1 :]]
    return found
