"""kparity's own engine: ``kparity:BACKEND?index=0&fused=no`` runs the model on a backend, as it serves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity.device import registry
from kparity.engine import Engine as Served
from kparity.engines.base import Engine, Facts, Spec
from kparity.model import load_model
from kparity.ops.spec import Array


class Own(Engine):
    """A model on a backend; ``act`` is the quantisation of activations, ``kv`` the element type of the cache."""

    def __init__(self, spec: Spec, *, model: str, context: int, threads: int, act: str, kv: str) -> None:
        spec.only("index", "fused", "act", "kv")
        act, kv = spec.choice("act", act, "token", "block256"), spec.choice("kv", kv, "f16", "f32")
        fused = spec.choice("fused", "yes", "no") == "yes"
        backend = registry.backend_class(spec.place or "cpu").open(spec.number("index", 0))
        self.model = load_model(model)
        self.engine = Served(self.model, backend, act=act, kv=kv, context=context, fused=fused)
        h, info = self.model.hparams, backend.info
        self.facts = Facts(
            name=f"kparity {backend.name}", device=info.device, kind=info.kind, api=info.api, model=str(self.model.path),
            numerics=f"int8 activations per {act}, f32", vocab=h.vocab, context=self.engine.context,
            layers=h.n_layer, width=h.width, kv=kv, bos=h.bos, eos=h.eos, add_bos=h.add_bos,
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return self.model.tokenizer.encode(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.engine.reset()

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        return self.engine.score(tokens)

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return np.asarray(self.engine.step(token))

    def close(self) -> None:
        """As ``Engine.close``."""
        self.engine.close()
        self.model.close()
