"""ggml's own matrix-vector product with TQ2_0 weights, beside a ternary GEMV of the same N×K: the library inside the
wheel ``xllamacpp``, without llama.cpp around it.

The product quantises its activations by itself, which a ``tgemv`` leaves to ``act_quant``: compare it with the sum of
the two.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from kparity.backends._memory import aligned_empty
from kparity.bench import llamacpp
from kparity.bench.machine import cache_bytes, cold_bytes, identity
from kparity.bench.ops.cases import case_of
from kparity.bench.ops.session import Group
from kparity.bench.timing import MANY, Sample, Series, WarmUp, state_of
from kparity.errors import Unavailable, WrongInput
from kparity.model.writer import encode
from kparity.ops.spec import Array

F32, TQ2_0 = 0, 35
"""Values of ggml_type."""
BLOCK = 256
"""Activations that share a scale."""
TENSOR_BYTES = 4096
"""Room for what ggml keeps beside the data of a weight, a product and their place in a graph."""
SPARE_BYTES = 1 << 24
LOOK_S, IDLE, REST_S = 0.02, 0.1, 3.0
"""After a sample ggml's threads spin before they sleep, on the processors that the next one wants: how often
this process's processor time is looked at, the share of a processor that counts as none, and the longest wait.
"""
HANDLE, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64


def rest() -> None:
    """Wait until no thread of this process spends processor time."""
    until = time.monotonic() + REST_S
    while time.monotonic() < until:
        before = time.process_time()
        time.sleep(LOOK_S)
        if time.process_time() - before < IDLE * LOOK_S:
            return


class Init(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", HANDLE), ("no_alloc", ctypes.c_bool))


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (HANDLE, [Init]),
    "ggml_free": (None, [HANDLE]),
    "ggml_new_tensor_2d": (HANDLE, [HANDLE, INT, LONG, LONG]),
    "ggml_nbytes": (ctypes.c_size_t, [HANDLE]),
    "ggml_get_data": (HANDLE, [HANDLE]),
    "ggml_mul_mat": (HANDLE, [HANDLE, HANDLE, HANDLE]),
    "ggml_new_graph_custom": (HANDLE, [HANDLE, ctypes.c_size_t, ctypes.c_bool]),
    "ggml_build_forward_expand": (None, [HANDLE, HANDLE]),
    "ggml_backend_cpu_init": (HANDLE, []),
    "ggml_backend_cpu_set_n_threads": (None, [HANDLE, INT]),
    "ggml_backend_graph_compute": (INT, [HANDLE, HANDLE]),
    "ggml_backend_free": (None, [HANDLE]),
}


def library() -> Any:
    """The C interface of ggml; raises Unavailable without it."""
    loaded, _ = llamacpp.library()
    try:
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise Unavailable(
            f"ggml cannot be called ({error})", "install another release of xllamacpp", "KP-LLAMACPP-ABI"
        ) from None
    return loaded


class GgmlGemv:
    """``y[N] = W[N, K] x[K]`` by ``ggml_mul_mat``: graphs of products over ``copies`` of the weights, in turn.

    ``about`` are fields of a row that say where it runs; ``cold`` whether the copies are more than a cache holds.
    """

    def __init__(self, about: dict[str, str], n: int, k: int, threads: int, copies: int, cold: bool) -> None:
        self.lib, self.identity, self.n, self.k, self.cold = library(), about, n, k, cold
        rng = np.random.default_rng([n, k])
        weights = rng.integers(-1, 2, (n, k), np.int8)
        # Every block of activations reaches 127, so that their quantisation to 8 bits is exact, and so are the sums.
        self.x = rng.integers(-127, 128, k).astype(np.float32)
        self.x[::BLOCK] = 127
        self.truth = weights.astype(np.float64) @ self.x
        raw = encode("tq2_0", weights, np.ones((n, k // BLOCK), np.float32))
        self.nbytes, self.copies = len(raw), copies
        self.per_sample = min(MANY, max(copies, MANY // 2))
        products = -(-copies // self.per_sample) * self.per_sample
        self.backend = self.lib.ggml_backend_cpu_init()
        self.lib.ggml_backend_cpu_set_n_threads(self.backend, threads)
        room = copies * (len(raw) + TENSOR_BYTES) + products * (4 * n + TENSOR_BYTES) + SPARE_BYTES
        self.memory = aligned_empty((room,), np.dtype(np.uint8))  # on huge pages, as the weights of the cpu backend
        self.context = self.lib.ggml_init(Init(room, self.memory.ctypes.data, False))
        x = self._tensor(F32, k, 1, self.x.tobytes())
        self.weights = [self._tensor(TQ2_0, k, n, raw) for _ in range(copies)]
        turns = (self.weights * -(-products // copies))[:products]
        self.graphs = [self._graph(turns[at : at + self.per_sample], x) for at in range(0, products, self.per_sample)]
        self.turn, self.awake = 0, WarmUp()

    def _tensor(self, kind: int, k: int, rows: int, raw: bytes) -> Any:
        tensor = self.lib.ggml_new_tensor_2d(self.context, kind, k, rows)
        if self.lib.ggml_nbytes(tensor) != len(raw):
            raise WrongInput(f"ggml wants {self.lib.ggml_nbytes(tensor)} bytes for [{rows}, {k}] of its type {kind}")
        ctypes.memmove(self.lib.ggml_get_data(tensor), raw, len(raw))
        return tensor

    def _graph(self, weights: list[Any], x: Any) -> tuple[Any, list[Any]]:
        """A graph of one product after the other, and the results."""
        graph = self.lib.ggml_new_graph_custom(self.context, 4 * len(weights) + 64, False)
        results = [self.lib.ggml_mul_mat(self.context, weight, x) for weight in weights]
        for result in results:
            self.lib.ggml_build_forward_expand(graph, result)
        return graph, results

    def sample(self) -> Sample:
        """The next graph, after others where the processors have rested."""
        found = self.awake.sample(self._compute, self._compute)
        rest()
        return found

    def _compute(self) -> Sample:
        graph, _ = self.graphs[self.turn % len(self.graphs)]
        self.turn += 1
        began = time.perf_counter()
        status = self.lib.ggml_backend_graph_compute(self.backend, graph)
        seconds = time.perf_counter() - began
        if status != 0:
            raise WrongInput(f"ggml_backend_graph_compute returned {status}")
        return Sample(seconds, seconds)

    def check(self) -> str | None:
        """Every result, poisoned and computed once more, against sums that are exact."""
        outputs = [self._output(result) for _, results in self.graphs for result in results]
        for output in outputs:
            output[:] = np.nan
        for _ in self.graphs:
            self.sample()
        for output in outputs:
            error = np.abs(output - self.truth)
            if not (error <= 1e-6 * np.abs(self.truth)).all():
                return f"output wrong: ggml's product is off by {error.max():g}"
        return None

    def _output(self, result: Any) -> Array:
        data = ctypes.cast(self.lib.ggml_get_data(result), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, (self.n,))

    def series(self) -> Series:
        """For ``interleave``."""
        state = state_of(self.cold, self.copies)
        about = {
            **self.identity, "op": "mul_mat_TQ2_0", "case": f"mul_mat_TQ2_0[K={self.k},N={self.n}]", "state": state,
            "clock": "wall", "copies": self.copies, "baseline": True,
        }  # fmt: skip
        name = f"ggml mul_mat TQ2_0 K={self.k} N={self.n} {state}"
        flops = 2 * self.n * self.k
        return Series(name, self.sample, self.per_sample, self.nbytes, self.cold, self.check, about, flops=flops)

    def free(self) -> None:
        """Give back the weights; nothing may be sampled afterwards."""
        self.graphs.clear()
        self.lib.ggml_free(self.context)
        self.lib.ggml_backend_free(self.backend)
        del self.memory


class GgmlSession(Group):
    """The products of the group at hand, with the methods of ``kparity.bench.ops.session.Session``.

    ``threads``: 0 for as many as ``llamacpp.threads``. ``cold_mib`` is the most that the cold weights take; 0 leaves
    them out.
    """

    def __init__(self, *, threads: int = 0, cold_mib: int = 1024) -> None:
        library()
        self.threads, self.cold_mib = threads or llamacpp.threads(), cold_mib
        self.info = llamacpp.processor(f"ggml, {self.threads} thread{'s' * (self.threads > 1)}")
        self.products: list[GgmlGemv] = []
        super().__init__()

    def device(self) -> dict[str, Any]:
        """As ``Session.device``."""
        sizes = {"cache_bytes": cache_bytes(self.info), "peak_bytes_per_s": 0.0}
        return {"info": self.info.as_dict(), "label": self.info.label, **sizes}

    def ceiling(self) -> list[dict[str, Any]]:
        """None of its own: the processor's is measured by the backends."""
        return []

    def build(self, group: dict[str, Any], baseline: list[str]) -> list[dict[str, Any]]:
        """The product of the same shape, cold and hot, where the group is a ternary GEMV of whole blocks."""
        self.release()
        case = case_of(group)
        if case.op != "tgemv" or case["M"] != 1 or case["K"] % BLOCK or "TQ2_0" not in baseline:
            return []
        n, k, cold = case["N"], case["K"], cold_bytes(self.info, self.cold_mib << 20)
        many = -(-cold // (n * k // BLOCK * 66))
        for copies in [many, 1] if self.cold_mib else [1]:
            is_cold = copies > 1 and cold >= cache_bytes(self.info)
            self.products.append(GgmlGemv(identity(self.info), n, k, self.threads, copies, is_cold))
        self.table = [product.series() for product in self.products]
        return self.described()

    def release(self) -> None:
        """Give back the weights of the last group."""
        for product in self.products:
            product.free()
        self.products, self.table = [], []

    def close(self) -> None:
        """As ``release``."""
        self.release()
