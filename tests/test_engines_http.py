"""Servers as engines: llama.cpp's own, and one that speaks as OpenAI's, well behaved and not."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from kparity.engines import http_wire
from kparity.engines.http_wire import KEY
from kparity.engines.registry import open_here
from kparity.engines.remote import open_engine
from kparity.errors import KparityError, Unavailable
from kparity.ladder.climb import climb
from kparity.ladder.record import Settings
from kparity.model import load_model
from tests.listening import Quiet, listening
from tests.llama_server import serving

VOCAB, TOKENS, RARE = 32, [3, 1, 4, 1, 5], 9


def truth(tokens: list[int], rare: int = RARE) -> np.ndarray:
    """Log-probabilities [VOCAB] after some tokens."""
    logits = np.random.default_rng([0, *tokens]).standard_normal(VOCAB)
    logits[7] -= 5000.0 * (tokens[-1] == rare)  # its probability underflows
    return np.asarray(logits - np.logaddexp.reduce(logits))


Answer = tuple[int, dict[str, str], bytes | Iterable[bytes]]


@dataclass
class Fake:
    """A server of OpenAI's kind, or ``llama``.cpp's; ``faults`` are what paths answer instead, after ``good`` right
    answers of these: status, headers, body.
    """

    echoes: bool = True
    llama: bool = False
    faults: dict[str, Answer] = field(default_factory=dict)
    good: int = 0
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    named: Callable[[int], str] = "token_id:{}".format
    extra: int = 0
    """Tokens that it says it read beyond those that it was sent."""

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        self.good -= path in self.faults
        if path in self.faults and self.good < 0:
            return self.faults[path]
        if path == "/v1/models":
            return self.json({"data": [{"id": "fake", "max_model_len": 128, "meta": {"n_vocab": VOCAB}}]})
        if path == "/tokenize":
            text = body["content" if self.llama else "prompt"]
            return self.json({"tokens": [1, *(ord(each) % VOCAB for each in text)]})
        if self.llama and path == "/props":
            return self.json({"default_generation_settings": {"n_ctx": 128}, "model_path": "fake.gguf"})
        if self.llama and path == "/completion":
            row = self.top(body["prompt"], body["n_probs"])
            return told([{"id": int(name[9:]), "logprob": value} for name, value in row.items()], len(body["prompt"]))
        if self.llama or path != "/v1/completions":
            return 404, {}, b"{}"
        prompt, count = body["prompt"], body["logprobs"]
        whole = body["echo"] and self.echoes
        rows = [None if not end else self.top(prompt[:end], count) for end in range(len(prompt) + 1)]
        logprobs = {"top_logprobs": rows if whole else rows[-1:]}
        usage = {"prompt_tokens": len(prompt) + self.extra}
        return self.json({"choices": [{"text": "", "logprobs": logprobs}], "usage": usage})

    def top(self, tokens: list[int], count: int) -> dict[str, float]:
        row = truth(tokens, -1 if self.llama else RARE)
        return {self.named(int(at)): float(row[at]) for at in np.argsort(-row)[:count]}

    @staticmethod
    def json(value: Any) -> Answer:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def served(fake: Fake) -> Iterator[str]:
    """Its address."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fake.seen.append((self.path, self.headers.get("Authorization")))
            status, headers, body = fake.answer(self.path, json.loads(raw or b"{}"))
            self.send_response(status)
            length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {}
            for name, value in (length | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client has left
                for piece in [body] if isinstance(body, bytes) else body:
                    self.wfile.write(piece)
                    self.wfile.flush()

    with listening(Handler) as address:
        yield address


@pytest.mark.parametrize("echoes", [True, False])
def test_a_server_of_openais_kind_gives_the_likeliest_and_invents_nothing(echoes: bool) -> None:
    fake = Fake(echoes=echoes)
    with served(fake) as url:
        engine = open_here(f"{url}/v1?probs=4&vocab={VOCAB}")
        assert engine.facts.gives == "logprobs:4" and engine.facts.vocab == VOCAB and engine.facts.context == 128
        fake.seen.clear()
        rows = np.vstack([engine.score(TOKENS[:3]), engine.step(TOKENS[3]), engine.prefill(TOKENS[4:])])
        assert len(fake.seen) == (3 if echoes else 5)  # requests: one a call, or one a position
        assert engine.tokenize("a") == [1, ord("a") % VOCAB]
        engine.reset()
        assert np.array_equal(engine.score(TOKENS), rows, equal_nan=True)
        engine.close()
    for end, row in enumerate(rows, 1):
        expected = truth(TOKENS[:end])
        known = np.flatnonzero(~np.isnan(row))
        assert set(known) == set(np.argsort(-expected)[:4]) and np.allclose(row[known], expected[known], atol=1e-6)


def test_a_text_is_an_id_where_one_token_alone_has_it() -> None:
    """The embedded model's tokens from 300 on, as its own tokenizer writes them."""
    words = load_model(None).tokenizer
    with served(Fake(named=lambda token: words.decode([300 + token]))) as url:
        row = open_here(f"{url}?probs=4").step(5)
    assert set(np.flatnonzero(~np.isnan(row)) - 300) == set(np.argsort(-truth([5]))[:4])


def test_the_key_goes_to_the_server_and_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    other, fake = Fake(), Fake()
    with served(other) as there, served(fake) as url:
        open_here(f"{url}?vocab={VOCAB}").close()
        assert {key for _, key in fake.seen} == {"Bearer secret"}
        fake.faults["/v1/models"] = (307, {"Location": f"{there}/v1/models"}, b"")
        with pytest.raises(KparityError, match=r"307 and points to http://127.*give the address") as refused:
            open_here(url)
        assert other.seen == [] and "secret" not in str(refused.value)
    monkeypatch.setenv(KEY, "a\nb")
    with pytest.raises(KparityError, match="give the key alone"):
        open_here("http://127.0.0.1:9")


def completion(row: Any) -> Answer:
    return Fake.json({"choices": [{"logprobs": {"top_logprobs": [None, row]}}]})


def told(row: Any, read: int = 1) -> Answer:
    """Of llama.cpp's ``/completion``."""
    return Fake.json({"completion_probabilities": [{"top_logprobs": row}], "tokens_evaluated": read})


class Slowly:
    """A piece in time after the other, without an end."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b" " * 99
            time.sleep(0.2)


FAULTS = {
    "nothing there": ("/v1/models", (404, {}, b""), "404: it has no such path"),
    "an error with 200": ("/v1/models", Fake.json({"error": "overloaded"}), "overloaded.*not what was asked for"),
    "an error with 500": ("/v1/models", (500, {}, b"oh \x1b[31mno"), r"answered 500: .*oh \\+x1b.*server's log"),
    "a key is missing": ("/v1/models", (401, {}, b""), KEY),
    "no JSON": ("/v1/models", (200, {}, b"<html>"), "<html>"),
    "nothing": ("/v1/models", (200, {}, b""), "answered nothing"),
    "deep": ("/v1/models", (200, {}, b'{"data":' + b"[" * 100000), "not what was asked for"),
    "no model": ("/v1/models", Fake.json({"data": []}), "it serves no model"),
    "cut short": ("/v1/models", (200, {"Content-Length": "999"}, b'{"data": ['), "look whether the server runs"),
    "too much": ("/v1/models", (200, {}, b" " * (3 << 20)), "more than 2 MiB"),
    "no logprobs": ("/v1/completions", Fake.json({"choices": [{"text": "x"}]}), "no logprobs"),
    "no choices": ("/v1/completions", Fake.json({"choices": []}), "no logprobs"),
    "NaN": ("/v1/completions", (200, {}, b'{"choices":[{"logprobs":{"top_logprobs":[{"token_id:1":NaN}]}}]}'), "NaN"),
    "null": ("/v1/completions", completion({"token_id:1": None}), "not what was asked for"),
    "logits": ("/v1/completions", completion({"token_id:1": 7.5}), "no log-probability"),
    "sums beyond one": ("/v1/completions", completion({"token_id:1": -0.1, "token_id:2": -0.1}), "add up to 1.8"),
    "another vocabulary": ("/v1/completions", completion({"token_id:99": -1.0}), "is it another model"),
    "texts": ("/v1/completions", completion({" the": -1.0}), "' the', which is no text of one token"),
    "twice": ("/v1/completions", completion({"token_id:1": -1.0, "token_id:01": -2.0}), "token 1 twice"),
    "a context of nothing": ("/v1/models", Fake.json({"data": [{"id": "x", "max_model_len": -4}]}), ">= 1|> 0"),
    "an empty row": ("/v1/completions", completion({}), "add up to 0"),
    "completions are not there": ("/v1/completions", (404, {}, b""), "404: it has no such path"),
}


LLAMA_FAULTS = {
    "no such number": ("/tokenize", Fake.json({"tokens": ["a"]}), "not what was asked for"),
    "no list": ("/tokenize", Fake.json({"tokens": 5}), "not what was asked for"),
    "no token of the vocabulary": ("/tokenize", Fake.json({"tokens": [99999]}), "a token 99999, the vocabulary is 32"),
    "one below 0": ("/tokenize", Fake.json({"tokens": [-1]}), "a token -1, the vocabulary is 32"),
    "no size": ("/props", Fake.json({"default_generation_settings": {"n_ctx": "all"}}), "/v1/completions answered 404"),
    "no positions": ("/completion", Fake.json({"completion_probabilities": [], "tokens_evaluated": 1}), "newer"),
    "no count": ("/completion", Fake.json({"completion_probabilities": []}), "tokens_evaluated"),
    "an error": ("/completion", Fake.json({"error": {"code": 503}}), "503.*not what was asked for"),
    "NaN here": ("/completion", (200, {}, told([{"id": 1, "logprob": 0.5}])[2].replace(b"0.5", b"NaN")), "NaN"),
    "beyond every float": ("/completion", told([{"id": 1, "logprob": -(10**400)}]), "not what was asked for"),
    "a text": ("/completion", told([{"id": 1, "logprob": "-1"}]), "not what was asked for"),
    "half a token": ("/completion", told([{"id": 1.5, "logprob": -1.0}]), "not what was asked for"),
    "a token too high": ("/completion", told([{"id": VOCAB, "logprob": -1.0}]), "is it another model"),
    "a token twice": ("/completion", told([{"id": 1, "logprob": -1.0}] * 2), "token 1 twice"),
    "no candidate": ("/completion", told([]), "add up to 0"),
    "a second BOS": ("/completion", told([{"id": 1, "logprob": -1.0}], read=2), "sent 1 tokens and read 2"),
    "without an end": ("/completion", (200, {}, itertools.repeat(b" " * 65536)), "more than 2 MiB"),
}


@pytest.mark.parametrize("name", [*FAULTS, *LLAMA_FAULTS])
def test_a_hostile_answer_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "LIMIT", 2 << 20)
    path, answer, expected = (FAULTS | LLAMA_FAULTS)[name]
    fake = Fake(faults={path: answer}, llama=name in LLAMA_FAULTS)
    with served(fake) as url, pytest.raises(KparityError, match=expected) as refused:
        open_here(f"{url}?vocab={VOCAB}")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("answer", "verdict", "reason"),
    [
        (None, "PASS", ""),
        ((200, {}, Slowly()), "INCONCLUSIVE", "no answer within 1 s"),
        ((200, {}, itertools.repeat(b" " * 65536)), "FAIL", "more than 64 MiB"),
        (told([{"id": 1, "logprob": -1.0}], 7), "FAIL|INCONCLUSIVE", "tells 1 of 32 log-probabilities|and read 7"),
        ((200, {}, told([{"id": 1, "logprob": 0.5}])[2].replace(b"0.5", b"NaN")), "FAIL", "NaN"),
        ((200, {"Content-Length": "999"}, b"{"), "INCONCLUSIVE", "look whether the server runs there"),
    ],
)
def test_a_server_that_goes_wrong_later_never_passes(answer: Answer | None, verdict: str, reason: str) -> None:
    wrong = Fake(llama=True, good=9, faults={"/completion": answer} if answer else {})
    with served(Fake(llama=True)) as right, served(wrong) as url:
        asked = Settings(right, f"{url}?timeout=1", "abcdef", ("abc",), rung="first-logit")
        found = climb(asked, lambda spec, model: open_engine(spec, model=model))
    last = next((each for each in found.rungs if each.verdict not in ("PASS", "")), found.rungs[-1])
    assert re.fullmatch(verdict, found.verdict), [(each.name, each.verdict, each.reason) for each in found.rungs]
    assert re.search(reason, last.reason)
    assert found.exit_code == ("PASS", "FAIL", "", "INCONCLUSIVE").index(found.verdict)


@contextmanager
def trickle() -> Iterator[str]:
    """The address of what sends one byte of a header after the other, each in time, without an end."""

    def trickled() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                connection.sendall(b"x")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickled, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_slow_dead_and_wrong_addresses_are_one_sentence() -> None:
    slow = Fake(faults={"/v1/models": (200, {}, Slowly())})
    for address in (served(slow), trickle()):
        with address as url, pytest.raises(Unavailable, match="no answer within 1 s"):
            open_here(f"{url}?timeout=1")
    with pytest.raises(Unavailable, match=r"GET /v1/models: .*look whether the server runs"):
        open_here("http://127.0.0.1:1")
    for wrong in (
        "http:",
        "http://",
        "http://user:word@127.0.0.1:1",
        "http://127.0.0.1:99999",
        "https://[::1",
    ):
        with pytest.raises(KparityError, match="no address of a server"):
            open_here(wrong)


def test_a_server_that_reads_other_tokens_is_refused() -> None:
    """For example one that puts a second BOS in front."""
    with served(Fake(extra=1)) as url, pytest.raises(KparityError, match="sent 1 tokens and read 2"):
        open_here(f"{url}?vocab={VOCAB}")
    with served(Fake()) as url:
        engine = open_here(f"{url}?vocab={VOCAB}", context=4)
        with pytest.raises(KparityError, match="exceed the context of 4"):
            engine.score(TOKENS)
        with pytest.raises(KparityError, match="outside of the vocabulary"):
            engine.score([VOCAB])


def test_a_distribution_that_is_whole_no_longer_is_told() -> None:
    with served(Fake()) as url:
        whole, some = (open_here(f"{url}?probs={count}&vocab={VOCAB}") for count in (VOCAB, 4))
        assert whole.facts.gives == f"logprobs:{VOCAB}" and np.isfinite(whole.score(TOKENS)).all()
        with pytest.raises(Unavailable, match=f"tells {VOCAB - 1} of {VOCAB} log-probabilities"):
            whole.step(RARE)
        assert np.isfinite(some.step(RARE)).sum() == 4


@pytest.fixture
def llama_server(llamacpp: Any) -> Iterator[str]:
    """The address of llama.cpp's own server, with the embedded model."""
    with serving() as address:
        yield address


def test_llamacpps_server_gives_what_llamacpp_gives(llama_server: str) -> None:
    """Every log-probability of the embedded model, against those of the C interface."""
    engines = [open_here(f"{llama_server}?probs=5"), open_here(llama_server), open_here("llama.cpp?threads=1")]
    few, engine, direct = engines
    tokens = engine.tokenize("In the beginning God created the heaven and the earth.")
    assert tokens == direct.tokenize("In the beginning God created the heaven and the earth.")
    assert (engine.facts.gives, few.facts.gives, engine.facts.bos) == ("logprobs:1536", "logprobs:5", direct.facts.bos)
    rows, logits = engine.score(tokens), direct.score(tokens).astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    print(f"largest difference of log-probabilities: {abs(rows - expected).max():.3g}")
    assert abs(rows - expected).max() < 1e-4
    engine.reset()
    assert np.array_equal(engine.score(tokens), rows)
    part = few.score(tokens)
    assert (np.isfinite(part).sum(axis=1) == 5).all() and np.nanmax(abs(part - rows)) < 1e-4
    for each in engines:
        each.close()
