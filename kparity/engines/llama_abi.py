"""The C interface of llama.cpp, of whatever build: its libraries, and the few fields of its structures that are set.

The structures that it passes by value grow with every release. They are taken as bytes from the library's own defaults,
a few fields are set (``llama_layout`` knows where), and what was set is read back from the opened context, or proved by
what it does (docs/engines.md).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kparity.device.registry import host_has_gpu
from kparity.engines.llama_layout import CACHE, WORDS, Layout, by_defaults, by_headers, refused
from kparity.errors import Unavailable, WrongInput
from kparity.host import install
from kparity.ops.spec import Array

HANDLE, INT, UINT, TEXT, SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t
FLAG = ctypes.c_bool


class Opaque(ctypes.Structure):
    """Room for any structure that is passed by value."""

    _fields_ = (("fields", UINT * WORDS),)


class Batch(ctypes.Structure):
    """``llama_batch``, unchanged for years."""

    _fields_ = (
        ("n_tokens", INT), ("token", ctypes.POINTER(INT)), ("embd", HANDLE), ("pos", ctypes.POINTER(INT)),
        ("n_seq_id", ctypes.POINTER(INT)), ("seq_id", ctypes.POINTER(ctypes.POINTER(INT))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )  # fmt: skip


class Tensor(ctypes.Structure):
    """The front of ``ggml_tensor``: element type, sizes and strides in bytes, the fastest first."""

    _fields_ = (("type", INT), ("buffer", HANDLE), ("ne", ctypes.c_int64 * 4), ("nb", SIZE * 4))


LogLine = ctypes.CFUNCTYPE(None, ctypes.c_int, TEXT, HANDLE)
Watch = ctypes.CFUNCTYPE(FLAG, ctypes.POINTER(Tensor), FLAG, HANDLE)

LLAMA: dict[str, tuple[Any, list[Any]]] = {
    "llama_log_set": (None, [LogLine, HANDLE]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (Opaque, []),
    "llama_context_default_params": (Opaque, []),
    "llama_model_load_from_file": (HANDLE, [TEXT, Opaque]),
    "llama_init_from_model": (HANDLE, [HANDLE, Opaque]),
    "llama_set_n_threads": (None, [HANDLE, INT, INT]),
    "llama_n_ctx": (UINT, [HANDLE]),
    "llama_n_batch": (UINT, [HANDLE]),
    "llama_n_ubatch": (UINT, [HANDLE]),
    "llama_n_seq_max": (UINT, [HANDLE]),
    "llama_n_threads": (INT, [HANDLE]),
    "llama_n_threads_batch": (INT, [HANDLE]),
    "llama_get_memory": (HANDLE, [HANDLE]),
    "llama_memory_clear": (None, [HANDLE, FLAG]),
    "llama_memory_seq_pos_max": (INT, [HANDLE, INT]),
    "llama_memory_seq_rm": (FLAG, [HANDLE, INT, INT, INT]),
    "llama_batch_get_one": (Batch, [HANDLE, INT]),
    "llama_batch_init": (Batch, [INT, INT, INT]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (INT, [HANDLE, Batch]),
    "llama_synchronize": (None, [HANDLE]),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [HANDLE, INT]),
    "llama_free": (None, [HANDLE]),
    "llama_model_free": (None, [HANDLE]),
    "llama_model_get_vocab": (HANDLE, [HANDLE]),
    "llama_model_n_layer": (INT, [HANDLE]),
    "llama_model_n_embd": (INT, [HANDLE]),
    "llama_model_n_head_kv": (INT, [HANDLE]),
    "llama_model_n_ctx_train": (INT, [HANDLE]),
    "llama_model_desc": (INT, [HANDLE, TEXT, SIZE]),
    "llama_vocab_n_tokens": (INT, [HANDLE]),
    "llama_vocab_bos": (INT, [HANDLE]),
    "llama_vocab_eos": (INT, [HANDLE]),
    "llama_vocab_get_add_bos": (FLAG, [HANDLE]),
    "llama_tokenize": (INT, [HANDLE, TEXT, INT, ctypes.POINTER(INT), INT, FLAG, FLAG]),
    "llama_print_system_info": (TEXT, []),
}
GGML: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_dev_name": (TEXT, [HANDLE]),
    "ggml_backend_dev_description": (TEXT, [HANDLE]),
    "ggml_backend_dev_type": (INT, [HANDLE]),
    "ggml_backend_buffer_name": (TEXT, [HANDLE]),
    "ggml_backend_tensor_get": (None, [ctypes.POINTER(Tensor), HANDLE, SIZE, SIZE]),
    "ggml_get_name": (TEXT, [ctypes.POINTER(Tensor)]),
    "ggml_op_desc": (TEXT, [ctypes.POINTER(Tensor)]),
    "ggml_nelements": (ctypes.c_int64, [ctypes.POINTER(Tensor)]),
    "ggml_nbytes": (SIZE, [ctypes.POINTER(Tensor)]),
    "ggml_type_name": (TEXT, [INT]),
    "ggml_version": (TEXT, []),
}
DEVICES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_load_all_from_path": (None, [TEXT]),
    "ggml_backend_dev_count": (SIZE, []),
    "ggml_backend_dev_get": (HANDLE, [SIZE]),
}
ELEMENTS: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    26: np.dtype(np.int32),
    27: np.dtype(np.int64),
}
"""``ggml_type`` to what it is here; of the others no intermediate tensor is made."""
CPU, GPU = 0, 1
"""``ggml_backend_dev_type``; before integrated GPUs had a number, accelerators (of the processor, as BLAS) were 2."""

_KEPT: list[Any] = []
"""Callbacks of the log: a library calls the last one as long as it is loaded."""


@dataclass(frozen=True)
class Device:
    """A device as ggml lists it."""

    handle: int
    name: str
    description: str
    type: int


def typed(library: Any, signatures: Mapping[str, tuple[Any, list[Any]]]) -> Any:
    """The library, with the types of its functions; raises AttributeError where one is not there."""
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Library:
    """A build of llama.cpp in this process: in a folder, or the wheel ``xllamacpp`` where none is given.

    ``device`` is what will be asked for, ``headers`` a folder with its ``llama.h``. Raises WrongInput for a folder
    without one that can be loaded, Unavailable for want of the wheel. There can be one build in a process.
    """

    def __init__(self, folder: str = "", device: str = "", headers: str = "") -> None:
        self.headers = headers
        try:
            self.llama, self.ggml, self.registry, self.path = _folder(Path(folder)) if folder else _wheel()
        except (ImportError, OSError, AttributeError) as error:
            if folder:
                raise WrongInput(f"{folder} holds no llama.cpp that can be loaded here ({error})") from None
            reason, remedy = f"llama.cpp cannot be called ({error})", install.extra("llamacpp")
            raise Unavailable(reason, remedy, "KP-LLAMACPP-NOLIB") from None
        self.messages: list[str] = []
        _KEPT.append(LogLine(lambda _level, text, _user: self.messages.append(text.decode(errors="replace"))))
        self.llama.llama_log_set(_KEPT[-1], None)
        if folder:
            if device.lower().startswith("vulkan") and not host_has_gpu():
                os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0")  # without it, ggml hides processors (lavapipe)
            self.registry.ggml_backend_load_all_from_path(folder.encode())
        self.llama.llama_backend_init()

    @property
    def log(self) -> str:
        """All that it said."""
        return "".join(self.messages)

    @property
    def version(self) -> str:
        """Of ggml, as it says it, and of the wheel."""
        return str(self.ggml.ggml_version().decode(errors="replace"))

    def devices(self) -> list[Device]:
        """In ggml's order."""
        found = []
        for at in range(self.registry.ggml_backend_dev_count()):
            handle = self.registry.ggml_backend_dev_get(at)
            texts = (getattr(self.ggml, f"ggml_backend_dev_{each}")(handle) for each in ("name", "description"))
            name, description = (text.decode(errors="replace") for text in texts)
            found.append(Device(handle, name, description, self.ggml.ggml_backend_dev_type(handle)))
        return found

    def complaint(self) -> str:
        """The first line of the log that speaks of an error."""
        lines = (line.strip() for line in self.log.splitlines())
        return next((line for line in lines if re.search("error|failed", line, re.I)), "it does not say why")

    @cached_property
    def layout(self) -> Layout:
        """Where fields stand; raises as ``llama_layout``."""
        model, context = (getattr(self.llama, f"llama_{each}_default_params")().fields for each in ("model", "context"))
        return by_headers(self.headers, model, context) if self.headers else by_defaults(model, context)

    def model(self, path: str, devices: Sequence[Device] | None = None, layers: int = 0) -> int:
        """A handle of an open model, ``layers`` of it on these devices; None leaves that to llama.cpp."""
        params, at = self.llama.llama_model_default_params(), self.layout
        handles = (HANDLE * (len(devices or ()) + 1))(*(each.handle for each in devices or ()), None)
        if devices is not None:
            _put(params, at.devices, ctypes.addressof(handles))
            params.fields[at.n_gpu_layers] = layers if devices else 0
        model = self.llama.llama_model_load_from_file(path.encode(), params)
        if not model:
            raise WrongInput(f"llama.cpp does not read {path}: {self.complaint()}")
        return int(model)

    def context(
        self, model: int, length: int, threads: int, *, rows: int = 0, kv: str = "", watch: Any = None,
        sequences: int = 1,
    ) -> int:  # fmt: skip
        """A handle of a context of ``length`` positions, of all ``sequences`` together, that computes ``rows`` tokens
        at a time (0: as many as is its default); ``watch`` is asked for each tensor that is computed.
        """
        params, at = self.llama.llama_context_default_params(), self.layout
        params.fields[at.n_ctx], params.fields[at.n_seq_max] = length, sequences
        if rows:
            params.fields[at.n_batch] = params.fields[at.n_ubatch] = rows
        if watch is not None:
            _put(params, at.cb_eval, ctypes.cast(watch, HANDLE).value or 0)
        if kv:
            params.fields[at.type_k] = params.fields[at.type_v] = CACHE[kv]
        context = self.llama.llama_init_from_model(model, params)
        if not context:
            raise WrongInput(f"llama.cpp opens no context of {length} positions: {self.complaint()}")
        self.llama.llama_set_n_threads(context, threads, threads)
        taken = [getattr(self.llama, f"llama_n_{name}")(context) for name in ("ctx", "ubatch", "threads", "seq_max")]
        if taken[0] < length or taken[1] != (rows or taken[1]) or taken[2:] != [threads, sequences]:
            raise refused(f"llama.cpp did not take its options: it has {taken} positions, rows, threads and sequences")
        return int(context)

    def array(self, tensor: Any) -> Array:
        """The values of a tensor of ggml's, f32 [rows, ne0] with the slowest dimension first; raises Unavailable where
        the structure is not what it was.
        """
        t = tensor.contents
        dtype, shape = ELEMENTS.get(t.type), tuple(t.ne[::-1])
        if dtype is None or np.prod(shape) != self.ggml.ggml_nelements(tensor):
            raise refused(f"a tensor of {self.ggml.ggml_type_name(t.type)} with sizes {shape} cannot be read")
        raw = np.empty(self.ggml.ggml_nbytes(tensor), np.uint8)
        self.ggml.ggml_backend_tensor_get(tensor, raw.ctypes.data, 0, raw.size)
        return np.lib.stride_tricks.as_strided(raw.view(dtype), shape, tuple(t.nb[::-1]))


def _put(params: Opaque, at: int, pointer: int) -> None:
    params.fields[at], params.fields[at + 1] = pointer & 0xFFFFFFFF, pointer >> 32


def _folder(folder: Path) -> tuple[Any, Any, Any, Path]:
    """Every library of a build, the lower ones first and visible to those above."""

    def one(*patterns: str) -> Path:
        found = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
        if not found:
            raise WrongInput(f"{folder} has no {patterns[0]}; name the folder with libllama and libggml of a build")
        return found[0]

    base, registry, llama = (
        one("libggml-base.so*"),
        one("libggml.so*", "libggml.*.so"),
        one("libllama.so*", "libllama.*.so"),
    )
    opened = [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in (base, registry, llama)]
    return typed(opened[2], LLAMA), typed(opened[0], GGML), typed(opened[1], DEVICES), llama


def _wheel() -> tuple[Any, Any, Any, Path]:
    path = Path(import_module("xllamacpp.xllamacpp").__file__ or "")
    library = ctypes.CDLL(str(path))
    return typed(library, LLAMA), typed(library, GGML), typed(library, DEVICES), path
