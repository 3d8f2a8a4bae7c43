"""ggml by its public C interface: one library per process, graphs whose tensors lie where they are told to."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from kparity.engines import llama_abi
from kparity.errors import Unavailable, WrongInput

VARIABLE = "KPARITY_LLAMACPP"
"""Names the folder of the build, in place of the wheel ``xllamacpp``; ``kparity check --lib`` sets it."""
REMEDY = f"give --lib FOLDER, set {VARIABLE}, or pip install xllamacpp"
HANDLE, INT, LONG, SIZE, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_float
FLAG, TEXT = ctypes.c_bool, ctypes.c_char_p
TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q6_K": 14, "i8": 24, "i32": 26, "tq1_0": 34, "tq2_0": 35, "q2_0": 42,
}  # fmt: skip
"""``ggml_type`` by name."""
PREC_F32 = 10
"""``GGML_PREC_F32``."""
LAUNCH_BYTES, LAUNCH_NODES = 1 << 15, 32
"""Room for the tensors and nodes of a launch and for their part of the graph; their data lies elsewhere."""


class Init(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", SIZE), ("mem_buffer", HANDLE), ("no_alloc", FLAG))


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (HANDLE, [Init]),
    "ggml_free": (None, [HANDLE]),
    "ggml_nbytes": (SIZE, [HANDLE]),
    "ggml_row_size": (SIZE, [INT, LONG]),
    "ggml_quantize_chunk": (SIZE, [INT, HANDLE, HANDLE, LONG, LONG, LONG, HANDLE]),
    "ggml_new_tensor_4d": (HANDLE, [HANDLE, INT, LONG, LONG, LONG, LONG]),
    "ggml_view_4d": (HANDLE, [HANDLE, HANDLE, LONG, LONG, LONG, LONG, SIZE, SIZE, SIZE, SIZE]),
    "ggml_permute": (HANDLE, [HANDLE, HANDLE, INT, INT, INT, INT]),
    "ggml_mul_mat": (HANDLE, [HANDLE] * 3),
    "ggml_get_rows": (HANDLE, [HANDLE] * 3),
    "ggml_cpy": (HANDLE, [HANDLE] * 3),
    "ggml_rope_ext": (HANDLE, [HANDLE] * 4 + [INT] * 3 + [FLOAT] * 6),
    "ggml_soft_max_ext": (HANDLE, [HANDLE] * 3 + [FLOAT] * 2),
    "ggml_flash_attn_ext": (HANDLE, [HANDLE] * 5 + [FLOAT] * 3),
    "ggml_rms_norm": (HANDLE, [HANDLE, HANDLE, FLOAT]),
    "ggml_swiglu_split": (HANDLE, [HANDLE] * 3),
    "ggml_relu": (HANDLE, [HANDLE] * 2),
    "ggml_sqr": (HANDLE, [HANDLE] * 2),
    "ggml_add": (HANDLE, [HANDLE] * 3),
    "ggml_mul": (HANDLE, [HANDLE] * 3),
    "ggml_argmax": (HANDLE, [HANDLE] * 2),
    "ggml_op_desc": (TEXT, [HANDLE]),
    "ggml_new_graph_custom": (HANDLE, [HANDLE, SIZE, FLAG]),
    "ggml_build_forward_expand": (None, [HANDLE, HANDLE]),
    "ggml_backend_dev_init": (HANDLE, [HANDLE, TEXT]),
    "ggml_backend_dev_buffer_type": (HANDLE, [HANDLE]),
    "ggml_backend_dev_supports_op": (FLAG, [HANDLE, HANDLE]),
    "ggml_backend_dev_backend_reg": (HANDLE, [HANDLE]),
    "ggml_backend_reg_get_proc_address": (HANDLE, [HANDLE, TEXT]),
    "ggml_backend_buft_alloc_buffer": (HANDLE, [HANDLE, SIZE]),
    "ggml_backend_cpu_buffer_from_ptr": (HANDLE, [HANDLE, SIZE]),
    "ggml_backend_buffer_get_base": (HANDLE, [HANDLE]),
    "ggml_backend_buffer_free": (None, [HANDLE]),
    "ggml_backend_tensor_alloc": (INT, [HANDLE, HANDLE, HANDLE]),
    "ggml_backend_view_init": (INT, [HANDLE]),
    "ggml_backend_tensor_set": (None, [HANDLE, HANDLE, SIZE, SIZE]),
    "ggml_backend_tensor_get": (None, [HANDLE, HANDLE, SIZE, SIZE]),
    "ggml_backend_graph_compute": (INT, [HANDLE, HANDLE]),
    "ggml_backend_synchronize": (None, [HANDLE]),
    "ggml_backend_free": (None, [HANDLE]),
}
PRECISION: dict[str, tuple[Any, list[Any]]] = {
    "ggml_prec_set_acc": (FLAG, [HANDLE, INT]),
    "ggml_prec_set_src": (FLAG, [HANDLE, INT, INT]),
}
"""Younger than the rest: what a graph may ask of the arithmetic."""


class Opened:
    """The library of this process and the C functions of ggml in it."""

    def __init__(self) -> None:
        try:
            self.library = llama_abi.Library(os.environ.get(VARIABLE, ""), device="vulkan")
        except (WrongInput, Unavailable) as problem:
            raise Unavailable(str(problem), REMEDY, "KP-GGML-NOLIB") from None
        try:
            self.ggml = llama_abi.typed(self.library.ggml, SIGNATURES)
        except AttributeError as error:
            remedy = "use a build of llama.cpp whose ggml has it"
            raise Unavailable(f"ggml cannot be called ({error})", remedy, "KP-GGML-ABI") from None
        try:
            llama_abi.typed(self.ggml, PRECISION)
            self.declares = True
        except AttributeError:
            self.declares = False


@cache
def opened() -> Opened:
    """Opened once; raises Unavailable without a build."""
    return Opened()


class Place:
    """Bytes in a buffer of ggml's: where a tensor may be put. The first of a buffer owns it; ``memory`` is what lies
    under the buffer where ggml has not allocated that.
    """

    def __init__(self, buffer: int, address: int, nbytes: int, owner: Place | None = None, memory: Any = None) -> None:
        self.buffer, self.address, self.nbytes, self.owner, self.memory = buffer, address, nbytes, owner, memory
        self.graph = Graph({"bytes": self})
        self.bytes = self.graph.tensor("bytes", "i8", nbytes)

    def part(self, start: int, nbytes: int) -> Place:
        """Some of the bytes."""
        return Place(self.buffer, self.address + start, nbytes, self.owner or self)

    def __del__(self) -> None:
        self.graph.free()
        if self.owner is None:
            opened().ggml.ggml_backend_buffer_free(self.buffer)


class Graph:
    """Tensors in ggml's order of sizes, the fastest first, of as many ``launches``. Those named in ``places`` lie
    there; without places nothing has memory, and the graph can be asked about but not computed.
    """

    def __init__(self, places: dict[str, Place] | None = None, launches: int = 1) -> None:
        self.places, self.ggml, self.launches = places, opened().ggml, launches
        self.context = self.ggml.ggml_init(Init((launches + 1) * LAUNCH_BYTES, None, True))
        self.nodes: list[int] = []
        self.refused = ""
        """Why a wish of the graph cannot be said to this build; empty where all were."""

    def tensor(self, name: str, kind: str, *sizes: int) -> int:
        """A new tensor at the place of its name."""
        full = (*sizes, *(1,) * (4 - len(sizes)))
        made: int = self.ggml.ggml_new_tensor_4d(self.context, TYPES[kind], *full)
        self.put(name, made)
        return made

    def put(self, name: str, tensor: int) -> None:
        """Lay a tensor that has no memory at a place."""
        if self.places is not None:
            place = self.places[name]
            needed = self.ggml.ggml_nbytes(tensor)
            assert needed <= place.nbytes, f"{name} has {place.nbytes} bytes, ggml wants {needed}"
            self.ggml.ggml_backend_tensor_alloc(place.buffer, tensor, place.address)

    def seen(self, view: int) -> int:
        """A view of what has memory, ready for use."""
        if self.places is not None:
            self.ggml.ggml_backend_view_init(view)
        return view

    def view(self, tensor: int, sizes: Sequence[int], strides: Sequence[int], offset: int = 0) -> int:
        """Sizes of four dimensions; strides in bytes of the last three."""
        return self.seen(self.ggml.ggml_view_4d(self.context, tensor, *sizes, *strides, offset))

    def swapped(self, tensor: int) -> int:
        """With the second and third dimension exchanged."""
        return self.seen(self.ggml.ggml_permute(self.context, tensor, 0, 2, 1, 3))

    def node(self, name: str, function: str, *arguments: Any) -> int:
        """The result of ``ggml_<function>``, at a place."""
        made: int = getattr(self.ggml, f"ggml_{function}")(self.context, *arguments)
        self.put(name, made)
        self.nodes.append(made)
        return made

    def copied(self, source: int, target: int) -> int:
        """``ggml_cpy``, whose result is a view of the target."""
        made = self.seen(self.ggml.ggml_cpy(self.context, source, target))
        self.nodes.append(made)
        return made

    def exact(self, node: int, *sources: int) -> None:
        """Ask for sums in f32, and that these sources are not rounded below f32 on the way."""
        if not opened().declares:
            self.refused = "this build has no ggml_prec_set_acc"
        elif not self.ggml.ggml_prec_set_acc(node, PREC_F32):
            self.refused = "ggml_prec_set_acc(F32) says no"
        elif not all(self.ggml.ggml_prec_set_src(node, PREC_F32, at) for at in sources):
            self.refused = "ggml_prec_set_src(F32) says no"

    def whole(self) -> int:
        """The graph of all nodes."""
        graph: int = self.ggml.ggml_new_graph_custom(self.context, (self.launches + 1) * LAUNCH_NODES, False)
        for node in self.nodes:
            self.ggml.ggml_build_forward_expand(graph, node)
        return graph

    def free(self) -> None:
        """Nothing of it may be used afterwards."""
        if self.context:
            self.ggml.ggml_free(self.context)
        self.context = None
