"""What servers are asked, and where in their answers the log-probabilities stand: llama.cpp's own interface and the
completions that OpenAI defined.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Annotated

import msgspec
import numpy as np

from kparity.engines.base import Spec
from kparity.engines.http_wire import Missing, Wire
from kparity.errors import BadModel, WrongInput
from kparity.host.text import printable
from kparity.model import load_model
from kparity.ops.spec import Array

UNDERFLOW = -1000.0
"""Servers write a number below this where a probability was too small for them; then it is not known."""
SLACK = 1e-3
"""What the probabilities of one position may add up to beyond 1, and a log-probability be above 0."""


class Tokens(msgspec.Struct):
    """Of ``/tokenize``."""

    tokens: list[int]


class Candidate(msgspec.Struct):
    """A token with its log-probability."""

    id: int
    logprob: float


class Told(msgspec.Struct):
    """A position of llama.cpp's: the likeliest tokens first."""

    top_logprobs: list[Candidate]


class Completion(msgspec.Struct):
    """Of llama.cpp's ``/completion``."""

    completion_probabilities: list[Told]
    tokens_evaluated: int


MOST = 1 << 20
"""Tokens: no vocabulary has a million."""
Size = Annotated[int, msgspec.Meta(gt=0, le=MOST)]


class Settings(msgspec.Struct):
    """A part of ``/props``."""

    n_ctx: Size


class Props(msgspec.Struct):
    """Of llama.cpp's ``/props``."""

    default_generation_settings: Settings
    model_path: str
    build_info: str = "llama.cpp"


class Meta(msgspec.Struct):
    """What llama.cpp says of a model."""

    n_vocab: Size
    n_embd: Annotated[int, msgspec.Meta(ge=0)] = 0


class Served(msgspec.Struct):
    """A model of ``/v1/models``; ``max_model_len`` is vLLM's word for its context."""

    id: str
    meta: Meta | None = None
    max_model_len: Size | None = None


class Models(msgspec.Struct):
    """Of ``/v1/models``."""

    data: list[Served]


class Listed(msgspec.Struct):
    """Log-probabilities of a completion: of each token, those of the likeliest by their names. ``content`` is the other
    form of the same, which has ids.
    """

    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[Told] | None = None


class Choice(msgspec.Struct):
    """One completion."""

    logprobs: Listed | None = None


class Usage(msgspec.Struct):
    """What was counted."""

    prompt_tokens: int


class Completions(msgspec.Struct):
    """Of ``/v1/completions``."""

    choices: list[Choice]
    usage: Usage | None = None


class Dialect(ABC):
    """A way to ask for what comes next. ``model``, ``version``, ``vocab``, ``context`` and ``width`` are what the
    server says, ``""`` and 0 where it does not.
    """

    model = version = ""
    vocab = context = width = 0

    def __init__(self, wire: Wire) -> None:
        self.wire, self.spec = wire, wire.spec

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, with the tokens that the server puts before a prompt."""

    @abstractmethod
    def after(self, tokens: Sequence[int], new: int, probs: int, fresh: bool) -> Array:
        """f32 [new, vocab] of log-probabilities after each of the last ``new`` tokens of a prompt, NaN where they are
        not told; ``fresh`` asks for a computation without what the server remembers.
        """

    def row(self, candidates: Iterable[tuple[int, float]]) -> Array:
        """One position; raises WrongInput for what cannot be log-probabilities of this vocabulary."""
        found, total, seen = np.full(self.vocab, np.nan, np.float32), 0.0, set[int]()
        for token, value in candidates:
            self.known([token])
            if not value <= SLACK:
                raise self.spec.wrong(f"{value:g} is no log-probability; the server must give logarithms")
            if token in seen:
                raise self.spec.wrong(f"it tells of token {token} twice in one position")
            seen.add(token)
            total += math.exp(value)
            found[token] = value if value > UNDERFLOW else np.nan
        if not seen or total > 1 + SLACK:
            raise self.spec.wrong(
                f"the {len(seen)} probabilities of a position add up to {total:g}, expected at most 1"
            )
        return found

    def known(self, tokens: list[int]) -> list[int]:
        """The tokens; raises WrongInput for one outside of the vocabulary."""
        for token in tokens:
            if not 0 <= token < self.vocab:
                raise self.spec.wrong(f"it has a token {token}, the vocabulary is {self.vocab}; is it another model?")
        return tokens

    def counted(self, sent: int, read: int) -> None:
        """Raise WrongInput where the server read another number of tokens than it was sent: a second BOS, or a cut."""
        if sent != read:
            raise self.spec.wrong(f"it was sent {sent} tokens and read {read}; it must take token ids as they are")


class LlamaServer(Dialect):
    """llama.cpp's server: ``/completion`` with ids and ``n_probs``; every position is a request, and all but the first
    go on from what the server remembers.
    """

    def __init__(self, wire: Wire, props: Props, served: Served) -> None:
        super().__init__(wire)
        self.model, self.version, self.context = (
            props.model_path,
            props.build_info,
            props.default_generation_settings.n_ctx,
        )
        if served.meta is None:
            raise self.spec.wrong("GET /v1/models does not say n_vocab; use a newer llama.cpp")
        self.vocab, self.width = served.meta.n_vocab, served.meta.n_embd

    def tokenize(self, text: str) -> list[int]:
        """As ``Dialect.tokenize``."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        return self.known(self.wire.ask("/tokenize", Tokens, asked).tokens)

    def after(self, tokens: Sequence[int], new: int, probs: int, fresh: bool) -> Array:
        """As ``Dialect.after``."""
        rows = []
        for end in range(len(tokens) - new + 1, len(tokens) + 1):
            body = {
                "prompt": list(tokens[:end]), "n_predict": 1, "n_probs": probs, "temperature": 0.0,
                "cache_prompt": not fresh, "response_fields": ["completion_probabilities", "tokens_evaluated"],
            }  # fmt: skip
            fresh = False
            told = self.wire.ask("/completion", Completion, body)
            self.counted(end, told.tokens_evaluated)
            if not told.completion_probabilities:
                raise self.spec.wrong("POST /completion gave no probabilities; use a newer llama.cpp")
            rows.append(self.row((each.id, each.logprob) for each in told.completion_probabilities[0].top_logprobs))
        return np.stack(rows)


class OpenAi(Dialect):
    """``/v1/completions`` with token ids, ``echo`` and ``logprobs``, as vLLM and others serve it; without ``echo``
    every position is a request. ``names`` gives the id of a token that the server calls by its text.
    """

    def __init__(self, wire: Wire, served: Served, vocab: int, names: Mapping[str, int]) -> None:
        super().__init__(wire)
        self.model, self.context, self.vocab, self.names = served.id, served.max_model_len or 0, vocab, names
        self.echoes = True

    def tokenize(self, text: str) -> list[int]:
        """As ``Dialect.tokenize``."""
        return self.known(self.wire.ask("/tokenize", Tokens, {"model": self.model, "prompt": text}).tokens)

    def after(self, tokens: Sequence[int], new: int, probs: int, fresh: bool) -> Array:
        """As ``Dialect.after``; these servers cannot be asked to forget."""
        if self.echoes:
            found = self._told(tokens, probs, echo=True)
            self.echoes = len(found) == len(tokens) + 1
            if self.echoes:
                return np.stack([self._row(each) for each in found[-new:]])
        ends = range(len(tokens) - new + 1, len(tokens) + 1)
        return np.stack([self._row(self._told(tokens[:end], probs, echo=False)[0]) for end in ends])

    def _told(self, tokens: Sequence[int], probs: int, echo: bool) -> Sequence[Told | dict[str, float] | None]:
        """One entry for each position that the server tells of, the last of them after the whole prompt."""
        body = {
            "model": self.model, "prompt": list(tokens), "max_tokens": 1, "logprobs": probs, "temperature": 0.0,
            "echo": echo, "return_tokens_as_token_ids": True,
        }  # fmt: skip
        try:
            told = self.wire.ask("/v1/completions", Completions, body)
        except Missing:
            raise
        except WrongInput:
            if not echo:
                raise
            return []  # it may know no echo
        if told.usage is not None:
            self.counted(len(tokens), told.usage.prompt_tokens)
        logprobs = told.choices[0].logprobs if told.choices else None
        found = (logprobs.top_logprobs or logprobs.content) if logprobs else None
        if not found:
            raise self.spec.wrong("POST /v1/completions gave no logprobs; start the server so that it does")
        return found

    def _row(self, told: Told | dict[str, float] | None) -> Array:
        if told is None:
            raise self.spec.wrong("POST /v1/completions left a position without logprobs")
        if isinstance(told, Told):
            return self.row((each.id, each.logprob) for each in told.top_logprobs)
        return self.row((self._id(name), value) for name, value in told.items())

    def _id(self, name: str) -> int:
        head, _, number = name.partition("token_id:")
        if not head and number.isdecimal() and len(number) < 10:
            return int(number)
        if name not in self.names:
            raise self.spec.wrong(f"it calls a token {name[:40]!r}, which is no text of one token; it must tell ids")
        return self.names[name]


def dialect(wire: Wire, model: str, vocab: int) -> Dialect:
    """The one that a server speaks; ``model`` is the file that is asked what such a server does not say, unless there
    is an option ``vocab``.
    """
    spec, models = wire.spec, wire.ask("/v1/models", Models).data
    wanted = spec.options.get("model", "")
    served = next((each for each in models if each.id == wanted or not wanted), None)
    if served is None:
        names = printable(", ".join(each.id[:80] for each in models[:8])) or "none"
        raise spec.wrong(f"it serves no model {wanted!r}; it has {names}")
    try:
        props = wire.ask("/props", Props)
    except WrongInput:
        return OpenAi(wire, served, *_names(spec, model, vocab))
    return LlamaServer(wire, props, served)


def _names(spec: Spec, model: str, vocab: int) -> tuple[int, dict[str, int]]:
    """The number of tokens of a model's file, and the ids of those texts that one token alone has."""
    if "vocab" in spec.options:
        return vocab, {}
    try:
        opened = load_model(model)
    except BadModel as error:
        raise spec.wrong(f"it does not say how many tokens it has; add ?vocab=N ({error})") from None
    with closing(opened):
        texts = [opened.tokenizer.decode([token], skip_special=False) for token in range(opened.hparams.vocab)]
    count = Counter(texts)
    return len(texts), {text: token for token, text in enumerate(texts) if count[text] == 1 and "\ufffd" not in text}
