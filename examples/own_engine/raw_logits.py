"""An engine behind HTTP that is not OpenAI's: ``raw:http://127.0.0.1:9000``.

The server answers ``GET /about`` with its shape, ``POST /ids`` with the ids of a text, and ``POST /logits`` with f32
numbers as bytes, a row for each id that it was sent. It keeps nothing, so that the engine sends everything again.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence

import numpy as np

from kparity.engines.base import DeviceRow, Engine, Facts, Spec
from kparity.errors import DeviceFault, Unavailable
from kparity.ops.spec import Array

SECONDS = 60
LARGEST = 1 << 30


class Raw(Engine):
    """The server, asked anew for every position so far."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        spec.only()
        if not spec.place.startswith("http://"):
            raise spec.wrong("give the server's address, as in raw:http://127.0.0.1:9000")
        self.address, self.fed = spec.place.rstrip("/"), list[int]()
        try:
            about = json.loads(self._asked("about"))
        except DeviceFault as problem:
            raise Unavailable(str(problem), "start the server, or correct its address", "KP-UNAVAILABLE") from problem
        self.facts = Facts(
            name="raw", version=about["version"], model=model, vocab=about["vocab"], layers=about["layers"],
            context=min(context or about["context"], about["context"]), width=about["width"], bos=about["bos"],
            eos=about["eos"], numerics=about["numerics"], devices=(DeviceRow("server", self.address, "unknown", True),),
        )  # fmt: skip

    def _asked(self, what: str, given: object = None) -> bytes:
        body = None if given is None else json.dumps(given).encode()
        try:
            with urllib.request.urlopen(f"{self.address}/{what}", body, SECONDS) as reply:
                found: bytes = reply.read(LARGEST)
        except (urllib.error.URLError, OSError) as problem:
            raise DeviceFault(f"{self.address}/{what}: {problem}") from problem
        return found

    def tokenize(self, text: str) -> list[int]:
        return [int(each) for each in json.loads(self._asked("ids", text))]

    def reset(self) -> None:
        self.fed = []

    def score(self, tokens: Sequence[int]) -> Array:
        self.check(tokens, len(self.fed))
        self.fed += tokens
        found = np.frombuffer(self._asked("logits", self.fed), "<f4")
        if found.size != len(self.fed) * self.facts.vocab:
            raise DeviceFault(f"{self.address}/logits: {found.size} numbers for {len(self.fed)} ids")
        return found.reshape(len(self.fed), -1)[-len(tokens) :].copy()

    def close(self) -> None: ...
