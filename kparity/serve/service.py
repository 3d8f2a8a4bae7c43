"""What the routes share: the model's words, the limits, and answers that are put together token by token."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kparity import __version__
from kparity.engines.chat import Chat
from kparity.model import Model
from kparity.model.tokenizer import Tokenizer
from kparity.serve.forms import MOST_CHOICES, Sampling
from kparity.serve.jobs import Again, Job, Late, Lost
from kparity.serve.messages import Ask, Told, Wrote
from kparity.serve.problem import Problem, wrong
from kparity.serve.supervisor import Supervisor
from kparity.serve.transcript import Transcript, Words

MOST_TOLD = 1 << 20
"""Log-probabilities of one answer."""
AT_ONCE = 1 << 14
"""Characters that are tokenized in the event loop; more of them in a thread."""


@dataclass(frozen=True)
class Limits:
    """Of a request: bytes of its body, tokens that it may ask for (0: what the context holds), seconds in all."""

    body: int
    tokens: int
    seconds: float


@dataclass
class Writing:
    """An answer under way: its text, and what is told of its tokens."""

    job: Job
    transcript: Transcript
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Of a quiet one, which is put into words at its end."""
    told: list[Told] = field(default_factory=list)
    prompt: list[Told] = field(default_factory=list)
    finish: str | None = None
    seen: int = 0
    """Tokens that a stream has told."""


class Service:
    """A model behind a supervisor; ``name`` is what clients call it, ``key`` what they must show (empty: nothing)."""

    def __init__(
        self, supervisor: Supervisor, model: Model, tokenizer: Tokenizer, chat: Chat | None, name: str, limits: Limits,
        key: str = "",
    ) -> None:  # fmt: skip
        self.supervisor, self.model, self.tokenizer, self.chat = supervisor, model, tokenizer, chat
        self.name, self.limits, self.key, self.words = name, limits, key, Words(tokenizer)
        self.draining = False
        self.created = int(time.time())

    @property
    def fingerprint(self) -> str:
        """Version and backend."""
        serving = self.supervisor.serving
        return f"kparity-{__version__}-{serving.backend if serving else 'none'}"

    def known(self, model: str | None) -> None:
        """Raise Problem for another model than the one that is served."""
        if model and model != self.name:
            raise Problem(404, f"there is no model {model[:100]!r}; this server has {self.name!r}", param="model",
                          kind="model_not_found")  # fmt: skip

    async def encoded(self, text: str, bos: bool = True) -> list[int]:
        """Ids of a text."""
        if len(text) <= AT_ONCE:
            return self.tokenizer.encode(text, bos)
        return await asyncio.to_thread(self.tokenizer.encode, text, bos)

    def checked(self, tokens: Sequence[Any], what: str = "prompt") -> list[int]:
        """Ids; raises Problem for no token, and for what is none of the model's."""
        vocab = self.model.hparams.vocab
        if not tokens:
            raise wrong(f"{what} has no token; give it some text", what)
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab:
                raise wrong(f"{what}: {str(token)[:40]!r} is no token id from 0 to {vocab - 1}", what)
        return [*tokens]

    def asks(
        self, prompts: Sequence[list[int]], form: Sampling, most: int | None, top: int, echo: bool = False,
    ) -> list[Ask]:  # fmt: skip
        """What the device is asked for a request, ``n`` sequences a prompt; raises Problem for what there is no room
        for. The seed is drawn here where the request has none, so that a sequence that begins anew is the same.
        """
        room, count, cap = self.room(), form.n or 1, self.limits.tokens
        temperature = 1.0 if form.temperature is None else form.temperature
        if len(prompts) * count > MOST_CHOICES:
            raise wrong(f"{len(prompts)} prompts times n = {count} are more than {MOST_CHOICES} answers at once", "n")
        if most is not None and cap and most > cap:
            raise wrong(f"max_tokens is {most}, this server gives {cap} at most", "max_tokens")
        seed = secrets.randbits(63) if form.seed is None else form.seed % (1 << 64)
        asks = list[Ask]()
        for tokens in prompts:
            if len(tokens) > room:
                raise wrong(f"the prompt has {len(tokens)} tokens, this server has room for {room} positions", "prompt")
            wanted = min(room if most is None else most, room - len(tokens) + 1, cap or room)
            asks += [Ask(0, tokens, wanted, room, temperature, form.top_p or 1.0, (seed + at) % (1 << 64), top, echo,
                         not form.stream and not form.stops and top < 0) for at in range(count)]  # fmt: skip
        told = sum((each.most + len(each.tokens) * each.echo) * (1 + max(top, 0)) for each in asks)
        if top >= 0 and told > MOST_TOLD:
            raise wrong(f"up to {told} log-probabilities are asked for, {MOST_TOLD} are told at most; ask for fewer "
                        "tokens, or fewer likeliest ones", "logprobs")  # fmt: skip
        return asks

    def room(self) -> int:
        """Positions that are served or, while the next backend is probed, were; raises Problem where none is left."""
        if self.supervisor.refused:
            raise Problem(503, "no backend is left to serve", kind="unavailable")
        return self.supervisor.positions

    def begun(self, asks: Sequence[Ask], stops: Sequence[str], offsets: Sequence[int]) -> list[Writing]:
        """Queue sequences."""
        jobs = self.supervisor.submit(asks)
        return [Writing(job, Transcript(self.tokenizer, job.ask.tokens, stops, offset))
                for job, offset in zip(jobs, offsets, strict=True)]  # fmt: skip

    async def written(self, writings: Sequence[Writing]) -> AsyncIterator[tuple[Writing, str]]:
        """Each writing that has news, with its new text, until all are over; raises Problem where one is lost or the
        time is over. What is left is cancelled.
        """
        jobs = [each.job for each in writings]
        inbox, left = jobs[0].inbox, len(jobs)
        started = time.monotonic()
        timer = asyncio.get_running_loop().call_later(self.limits.seconds, jobs[0].put, Late())
        metrics, first = self.supervisor.metrics, True
        try:
            while left:
                job, news = await inbox.get()
                writing = writings[job.index]
                if isinstance(news, Late):
                    most = self.limits.seconds
                    raise Problem(504, f"the answer took more than {most:g} s; ask for less", kind="timeout")
                if isinstance(news, Lost):
                    raise Problem(503, news.why, kind="backend_failed", headers={"Retry-After": "5"})
                if isinstance(news, Again):
                    writing.transcript = writing.transcript.anew()
                    writing.text, writing.tokens, writing.told, writing.prompt = [], [], [], []
                    continue
                if first and news.tokens and not job.ask.quiet:
                    first = False
                    metrics.first_token.add(time.monotonic() - started)
                text = self._take(writing, news)
                left -= writing.finish is not None
                yield writing, text
            metrics.seconds.add(time.monotonic() - started)
        finally:
            timer.cancel()
            self.supervisor.cancel(jobs)

    def _take(self, writing: Writing, news: Wrote) -> str:
        transcript, text = writing.transcript, list[str]()
        if writing.job.ask.quiet:
            writing.tokens += news.tokens
            if news.end:
                writing.text, writing.finish = [transcript.all_of(writing.tokens)], news.end
            return ""
        for at, token in enumerate(news.tokens):
            if transcript.stopped:
                break
            text.append(transcript.feed(token))
            writing.told += news.told[at : at + 1]
            if transcript.stopped:
                self.supervisor.enough(writing.job)
        writing.prompt += news.prompt
        if news.end:
            text.append(transcript.finish())
            writing.finish = "stop" if transcript.stopped else news.end
        writing.text += text
        return "".join(text)
