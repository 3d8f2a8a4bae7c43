"""kparity's own engine: ``kparity:BACKEND?act=block256&kv=f16&fused=0`` runs the model on a backend, as it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kparity import __version__
from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.engine import Engine as Served
from kparity.engine import traced
from kparity.engines.base import DeviceRow, Engine, Facts, Sink, Spec, matching
from kparity.model import load_model
from kparity.ops.spec import ACTS, Array


class Own(Engine):
    """A model on a backend; ``act`` is the quantisation of activations, ``kv`` the element type of the cache, and with
    ``fused=0`` every op is a launch of its own. ``isa`` and ``threads`` are the cpu backend's.
    """

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        adapter = registry.backend_class(spec.place or "cpu")
        spec.only("act", "kv", "fused", "index", *adapter.options)
        act, kv = spec.choice("act", *ACTS), spec.choice("kv", "f16", "f32")
        fused, index = spec.choice("fused", "1", "0") == "1", spec.number("index", 0)
        threads = spec.threads() if "threads" in spec.options else 0
        backend = self._opened(adapter.name, index=index, isa=spec.options.get("isa", ""), threads=threads)
        self.model = load_model(model)
        self.engine = self._served(backend, act=act, kv=kv, context=context, fused=fused)
        h, info = self.model.hparams, backend.info
        self.facts = Facts(
            name=f"kparity {backend.name}", version=f"kparity {__version__}", model=model, vocab=h.vocab,
            context=self.engine.context, layers=h.n_layer, width=h.width, kv_heads=h.n_kv, head_dim=h.head_dim,
            bos=-1 if h.bos is None else h.bos, eos=-1 if h.eos is None else h.eos, add_bos=h.add_bos, traces=True,
            devices=(DeviceRow(f"{backend.name} {index}", info.label, info.kind, True),), kv=kv,
            numerics=f"int8 {act}, f32", activations=f"int8 {act}", threads=getattr(backend, "threads", 0),
        )  # fmt: skip

    def _opened(self, name: str, **options: Any) -> Backend:
        return registry.open_backend(name, **options)

    def _served(self, backend: Backend, **options: Any) -> Served:
        return Served(self.model, backend, **options)

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return self.model.tokenizer.encode(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.engine.reset()

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return self.engine.prefill(tokens)

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self.engine.step(token)

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        return self.engine.score(tokens)

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """As ``Engine.trace``; names are the keys of ``kparity.traces.slots``."""
        return traced.trace(self.engine, tokens, traced.Hooks(matching(slots), sink))

    def close(self) -> None:
        """As ``Engine.close``."""
        self.engine.close()
        self.model.close()
