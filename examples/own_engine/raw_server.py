"""The server of the example: kparity's plain pass in f32, behind an interface of its own. A real one is yours.

``python raw_server.py PORT [--wrong]``; ``--wrong`` forgets the ids before the last 8.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from kparity.engines.base import Engine, Spec
from kparity.engines.plain import Plain
from kparity.model.gguf_file import embedded


def serve(port: int, wrong: bool = False) -> None:
    """Until it is ended."""
    engine: Engine = Plain(Spec.parse("reference?precision=f32"), model=str(embedded()), context=0)

    class Handler(BaseHTTPRequestHandler):
        """``/about``, ``/ids`` and ``/logits``."""

        def _answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            f = engine.facts
            names = ("version", "vocab", "layers", "context", "width", "bos", "eos", "numerics")
            self._answer(json.dumps({name: getattr(f, name) for name in names}).encode())

        def do_POST(self) -> None:
            given: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/ids":
                self._answer(json.dumps(engine.tokenize(given)).encode())
                return
            engine.reset()
            rows = engine.score(given)
            if wrong and len(given) > 8:
                engine.reset()
                rows[-8:] = engine.score(given[-8:])
            self._answer(rows.astype("<f4").tobytes())

        def log_message(self, format: str, *arguments: object) -> None: ...

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), "--wrong" in sys.argv)
