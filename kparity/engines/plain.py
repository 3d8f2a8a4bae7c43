"""The plain fp64 pass as an engine: ``reference``. It has no cache, and computes every position anew."""

from __future__ import annotations

from collections.abc import Sequence

from kparity.engines.base import Engine, Facts, Spec
from kparity.model import load_model
from kparity.ops.spec import Array
from kparity.plain import facts, logits


class Plain(Engine):
    """The reference of the probe, ``kparity.plain``; ``precision=f32`` is its second pass, the noise of rounding."""

    def __init__(self, spec: Spec, *, model: str, context: int, threads: int, act: str, kv: str) -> None:
        spec.only("act", "kv", "precision")
        self.act, self.kv = spec.choice("act", act, "token", "block256"), spec.choice("kv", kv, "f16", "f32")
        self.rounded = spec.choice("precision", "fp64", "f32") == "f32"
        self.words, self.path, self.tokens = load_model(model), model, list[int]()
        f, h = facts(model), self.words.hparams
        self.facts = Facts(
            name=f"plain {'f32' if self.rounded else 'fp64'}", device="host", kind="cpu", model=model, vocab=f.vocab,
            numerics=f"int8 activations per {self.act}, f32", context=context or h.context, layers=f.layers,
            width=f.width, kv=self.kv, bos=h.bos, eos=h.eos, add_bos=h.add_bos,
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        return self.words.tokenizer.encode(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.tokens = []

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``; f64 until it is handed on."""
        self.tokens += tokens
        found = logits(self.path, self.tokens, act=self.act, kv=self.kv)
        return (found.rounded if self.rounded else found.logits)[-len(tokens) :]

    def step(self, token: int) -> Array:
        """As ``Engine.step``."""
        return self.score([token])[0]
