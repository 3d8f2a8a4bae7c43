"""A model in transformers as an engine: ``transformers:exported`` with the weights of the GGUF file, or
``transformers:FOLDER`` as transformers saved it.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np

from kparity.device.fingerprint import version
from kparity.engines import hf_weights, hf_words
from kparity.engines.base import DeviceRow, Engine, Facts, Sink, Spec, matching, needed
from kparity.engines.hf_words import CODE
from kparity.errors import WrongInput
from kparity.ops.spec import Array

RANGE = "relu² is not kept within the range of f16"
CONTEXT = 1 << 20
"""Positions of a model that knows no number of them."""


class Transformers(Engine):
    """In f32 on the processor, ``threads`` of it; ``act=none`` leaves the activations of an exported model whole."""

    def __init__(self, spec: Spec, *, model: str, context: int) -> None:
        own = spec.place in ("", "exported")
        spec.only(*(("act",) if own else ()), "threads")
        act, threads = spec.choice("act", "token", "none"), spec.threads()
        self.torch = needed("torch", "hf", CODE)
        self.torch.set_num_threads(threads)
        self.net = hf_weights.exported(model, act) if own else hf_weights.loaded(spec.place)
        vocab = self.net.config.get_text_config().vocab_size
        self.words = hf_words.of_file(model, vocab) if own else hf_words.of_folder(spec.place)
        parameters = signature(self.net.forward).parameters
        self.cached = next((each for each in ("cache", "past_key_values") if each in parameters), "")  # by its release
        if not self.cached:
            raise spec.wrong(f"{type(self.net).__name__} has no cache of keys and values; name another model")
        self.paired = own and hf_weights.FAMILIES.get(self.net.config.model_type, hf_weights.Family("")).paired
        """Whether the file's rows of q and k stand in pairs, and those of this model in halves."""
        self.state: Any = None
        self.fed, c = 0, self.net.config.get_text_config()
        heads = getattr(c, "num_attention_heads", 0)
        room = getattr(c, "max_position_embeddings", 0) or CONTEXT
        bits = any(hasattr(each, "online_quant") for each in self.net.modules())
        bos, eos = (self.words.bos, self.words.eos) if self.words else (None, None)
        self.facts = Facts(
            name=f"transformers {type(self.net).__name__}", model=model if own else spec.place,
            version=f"transformers {version('transformers')}, torch {version('torch')}", vocab=c.vocab_size,
            context=min(context or room, room), layers=c.num_hidden_layers,
            width=c.hidden_size, kv_heads=getattr(c, "num_key_value_heads", None) or heads, sequences=2,
            head_dim=getattr(c, "head_dim", None) or (heads and c.hidden_size // heads),
            bos=-1 if bos is None else bos, eos=-1 if eos is None else eos,
            add_bos=bool(self.words and self.words.add_bos), numerics="int8 token, f32" if bits else "f32", kv="f32",
            devices=(DeviceRow("torch", "the processor, in torch", "cpu", True),), threads=threads, traces=True,
            activations="int8 token" if bits else "f32",
            weaknesses=(RANGE,) if getattr(c, "hidden_act", "") == "relu2" else (),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """As ``Engine.tokenize``."""
        if self.words is None:
            raise WrongInput(f"{self.facts.model} has no tokenizer that transformers reads; give token ids")
        return self.words.encode(text)

    def reset(self) -> None:
        """As ``Engine.reset``."""
        self.state, self.fed = None, 0

    def score(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.score``, in one batch."""
        return np.asarray(self._logits([tokens], 0)[0])

    def score_beside(self, tokens: Sequence[int], neighbours: Sequence[int]) -> Array:
        """As ``Engine.score_beside``."""
        self.reset()
        self.check(neighbours, 0)
        padded = [*neighbours, *tokens[len(neighbours) :]]  # which its own tokens do not see
        return np.asarray(self._logits([tokens, padded], 0)[0])

    def prefill(self, tokens: Sequence[int]) -> Array:
        """As ``Engine.prefill``."""
        return np.asarray(self._logits([tokens], 1)[0, 0])

    def trace(self, tokens: Sequence[int], slots: Sequence[str], sink: Sink) -> Array:
        """As ``Engine.trace``: what a module gives has its name, ``model.layers.3.self_attn.q_proj``, and what it is
        given that with ``:in`` behind it; q and k in the order of the file, before they turn.
        """

        def hook(name: str) -> Any:
            def told(_module: Any, given: Any, out: Any) -> None:
                for key, values in ((f"{name}:in", given), (name, out)):
                    tensor = values[0] if isinstance(values, tuple) and values else values
                    if isinstance(tensor, self.torch.Tensor) and tensor.dtype.is_floating_point and wants(key):
                        found = tensor.float().numpy().reshape(len(tokens), -1)
                        turns = key.endswith(("q_proj", "k_proj")) and self.paired
                        sink(key, hf_weights.paired(found, self.facts.head_dim) if turns else found)

            return told

        wants = matching(slots)
        chosen = [each.register_forward_hook(hook(name)) for name, each in self.net.named_modules() if name]
        try:
            return self.score(tokens)
        finally:
            for each in chosen:
                each.remove()

    def _logits(self, sequences: Sequence[Sequence[int]], keep: int) -> Array:
        """Of each sequence [sequences, tokens, vocab] the last ``keep`` tokens, or all for 0."""
        tokens = sequences[0]
        self.check(tokens, self.fed)
        with self.torch.inference_mode(), self.torch.compiler.set_stance("force_eager"):  # ActQuant asks for a compiler
            given = {} if self.state is None else {self.cached: self.state}
            out = self.net(
                input_ids=self.torch.tensor([list(each) for each in sequences]),
                use_cache=True,
                logits_to_keep=keep,
                return_dict=True,
                **given,
            )
        self.state, self.fed = out[self.cached], self.fed + len(tokens)
        return np.array(out.logits.float().numpy())

    def close(self) -> None:
        """As ``Engine.close``."""
        self.net = self.state = None
