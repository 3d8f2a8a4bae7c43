"""torch's own matrix-vector product with weights of another type, beside a ternary GEMV of the same N×K."""

from __future__ import annotations

import time
from typing import Any

from kparity.bench.machine import cache_bytes
from kparity.bench.ops.rotation import LEAST_GPU, PIECE
from kparity.bench.ops.session import Session
from kparity.bench.timing import Sample, Timed, row_of, state_of
from kparity.device.adapter import Backend
from kparity.ops.spec import Case

DTYPES = {"bf16": ("bfloat16", 2, (2.0**-7, 1.0)), "f32": ("float32", 4, (0.0, 0.0))}
"""Name in torch, bytes of an element, and the error granted against exact sums: relative and absolute. Sums of these
integers are below 2^24, so f32 has none."""
MOST_BYTES = 8 << 30
"""What one sample reads at most."""


def walks(copies: int, nbytes: int) -> int:
    """How often one sample walks through a rotation of so many copies of so many bytes."""
    return max(1, min(-(-LEAST_GPU // copies), MOST_BYTES // (copies * nbytes)))


class TorchGemv(Timed):
    """``y[N] = W[N, K] x[K]`` by torch.mv, replayed from a CUDA graph where the device has them.

    ``backend`` is the torch backend, ``dtype`` a name of ``DTYPES``; weights rotate through ``cold`` bytes, or through
    one copy where that is 0.
    """

    def __init__(self, backend: Backend, n: int, k: int, dtype: str, cold: int) -> None:
        torch = self.torch = backend.torch  # type: ignore[attr-defined]
        name, size, self.tolerance = DTYPES[dtype]
        kind, nbytes = getattr(torch, name), n * k * size
        copies = max(1, -(-cold // nbytes))
        device = backend.device  # type: ignore[attr-defined]
        graphed = device.type == "cuda"
        self.walks = walks(copies, nbytes) if graphed else 1
        is_cold = cold > 0 and copies * nbytes >= max(cold, cache_bytes(backend.info))
        state = state_of(is_cold, copies)
        row = row_of(
            backend.info, f"mv_{dtype}", nbytes, units=copies * self.walks, cold=is_cold, state=state, copies=copies,
            name=f"torch mv {dtype} K={k} N={n} {state}", case=f"mv_{dtype}[K={k},N={n}]", baseline=True,
            clock="device" if graphed else "wall",
        )  # fmt: skip
        super().__init__(row, flops=2 * n * k)
        # Values that every type holds exactly: only the sum's rounding differs between the types and truth.
        self.weights = [torch.randint(-1, 2, (n, k), device=device, dtype=torch.int8).to(kind) for _ in range(copies)]
        self.x = torch.randint(-8, 9, (k,), device=device, dtype=torch.int8).to(kind)
        self.y = [torch.empty(n, device=device, dtype=kind) for _ in range(copies)]
        self.backend = backend
        self.graph: Any = None
        with torch.inference_mode():
            self._launch()
            backend.sync()
            if graphed:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self._launch()

    def _launch(self) -> None:
        for _ in range(self.walks):
            for weight, y in zip(self.weights, self.y, strict=True):
                self.torch.mv(weight, self.x, out=y)

    def run(self) -> Sample:
        """The walks through the rotation that make a sample."""
        self.backend.sync()
        began = time.perf_counter()
        if self.graph is None:
            with self.torch.inference_mode():
                self._launch()
            seconds = time.perf_counter() - began
            return Sample(seconds, seconds)
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        self.graph.replay()
        last.record()
        last.synchronize()
        return Sample(first.elapsed_time(last) * 1e-3, time.perf_counter() - began)

    def check(self) -> str | None:
        """Every output against fp32 sums of these integers, which are exact."""
        for y in self.y:
            y.fill_(float("nan"))
        self.run()
        self.backend.sync()
        relative, absolute = self.tolerance
        for weight, y in zip(self.weights, self.y, strict=True):
            for at in range(0, len(y), PIECE):
                want = (weight[at : at + PIECE].float() * self.x.float()).sum(dim=1)
                error = (y[at : at + PIECE].float() - want).abs()
                if not bool((error <= relative * want.abs() + absolute).all()):
                    return f"output wrong: {self.row.name} is off by {float(error.max()):g}"
        return None


class TorchSession(Session):
    """torch's products of the shape of a GEMV, each type cold and hot."""

    def made(self, case: Case) -> list[Timed]:
        """As ``Group.made``."""
        if case.op not in ("tgemv", "dense_gemv") or case["M"] != 1:
            return []
        n, k = case["N"], case["K"]
        return [TorchGemv(self.backend, n, k, dtype, cold)
                for dtype, (_, size, _) in DTYPES.items() for cold in self.sizes(n * k * size)]  # fmt: skip
