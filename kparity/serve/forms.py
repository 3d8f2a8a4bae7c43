"""Requests and answers in the forms that OpenAI defined, as typed records: a field that is not known, or that asks for
what there is not, is refused by its name.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from kparity.serve.messages import MOST_TOP
from kparity.serve.problem import wrong

MOST_CHOICES, MOST_STOPS, LONGEST_STOP = 128, 16, 256
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
Top = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOP)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=100)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_STOP)]
Seed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Form = TypeVar("Form")


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """``include_usage`` asks for a last event with what was counted."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of completions take. Fields of type Any must be empty, 0 or 1: there is nothing behind them."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(max_length=MOST_STOPS)] | None = None
    seed: Seed | None = None
    return_tokens_as_token_ids: bool | None = None
    user: str | None = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None

    def refuse(self, *names: str) -> None:
        """Raise Problem for a field that asks for what there is not."""
        for name in ("presence_penalty", "frequency_penalty", "logit_bias", *names):
            if getattr(self, name):
                raise wrong(f"{name} is not served here; leave it out", name)

    @property
    def stops(self) -> list[str]:
        """Stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_told(self) -> bool:
        """Whether a stream ends with what was counted."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionForm(Sampling, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions. ``prompt`` is a text, texts, token ids, or lists of them."""

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: Top | None = None
    suffix: str | None = None
    best_of: int | None = None


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a message: text alone is served."""

    type: str
    text: str = ""


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a chat."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: Any = None
    tool_calls: Any = None


class Format(msgspec.Struct):
    """``text`` alone is served."""

    type: str


class ChatForm(Sampling, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Said], msgspec.Meta(min_length=1, max_length=1000)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    response_format: Format | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None


class TokenizeForm(msgspec.Struct, forbid_unknown_fields=True):
    """POST /tokenize."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True


class DetokenizeForm(msgspec.Struct, forbid_unknown_fields=True):
    """POST /detokenize."""

    tokens: Annotated[list[int], msgspec.Meta(max_length=1 << 20)]
    model: str | None = None


class PplForm(msgspec.Struct, forbid_unknown_fields=True):
    """POST /ppl: a text, or its token ids; positions of a window, and from one window to the next."""

    text: str | None = None
    tokens: Annotated[list[int], msgspec.Meta(max_length=1 << 20)] | None = None
    window: Annotated[int, msgspec.Meta(ge=2)] | None = None
    stride: Annotated[int, msgspec.Meta(ge=1)] | None = None
    details: bool = False
    model: str | None = None


class Usage(msgspec.Struct):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(msgspec.Struct):
    """Of a completion: a list entry a token, null for a prompt's first."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(msgspec.Struct):
    """One completion, or a piece of one."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Top1(msgspec.Struct):
    """A likely token of a chat; ``bytes`` null where it is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(Top1):
    """A token of a chat, and the likeliest in its place."""

    top_logprobs: list[Top1]


class ChatLogprobs(msgspec.Struct):
    """Of a chat."""

    content: list[ChatToken]


class Reply(msgspec.Struct, omit_defaults=True):
    """A message, or what is new of it."""

    role: str | None = None
    content: str | None = None


class ChatChoice(msgspec.Struct):
    """One answer of a chat."""

    index: int
    message: Reply
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatPiece(msgspec.Struct):
    """What is new of it."""

    index: int
    delta: Reply
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class Answer(msgspec.Struct, kw_only=True):
    """A whole answer, or an event of one. ``system_fingerprint`` names version and backend."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice] | list[ChatChoice] | list[ChatPiece]
    usage: Usage | None = None


def decoded(raw: bytes, form: type[Form]) -> Form:
    """A request's body; raises Problem for what it cannot be."""
    try:
        return msgspec.json.decode(raw, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wrong(f"the body is no such request: {error}") from None
