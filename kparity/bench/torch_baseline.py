"""torch's own matrix-vector product with weights of another type, beside a ternary GEMV of the same N×K."""

from __future__ import annotations

import time
from typing import Any

from kparity.bench.machine import cache_bytes, identity
from kparity.bench.timing import Sample, Series, WarmUp, state_of, turns
from kparity.device.adapter import Backend

PIECE = 16384
"""Rows whose truth is computed at once."""
DTYPES = {
    "bf16": ("bfloat16", 2, (2.0**-7, 1.0)),
    "f16": ("float16", 2, (2.0**-7, 1.0)),
    "f32": ("float32", 4, (0.0, 0.0)),
}
"""Name in torch, bytes of an element, and the error granted against exact sums: relative and absolute. Sums of these
integers are below 2^24, so f32 has none."""

ELEMENT_BYTES = {name: size for name, (_, size, _) in DTYPES.items()}


class TorchGemv:
    """``y[N] = W[N, K] x[K]`` by torch.mv, replayed from a CUDA graph where the device has them.

    ``backend`` is the torch backend, ``dtype`` a name of ``DTYPES``; weights rotate through ``cold`` bytes, or through
    one copy where that is 0.
    """

    def __init__(self, backend: Backend, n: int, k: int, dtype: str, cold: int) -> None:
        torch = self.torch = backend.torch  # type: ignore[attr-defined]
        self.backend, self.dtype = backend, dtype
        name, size, self.tolerance = DTYPES[dtype]
        kind, self.nbytes = getattr(torch, name), n * k * size
        self.copies = max(1, -(-cold // self.nbytes))
        self.cold = cold > 0 and self.copies * self.nbytes >= max(cold, cache_bytes(backend.info))
        self.device = backend.device  # type: ignore[attr-defined]
        # Values that every type holds exactly: only the sum's rounding differs between the types and truth.
        self.weights = [
            torch.randint(-1, 2, (n, k), device=self.device, dtype=torch.int8).to(kind) for _ in range(self.copies)
        ]
        self.x = torch.randint(-8, 9, (k,), device=self.device, dtype=torch.int8).to(kind)
        self.y = [torch.empty(n, device=self.device, dtype=kind) for _ in range(self.copies)]
        self.shape, self.flops = f"mv_{dtype}[K={k},N={n}]", 2 * n * k
        self.state = state_of(self.cold, self.copies)
        self.name = f"torch mv {dtype} K={k} N={n} {self.state}"
        self.turns = turns(self.copies, self.nbytes) if self.device.type == "cuda" else 1
        self.graph: Any = None
        self.awake = WarmUp()
        self._record()

    def _record(self) -> None:
        """Run once, and capture the rotation where the device can replay it."""
        torch = self.torch
        with torch.inference_mode():
            self._run()
            self.backend.sync()
            if self.device.type == "cuda":
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self._run()

    def _run(self) -> None:
        for _ in range(self.turns):
            for weight, y in zip(self.weights, self.y, strict=True):
                self.torch.mv(weight, self.x, out=y)

    def sample(self) -> Sample:
        """One walk through the rotation, after others where the processors have rested."""
        return self.awake.sample(self._walk, self._walk)

    def _walk(self) -> Sample:
        self.backend.sync()
        began = time.perf_counter()
        if self.graph is None:
            with self.torch.inference_mode():
                self._run()
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
        self.sample()
        self.backend.sync()
        relative, absolute = self.tolerance
        for weight, y in zip(self.weights, self.y, strict=True):
            for at in range(0, len(y), PIECE):
                want = (weight[at : at + PIECE].float() * self.x.float()).sum(dim=1)
                error = (y[at : at + PIECE].float() - want).abs()
                if not bool((error <= relative * want.abs() + absolute).all()):
                    return f"output wrong: torch mv {self.dtype} is off by {float(error.max()):g}"
        return None

    def series(self) -> Series:
        """For ``interleave``."""
        about = {
            **identity(self.backend.info), "op": f"mv_{self.dtype}", "case": self.shape, "copies": self.copies,
            "state": self.state, "clock": "wall" if self.graph is None else "device",
            "baseline": True,
        }  # fmt: skip
        launches = self.copies * self.turns
        return Series(self.name, self.sample, launches, self.nbytes, self.cold, self.check, about, flops=self.flops)
