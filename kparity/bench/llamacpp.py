"""llama.cpp as the baseline: the library inside the wheel ``xllamacpp``, called as ``llama-bench`` calls it.

A sample is ``llama_decode`` of a batch and ``llama_synchronize``: no server, no sampler, no text
(``kparity.engines.llama_abi`` has the C interface).
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kparity.bench.subject import Subject, sequence
from kparity.device import fingerprint
from kparity.engines.llama_abi import Library
from kparity.errors import WrongInput
from kparity.model import load_model
from kparity.ops.spec import Array

NAME = "llama.cpp"


def threads() -> int:
    """As many as the cpu backend takes: ``KPARITY_THREADS``, or the processors that this process may use."""
    from kparity.backends.cpu import choose_threads

    return choose_threads(os.environ.get("KPARITY_THREADS"))


def named(file: str = "") -> str:
    """What a baseline is called: llama.cpp, and on which file where that is another one."""
    return f"{NAME} on {Path(file).name}" if file else NAME


class LlamaCpp(Subject):
    """A model in llama.cpp.

    ``file`` is what llama.cpp reads where that is not ``model`` itself: the same model in another type, which kparity
    need not know.
    """

    def __init__(self, *, model: str, seed: int, length: int, context: int, file: str = "", nonce: str = "") -> None:
        self.library = Library()
        self.lib = self.library.llama
        with closing(load_model(model)) as ours:
            self.vocab = ours.hparams.vocab
            super().__init__(sequence(ours, seed, length, nonce), processor())
        self.ids = np.array(self.tokens, np.int32)
        self.name, file = named(file), file or model
        self.model = self.library.model(file)
        self.context = self.library.context(self.model, context, threads())
        self.memory = self.lib.llama_get_memory(self.context)

    def about(self) -> dict[str, Any]:
        """Name, version, digest of the library, and the options that it runs with."""
        asked = ("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch")
        flash = "enabled" if "Flash Attention enabled" in self.library.log else "not enabled"
        system = import_module("xllamacpp").get_system_info()
        return {
            "name": self.name,
            "version": f"xllamacpp {fingerprint.version('xllamacpp')}",
            "library_sha256": hashlib.sha256(self.library.path.read_bytes()).hexdigest(),
            "options": {
                **{name: int(getattr(self.lib, f"llama_{name}")(self.context)) for name in asked},
                "flash_attention": f"auto: {flash}", "kv": "f16", "system": " ".join(system.split()),
                "called": "llama_decode and llama_synchronize, as llama-bench does",
            },
        }  # fmt: skip

    def prompt(self, length: int) -> tuple[float, Array]:
        """As ``Subject.prompt``."""
        self.lib.llama_memory_clear(self.memory, False)
        return self._decode(0, length), self.logits()

    def go_to(self, depth: int) -> None:
        """As ``Subject.go_to``. llama.cpp forgets whatever lies behind the position that it goes back to: what is
        missing is filled again.
        """
        held = self._held()
        if held < depth:
            self._decode(held, depth - held)
        if not self.lib.llama_memory_seq_rm(self.memory, 0, depth, -1):
            raise WrongInput(f"llama.cpp cannot forget the tokens from {depth} on")

    def step(self, position: int) -> float:
        """As ``Subject.step``."""
        return self._decode(position, 1)

    def logits(self) -> Array:
        """As ``Subject.logits``."""
        row = self.lib.llama_get_logits_ith(self.context, -1)
        return np.array(np.ctypeslib.as_array(row, (self.vocab,)), np.float32)

    def close(self) -> None:
        """Free everything."""
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)

    def _held(self) -> int:
        """Tokens in the cache."""
        return int(self.lib.llama_memory_seq_pos_max(self.memory, 0)) + 1

    def _decode(self, start: int, count: int) -> float:
        """Feed tokens, in batches of what one may hold, and wait; seconds."""
        most = int(self.lib.llama_n_batch(self.context))
        status, began = 0, time.perf_counter()
        for at in range(start, start + count, most):
            tokens = self.ids[at : min(at + most, start + count)]
            batch = self.lib.llama_batch_get_one(tokens.ctypes.data, len(tokens))
            status = status or self.lib.llama_decode(self.context, batch)
        self.lib.llama_synchronize(self.context)
        seconds = time.perf_counter() - began
        if status != 0 or self._held() != start + count:
            told = f"returned {status} and left {self._held()} tokens in the cache"
            raise WrongInput(f"llama_decode of {count} tokens at {start} {told}")
        return seconds


def processor(detail: str = "") -> Any:
    """The DeviceInfo of llama.cpp, which computes on the processor here."""
    from kparity.backends import cpu
    from kparity.device.adapter import DeviceInfo

    return DeviceInfo(NAME, cpu.processor(), "cpu", "native", "", "", detail=detail)
