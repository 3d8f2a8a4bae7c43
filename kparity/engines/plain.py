"""The plain fp64 pass as an engine: ``reference``, and ``f16``, the same without quantisation of activations. It has no
cache, and computes every position anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kparity import __version__, plain
from kparity.engines.base import DeviceRow, Engine, Facts, Sink, Spec, matching
from kparity.model import load_model
from kparity.ops.spec import ACTS, Array


class Plain(Engine):
    """The reference of the probe, ``kparity.plain``; ``precision=f32`` is its second pass, the noise of rounding."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        whole = spec.kind == "f16"
        spec.only(*(() if whole else ("act",)), "kv", "precision")
        if spec.place:
            raise spec.wrong(f"the {spec.kind} has no {spec.place!r}; write {spec.kind}?kv=f32")
        self.act = "none" if whole else spec.choice("act", *ACTS)
        self.kv, met = spec.choice("kv", "f16", "f32"), "not quantised" if whole else f"int8 {self.act}"
        precision = spec.choice("precision", "fp64", "f32")
        self.rounded = precision == "f32"
        self.words, self.path, self.tokens = load_model(model), model, list[int]()
        f, h = plain.facts(model), self.words.hparams
        self.facts = Facts(
            name=f"{spec.kind} {precision}", version=f"kparity {__version__}", model=model, vocab=f.vocab,
            layers=f.layers, context=min(context or h.context, h.context), width=f.width, kv_heads=f.kv_heads,
            head_dim=f.head_dim,
            bos=-1 if h.bos is None else h.bos, eos=-1 if h.eos is None else h.eos, add_bos=h.add_bos, traces=True,
            devices=(DeviceRow("numpy", "the processor, in numpy", "cpu", True),), kv=self.kv,
            numerics=f"{met}, {precision}", activations=met,
            weaknesses=("it keeps no cache: a step costs a whole pass, and its steps are no test of one",),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return self.words.tokenizer.encode(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.tokens = []

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``."""
        return self.trace(tokens, (), lambda name, values: None)

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """As ``Engine.trace``; names are the keys of ``kparity.traces.slots``."""
        self.check(tokens, len(self.tokens))
        self.tokens += tokens
        wanted, last = matching(slots), slice(-len(tokens), None)

        def show(name: str, values: Sequence[Array]) -> None:
            if wanted(name):
                sink(name, np.asarray(values[self.rounded][last], np.float32))

        found = plain.logits(self.path, self.tokens, act=self.act, kv=self.kv, show=show)
        return np.asarray((found.rounded if self.rounded else found.logits)[last], np.float32)

    def close(self) -> None:
        """As ``Engine.close``."""
        self.words.close()
