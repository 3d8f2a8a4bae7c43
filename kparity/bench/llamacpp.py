"""llama.cpp as the baseline: the library inside the wheel ``xllamacpp``, called as ``llama-bench`` calls it.

A sample is ``llama_decode`` of a batch and ``llama_synchronize``: no server, no sampler, no text. The structures that
the C interface passes by value grow with every release, so they are taken as bytes from the library's own defaults; the
few fields that are set are first compared with the known defaults, and read back from the open context.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kparity.bench.subject import Subject, sequence
from kparity.device import fingerprint
from kparity.errors import Unavailable, WrongInput
from kparity.host import install
from kparity.model import load_model
from kparity.ops.spec import Array

DEFAULTS = (512, 2048, 512)
"""n_ctx, n_batch and n_ubatch, the first fields of ``llama_context_params``."""
NAME = "llama.cpp"
HANDLE, INT = ctypes.c_void_p, ctypes.c_int32


class Opaque(ctypes.Structure):
    """Room for any structure that is passed by value; what lies behind its end is not read."""

    _fields_ = (("fields", ctypes.c_uint32 * 128),)


LogLine = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, HANDLE)

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_log_set": (None, [LogLine, HANDLE]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (Opaque, []),
    "llama_context_default_params": (Opaque, []),
    "llama_model_load_from_file": (HANDLE, [ctypes.c_char_p, Opaque]),
    "llama_init_from_model": (HANDLE, [HANDLE, Opaque]),
    "llama_set_n_threads": (None, [HANDLE, INT, INT]),
    "llama_n_ctx": (ctypes.c_uint32, [HANDLE]),
    "llama_n_batch": (ctypes.c_uint32, [HANDLE]),
    "llama_n_ubatch": (ctypes.c_uint32, [HANDLE]),
    "llama_n_threads": (INT, [HANDLE]),
    "llama_n_threads_batch": (INT, [HANDLE]),
    "llama_get_memory": (HANDLE, [HANDLE]),
    "llama_memory_clear": (None, [HANDLE, ctypes.c_bool]),
    "llama_memory_seq_pos_max": (INT, [HANDLE, INT]),
    "llama_memory_seq_rm": (ctypes.c_bool, [HANDLE, INT, INT, INT]),
    "llama_batch_get_one": (Opaque, [HANDLE, INT]),
    "llama_decode": (INT, [HANDLE, Opaque]),
    "llama_synchronize": (None, [HANDLE]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [HANDLE, INT]),
    "llama_free": (None, [HANDLE]),
    "llama_model_free": (None, [HANDLE]),
}


def library() -> tuple[Any, Path]:
    """The C interface of the wheel, with its types, and its file; raises Unavailable without it."""
    try:
        path = Path(import_module("xllamacpp.xllamacpp").__file__ or "")
        return typed(ctypes.CDLL(str(path)), SIGNATURES), path
    except (ImportError, OSError, AttributeError) as error:
        raise Unavailable(
            f"llama.cpp cannot be called ({error})", install.pip("xllamacpp"), "KP-LLAMACPP-NOLIB"
        ) from None


def typed(library: Any, signatures: Mapping[str, tuple[Any, list[Any]]]) -> Any:
    """The library, with the types of its functions; raises AttributeError where one is not there."""
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def other_release(reason: str) -> Unavailable:
    """What a library with another interface gives."""
    return Unavailable(reason, "install another release of xllamacpp", "KP-LLAMACPP-ABI")


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
        self.lib, self.path = library()
        self.messages: list[str] = []
        self._log = LogLine(lambda _level, text, _user: self.messages.append(text.decode(errors="replace")))
        self.lib.llama_log_set(self._log, None)
        self.lib.llama_backend_init()
        with closing(load_model(model)) as ours:
            self.vocab = ours.hparams.vocab
            super().__init__(sequence(ours, seed, length, nonce), processor())
        self.ids = np.array(self.tokens, np.int32)
        self.name, file = named(file), file or model
        self.model = self.lib.llama_model_load_from_file(file.encode(), self.lib.llama_model_default_params())
        if not self.model:
            raise WrongInput(f"llama.cpp does not read {file}: {self._complaint()}")
        self.context = self._open(context)
        self.memory = self.lib.llama_get_memory(self.context)

    def _open(self, length: int) -> Any:
        """A context of ``length`` positions; raises Unavailable where the library's structure is another one."""
        params = self.lib.llama_context_default_params()
        first = tuple(params.fields[:3])
        if first != DEFAULTS:
            raise other_release(f"this llama.cpp begins its context parameters with {first}, not {DEFAULTS}")
        params.fields[0] = length
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            raise WrongInput(f"llama.cpp opens no context of {length} positions: {self._complaint()}")
        self.lib.llama_set_n_threads(context, threads(), threads())
        if self.lib.llama_n_ctx(context) < length or self.lib.llama_n_threads(context) != threads():
            raise other_release("llama.cpp did not take its options")
        return context

    def _complaint(self) -> str:
        return next((line.strip() for line in self.messages if "error" in line.lower()), "it does not say why")

    def about(self) -> dict[str, Any]:
        """Name, version, digest of the library, and the options that it runs with."""
        asked = ("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch")
        flash = "enabled" if any("Flash Attention enabled" in line for line in self.messages) else "not enabled"
        system = import_module("xllamacpp").get_system_info()
        return {
            "name": self.name,
            "version": f"xllamacpp {fingerprint.version('xllamacpp')}",
            "library_sha256": hashlib.sha256(self.path.read_bytes()).hexdigest(),
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
