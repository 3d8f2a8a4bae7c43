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
from kparity.bench.machine import cache_bytes, cold_bytes
from kparity.bench.ops.session import Group
from kparity.bench.timing import MANY, Sample, Timed, row_of, state_of
from kparity.device.adapter import DeviceInfo
from kparity.engines import llama_abi
from kparity.errors import Unavailable, WrongInput
from kparity.model.writer import encode
from kparity.ops.spec import Array, Case

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
    try:
        return llama_abi.typed(llama_abi.Library().ggml, SIGNATURES)
    except AttributeError as error:
        raise Unavailable(
            f"ggml cannot be called ({error})", "use another release of xllamacpp", "KP-LLAMACPP-ABI"
        ) from None


class GgmlGemv(Timed):
    """``y[N] = W[N, K] x[K]`` by ``ggml_mul_mat``: graphs of products over ``copies`` of the weights, in turn.

    ``info`` says where it runs; ``cold`` whether the copies are more than a cache holds.
    """

    def __init__(self, info: DeviceInfo, n: int, k: int, threads: int, copies: int, cold: bool) -> None:
        self.lib, self.n = library(), n
        rng = np.random.default_rng([n, k])
        weights = rng.integers(-1, 2, (n, k), np.int8)
        # Every block of activations reaches 127, so that their quantisation to 8 bits is exact, and so are the sums.
        activations = rng.integers(-127, 128, k).astype(np.float32)
        activations[::BLOCK] = 127
        self.truth = weights.astype(np.float64) @ activations
        raw = encode("tq2_0", weights, np.ones((n, k // BLOCK), np.float32))
        per_sample, state = min(MANY, max(copies, MANY // 2)), state_of(cold, copies)
        super().__init__(row_of(
            info, "mul_mat_TQ2_0", len(raw), units=per_sample, cold=cold, state=state, copies=copies, clock="wall",
            name=f"ggml mul_mat TQ2_0 K={k} N={n} {state}", case=f"mul_mat_TQ2_0[K={k},N={n}]", baseline=True,
        ), flops=2 * n * k)  # fmt: skip
        products = -(-copies // per_sample) * per_sample
        self.backend = self.lib.ggml_backend_cpu_init()
        self.lib.ggml_backend_cpu_set_n_threads(self.backend, threads)
        room = copies * (len(raw) + TENSOR_BYTES) + products * (4 * n + TENSOR_BYTES) + SPARE_BYTES
        self.memory = aligned_empty((room,), np.dtype(np.uint8))  # on huge pages, as the weights of the cpu backend
        self.context = self.lib.ggml_init(Init(room, self.memory.ctypes.data, False))
        x = self._tensor(F32, k, 1, activations.tobytes())
        self.weights = [self._tensor(TQ2_0, k, n, raw) for _ in range(copies)]
        turns = (self.weights * -(-products // copies))[:products]
        self.graphs = [self._graph(turns[at : at + per_sample], x) for at in range(0, products, per_sample)]
        self.next_index = 0

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
        """As ``Timed.sample``, until the threads rest."""
        sample = super().sample()
        rest()
        return sample

    def run(self) -> Sample:
        """The next graph."""
        graph, _ = self.graphs[self.next_index % len(self.graphs)]
        self.next_index += 1
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
            self.run()
        rest()
        for output in outputs:
            error = np.abs(output - self.truth)
            if not (error <= 1e-6 * np.abs(self.truth)).all():
                return f"output wrong: ggml's product is off by {error.max():g}"
        return None

    def _output(self, result: Any) -> Array:
        data = ctypes.cast(self.lib.ggml_get_data(result), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, (self.n,))

    def free(self) -> None:
        """Give back the weights; nothing may be sampled afterwards."""
        self.graphs.clear()
        self.lib.ggml_free(self.context)
        self.lib.ggml_backend_free(self.backend)
        del self.memory


class GgmlSession(Group):
    """The product of the shape of a ternary GEMV of whole blocks, cold and hot.

    ``threads``: 0 for as many as ``llamacpp.threads``; other options of a session mean nothing here.
    """

    def __init__(self, *, threads: int = 0, cold_mib: int = 1024, **_: Any) -> None:
        library()
        self.threads = threads or llamacpp.threads()
        super().__init__(llamacpp.processor(f"ggml, {self.threads} thread{'s' * (self.threads > 1)}"), cold_mib)

    def made(self, case: Case) -> list[Timed]:
        """As ``Group.made``."""
        if case.op != "tgemv" or case["M"] != 1 or case["K"] % BLOCK:
            return []
        n, k, cold = case["N"], case["K"], cold_bytes(self.info, self.cold_mib << 20)
        many, beyond = -(-cold // (n * k // BLOCK * 66)), cold >= cache_bytes(self.info)
        return [GgmlGemv(self.info, n, k, self.threads, copies, copies > 1 and beyond)
                for copies in ([many, 1] if self.cold_mib else [1])]  # fmt: skip
