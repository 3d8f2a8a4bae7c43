"""Any engine of docs/engines.md behind OpenAI's ``/v1/completions``, as a side of a burn-in: greedy, one at a time.

``python -m tools.engine_server 'llama.cpp:/opt/llama/lib?device=Vulkan0' --port 8395`` serves until it is ended. It is
no server for traffic: it is there for engines that are a library alone, such as a build of llama.cpp without its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np

from kparity.engines.remote import Remote, open_engine
from kparity.model import load_model
from kparity.model.tokenizer import Tokenizer


class Asked:
    """An engine and the tokenizer of its model."""

    def __init__(self, spec: str, path: str | None, context: int) -> None:
        self.engine: Remote = open_engine(spec, model=path or "", context=context)
        self.words: Tokenizer = load_model(path).tokenizer

    def pieces(self, prompt: str, most: int, top: int) -> Iterator[dict[str, Any]]:
        """The choices of a stream: a token each with its likeliest ``top``, then the reason of the end."""
        engine, facts = self.engine, self.engine.facts
        tokens = engine.tokenize(prompt)
        engine.reset()
        row, stream = engine.prefill(tokens), self.words.stream(tokens)
        for made in range(most):
            token = int(row.argmax())
            if token == facts.eos:
                yield {"text": stream.finish(), "finish_reason": "stop"}
                return
            yield {"text": stream.feed(token), "logprobs": self._told(row, token, top) if top else None}
            if len(tokens) + made + 1 >= facts.context or made + 1 == most:
                break
            row = engine.step(token)
        yield {"text": stream.finish(), "finish_reason": "length"}

    def _told(self, row: np.ndarray[Any, np.dtype[np.float32]], token: int, top: int) -> dict[str, Any]:
        wide = row.astype(np.float64)
        logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        likeliest = np.argsort(-logprobs, kind="stable")[:top]
        named = {self.words.decode([int(each)]): float(logprobs[each]) for each in likeliest[::-1]}
        return {"tokens": [self.words.decode([token])], "token_logprobs": [float(logprobs[token])],
                "top_logprobs": [named]}  # fmt: skip


def main() -> None:
    """Serve an engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", metavar="SPEC")
    parser.add_argument("--model", metavar="FILE", help="another than the embedded one")
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--port", type=int, default=8395)
    given = parser.parse_args()
    asked = Asked(given.engine, given.model, given.context)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._whole(200, {"object": "list", "data": [{"id": given.engine, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if body.get("temperature", 1) != 0 or not isinstance(body.get("prompt"), str):
                return self._whole(400, {"error": {"message": "a prompt of text at temperature 0 is served"}})
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for choice in asked.pieces(body["prompt"], body.get("max_tokens", 16), body.get("logprobs") or 0):
                self._event(json.dumps({"model": given.engine, "choices": [choice]}))
            return self._event("[DONE]")

        def _event(self, text: str) -> None:
            self.wfile.write(f"data: {text}\n\n".encode())

        def _whole(self, status: int, value: Any) -> None:
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    server = HTTPServer(("127.0.0.1", given.port), Handler)
    print(f"{given.engine} at http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
