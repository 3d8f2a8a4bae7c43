"""``kparity serve`` as clients meet it: OpenAI's own, lm-eval's requests, eight at once, and hostile ones."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kparity.engines.registry import open_here
from kparity.model import load_model
from tests.cli import run
from tests.served import Served, served

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
TEMPLATE = """{% for m in messages %}{% if m.role == 'odd' %}{{ raise_exception('no ' + m.role) }}{% endif %}
{{- bos_token if m.role == 'system' }}{{ m.content }}{% endfor %}"""
PROMPTS = ["In the beginning", "And God said", "Now the sons of", "Thus saith the LORD", "And it came to pass",
           "The words of", "Behold", "Then David"]  # fmt: skip
WORDS = load_model(None).tokenizer
RECEIPT = "serve.json"
FIRST: list[str] = []
"""What the server wrote at first."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all: the cpu backend, eight sequences side by side, a chat template."""
    template = tmp_path_factory.mktemp("serve") / "chat.jinja"
    template.write_text(TEMPLATE)
    limits = ("--max-body", "100000", "--parallel", "8", "--receipt", str(tmp_path_factory.getbasetemp() / RECEIPT))
    with served("-b", "cpu", "--chat-template", str(template), *limits) as found:
        yield found


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    """OpenAI's own client."""
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_the_text_is_what_kparity_run_writes(server: Served) -> None:
    written = run("run", "-b", "cpu", "--prompt", PROMPTS[0], "--max-tokens", "24").stdout
    text = server.text()
    FIRST.append(text)
    assert written == f"{PROMPTS[0]}{text}\n" and text == server.text(WORDS.encode(PROMPTS[0]))
    assert server.health()["backend"] == "cpu" and server.health()["proved"] == 511
    assert server.health()["canary"]["checks"] >= 2
    assert server.metric("kparity_completion_tokens_total") >= 48


def test_openais_client_completes_and_streams(client: Any) -> None:
    assert [each.id for each in client.models.list()] == ["embedded"] and client.models.retrieve("embedded")
    asked = {"model": "embedded", "prompt": PROMPTS[1], "max_tokens": 30, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=2)
    choice = whole.choices[0]
    assert choice.finish_reason == "length" and whole.usage.completion_tokens == 30
    assert "".join(choice.logprobs.tokens) == choice.text and len(choice.logprobs.token_logprobs) == 30
    ends = np.cumsum([0, *map(len, choice.logprobs.tokens)])[:-1]
    assert choice.logprobs.text_offset == ends.tolist()
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].text for each in pieces[:-1]) == choice.text
    assert pieces[-1].usage == whole.usage and pieces[-2].choices[0].finish_reason == "length"


def test_openais_client_chats(client: Any) -> None:
    messages = [{"role": "system", "content": "And "}, {"role": "user", "content": "God said"}]
    asked = {"model": "embedded", "messages": messages, "max_tokens": 12, "temperature": 0}
    reply = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    whole, alone = reply.choices[0], {**asked, "messages": [{"role": "user", "content": "And God said"}]}
    same = client.completions.create(model="embedded", prompt="And God said", max_tokens=12, temperature=0)
    without_bos = client.chat.completions.create(**alone)  # in the template, that is
    assert reply.usage == same.usage == without_bos.usage
    assert without_bos.choices[0].message.content == whole.message.content
    assert whole.message.content == same.choices[0].text and whole.message.role == "assistant"
    assert len(whole.logprobs.content) == 12 and all(len(each.top_logprobs) == 3 for each in whole.logprobs.content)
    assert bytes(whole.logprobs.content[0].bytes).decode() == whole.logprobs.content[0].token
    pieces = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in pieces) == whole.message.content
    assert pieces[0].choices[0].delta.role == "assistant" and pieces[-1].choices[0].finish_reason == "length"
    with pytest.raises(Exception, match="no odd") as refused:
        client.chat.completions.create(**{**asked, "messages": [{"role": "odd", "content": "x"}]})
    assert refused.value.status_code == 400  # type: ignore[attr-defined]


def test_a_seed_gives_the_same_text_again_and_choices_differ(server: Served) -> None:
    body = {"prompt": PROMPTS[0], "max_tokens": 20, "temperature": 1.0, "top_p": 0.95}
    one, two, other = (server.post("/v1/completions", **body, n=3, seed=seed)["choices"] for seed in (1, 1, -7))
    assert one == two != other and len({each["text"] for each in one}) == 3
    free = {server.post("/v1/completions", **body)["choices"][0]["text"] for _ in range(3)}
    assert len(free) > 1
    assert [each["index"] for each in server.post("/v1/completions", **{**body, "prompt": PROMPTS})["choices"]] == [
        *range(8)
    ]


def test_a_stop_sequence_ends_the_text_before_it(server: Served) -> None:
    whole = server.text(max_tokens=40)
    for stop in (whole[12:17], [whole[30:33], whole[9:11]], "never in this text"):
        stops = [stop] if isinstance(stop, str) else stop
        ends = [whole.find(each) for each in stops if each in whole]
        reply = server.post("/v1/completions", prompt=PROMPTS[0], temperature=0, max_tokens=40, stop=stop)["choices"][0]
        assert reply["text"] == (whole[: min(ends)] if ends else whole)
        assert reply["finish_reason"] == ("stop" if ends else "length")
    server.soon(lambda: server.health()["active"] == 0)


def test_log_likelihoods_as_lm_eval_asks_for_them(server: Served) -> None:
    """The requests of its ``local-completions`` with a remote tokenizer, and what it reads of the answers; the sum is
    held against the plain pass in fp64, which shares no code with what serves.
    """
    info = server.client.get("/tokenizer_info").json()
    assert info["bos_token"] == "<s>" and info["eos_token"] == "</s>"
    context = server.post("/tokenize", prompt="And God said", add_special_tokens=False)["tokens"]
    assert server.post("/detokenize", tokens=context)["prompt"] == "And God said"
    reference = open_here("reference")
    for continuation in (" unto Moses", " pineapple"):
        after = server.post("/tokenize", prompt=continuation, add_special_tokens=False)["tokens"]
        tokens = [info["bos_token_id"], *context, *after]
        body = {"prompt": [tokens], "model": "embedded", "temperature": 0, "max_tokens": 1, "logprobs": 1,
                "seed": 1234, "echo": True}  # fmt: skip
        found = server.post("/v1/completions", **body)["choices"][0]["logprobs"]
        begin = len(tokens) - len(after)
        told, tops = found["token_logprobs"][begin:-1], found["top_logprobs"][begin:-1]
        reference.reset()
        rows = reference.score(tokens).astype(np.float64)
        rows -= np.logaddexp.reduce(rows, axis=1)[:, None]
        wanted = [rows[at - 1, tokens[at]] for at in range(begin, len(tokens))]
        assert len(told) == len(after) and abs(sum(told) - sum(wanted)) < 0.02 * len(after)
        greedy = [int(rows[at - 1].argmax()) == tokens[at] for at in range(begin, len(tokens))]
        assert [each == max(top.values()) for each, top in zip(told, tops, strict=True)] == greedy


def test_eight_clients_at_once_get_the_bits_of_one_alone(server: Served) -> None:
    def asked(prompt: str) -> Any:
        body = {"prompt": prompt, "max_tokens": 60, "temperature": 0.7, "seed": 5, "logprobs": 3, "echo": True}
        return server.post("/v1/completions", **body)["choices"]

    alone = [asked(each) for each in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        beside = [list(pool.map(asked, PROMPTS)) for _ in range(2)]
    assert beside == [alone, alone]


def test_perplexity_is_that_of_the_plain_pass(server: Served) -> None:
    text = "And the LORD spake unto Moses, saying, Speak unto the children of Israel, and say unto them."
    found = server.post("/ppl", text=text, details=True)
    tokens = WORDS.encode(text)
    reference = open_here("reference")
    rows = reference.score(tokens).astype(np.float64)
    rows -= np.logaddexp.reduce(rows, axis=1)[:, None]
    nll = -float(np.mean([rows[at, token] for at, token in enumerate(tokens[1:])]))
    assert found["scored"] == len(tokens) - 1 == len(found["token_nll"]) and found["bos"]
    assert abs(found["nll"] - nll) < 0.01 and abs(found["ppl"] / math.exp(nll) - 1) < 0.01
    parts = server.post("/ppl", tokens=tokens, window=8, stride=4)
    assert parts["scored"] == len(tokens) - 1 and parts["ppl"] > found["ppl"]


def test_it_tells_an_engine_of_a_ladder_every_log_probability(server: Served) -> None:
    """As the engine behind it has them, for the whole vocabulary."""
    tokens = WORDS.encode(" ".join(PROMPTS))
    ours, theirs = open_here("kparity:cpu"), open_here(f"{server.url}?probs=1536")
    wanted = ours.score(tokens).astype(np.float64)
    wanted -= np.logaddexp.reduce(wanted, axis=1)[:, None]
    assert theirs.tokenize(" ".join(PROMPTS)) == tokens and theirs.facts.context == 512
    assert np.abs(theirs.score(tokens) - wanted).max() < 2e-5  # of f32
    for each in (ours, theirs):
        each.close()


WRONG: list[tuple[str, Any, int, str]] = [
    ("/v1/completions", {"prompt": "x", "top_k": 5}, 400, "unknown field `top_k`"),
    ("/v1/completions", {"prompt": "x", "frequency_penalty": 0.5}, 400, "frequency_penalty is not served"),
    ("/v1/completions", {"prompt": "x", "model": "gpt"}, 404, "there is no model 'gpt'"),
    ("/v1/completions", {"prompt": [5, 1536]}, 400, "'1536' is no token id from 0 to 1535"),
    ("/v1/completions", {"prompt": [True]}, 400, "no token id"),
    ("/v1/completions", {"prompt": [[], [1]]}, 400, "prompt has no token"),
    ("/v1/completions", {"prompt": []}, 400, "prompt is empty"),
    ("/v1/completions", {"prompt": [1, "x"]}, 400, "prompt is a text"),
    ("/v1/completions", {"prompt": [1] * 600}, 400, "600 tokens, this server has room for 512"),
    ("/v1/completions", {"prompt": "x", "n": 129}, 400, "<= 128"),
    ("/v1/completions", {"prompt": ["x"] * 100, "n": 2}, 400, "more than 128 answers"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens is 0"),
    ("/v1/completions", {"prompt": "x", "echo": True, "stream": True}, 400, "echo is not streamed"),
    ("/v1/completions", {"prompt": [[1] * 512] * 9, "echo": True, "logprobs": 2000}, 400, "log-probabilities"),
    ("/v1/completions", {"prompt": "x", "stop": [""]}, 400, "length >= 1"),
    ("/v1/completions", {"prompt": "x" * 100001}, 413, "more than 100000 bytes"),
    ("/v1/chat/completions", {"messages": []}, 400, "length >= 1"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text alone"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}], "tools": [{}]}, 400, "tools is not served"),
    ("/ppl", {"text": "x", "tokens": [1]}, 400, "either text or tokens"),
    ("/ppl", {"tokens": [1, 2], "window": 2, "stride": 2}, 400, "smaller than the window"),
    ("/ppl", {"tokens": [1]}, 400, "one token has no perplexity"),
    ("/detokenize", {"tokens": [-1]}, 400, "no token id"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "says"), WRONG)
def test_what_cannot_be_is_told_in_a_sentence(server: Served, path: str, body: Any, status: int, says: str) -> None:
    reply = server.client.post(path, json=body)
    assert reply.status_code == status and says in reply.json()["error"]["message"], reply.text


def test_paths_methods_and_types_that_there_are_not(server: Served) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("POST", "/health", 405)):
        reply = server.client.request(method, path)
        assert reply.status_code == status and "POST /v1/completions" in reply.json()["error"]["message"]
    reply = server.client.post("/v1/completions", content=b'{"prompt":"x"}', headers={"Content-Type": "text/plain"})
    assert reply.status_code == 415
    pieces = (b"[" + b"1," * 1000 for _ in range(1000))  # no length is told
    assert server.client.post("/ppl", content=pieces, headers={"Content-Type": "application/json"}).status_code == 413


def test_what_is_no_http_is_refused_as_all_else_is(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"NONSENSE\r\n\r\n")
        head, _, body = b"".join(iter(lambda: raw.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and f"Content-Length: {len(body)}".encode() in head
    assert "send HTTP/1.1" in json.loads(body)["error"]["message"]


def test_its_receipt_can_be_verified(server: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / RECEIPT
    said = run("receipt", "verify", str(path))
    assert said.returncode == 0, said.stdout + said.stderr
    assert json.loads(path.read_text())["predicate"]["serving"] == "cpu"
    refused = run("serve", "-b", "cpu", "--receipt", "-")
    assert refused.returncode == 2 and "name a file" in refused.stderr


PATHS = ["/v1/completions", "/v1/chat/completions", "/ppl", "/tokenize", "/detokenize"]
FIELDS = ["prompt", "messages", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs", "echo", "text",
          "tokens", "window", "stride", "model", "stream", "top_logprobs", "stream_options"]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS | st.integers(-3, 40), lambda v: st.lists(v, max_size=4) | st.dictionaries(
    st.sampled_from(["role", "content", "type", "text", "include_usage"]), v, max_size=3), max_leaves=6)  # fmt: skip
LIKELY = {"prompt": st.text(max_size=20) | st.lists(st.integers(0, 1535), max_size=5), "max_tokens": st.integers(0, 6),
          "text": st.text(max_size=40), "messages": st.just([{"role": "user", "content": "x"}])}  # fmt: skip
BODIES = st.fixed_dictionaries({}, optional={name: LIKELY.get(name, VALUES) | VALUES for name in FIELDS})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), BODIES | VALUES | st.binary(max_size=30))
def test_nothing_that_is_sent_is_an_error_of_the_server(server: Served, path: str, body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = server.client.post(path, content=raw, headers={"Content-Type": "application/json"})
    assert reply.status_code in (200, 400, 404), (reply.status_code, reply.text)
    assert reply.status_code == 200 or reply.json()["error"]["message"]


def test_after_all_that_it_writes_as_before(server: Served) -> None:
    server.soon(lambda: server.health()["active"] == 0)
    assert server.health()["status"] == "ok" and not server.health()["rejected"]
    assert server.text() == FIRST[0]
    assert server.process.poll() is None and not any("Traceback" in line for line in server.lines)
