"""``kparity serve`` in a process of its own, as clients find it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.cli import LIARS


class Served:
    """Its process, address and standard error; requests go through ``client``, an ``httpx.Client``."""

    def __init__(self, *arguments: str, key: str = "", env: dict[str, str] | None = None) -> None:
        import httpx

        environment = {**os.environ, **(env or {})}
        environment["PYTHONPATH"] = os.pathsep.join([str(LIARS), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kparity", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.told(r"^serving .* at (http://\S+)/v1$")[1]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def told(self, pattern: str, seconds: float = 150) -> re.Match[str]:
        """The first line of standard error that matches, as soon as there is one."""
        found = self.soon(
            lambda: next((each for line in self.lines if (each := re.search(pattern, line))), None), seconds
        )
        assert isinstance(found, re.Match)
        return found

    def soon(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        """What a condition gives once it is met."""
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until and self.process.poll() is None, "\n".join(self.lines)
            time.sleep(0.01)
        return found

    def post(self, path: str, **body: Any) -> Any:
        """The answer of a request that must be right."""
        reply = self.client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def text(self, prompt: Any = "In the beginning", **body: Any) -> str:
        """Of a greedy completion."""
        found = self.post("/v1/completions", prompt=prompt, **{"temperature": 0, "max_tokens": 24, **body})
        return str(found["choices"][0]["text"])

    def health(self) -> dict[str, Any]:
        """As it is now."""
        return dict(self.client.get("/health").json())

    def metric(self, name: str) -> float:
        """A sample of /metrics."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.M)
        assert found, name
        return float(found[1])

    def ended(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@contextmanager
def served(*arguments: str, **options: Any) -> Iterator[Served]:
    """Until the block ends."""
    found = Served(*arguments, **options)
    try:
        yield found
    finally:
        with suppress(ProcessLookupError):
            found.process.terminate()
        try:
            found.process.wait(20)
        except subprocess.TimeoutExpired:
            found.process.kill()
        found.client.close()
