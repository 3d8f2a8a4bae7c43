"""The places of a forward pass that a trace records: what each of them means, what it is made of, and what it may lose.

A key names one of them in one layer: ``3.ffn_gate``; ``3.k_cache.1`` is of the second head; ``logits`` is of no layer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kparity.errors import UnknownName, WrongInput

Kind = Literal["given", "exact", "product", "attention"]


@dataclass(frozen=True)
class Slot:
    """``means`` says between which operations the value stands; ``inputs`` are the slots from which it is made, ``<``
    before those of the layer below. A ``product`` reads activations that an engine may quantise.
    """

    means: str
    inputs: tuple[str, ...]
    kind: Kind = "exact"


STREAM = "<output"
TABLE: Mapping[str, Slot] = {
    "embd": Slot("the embeddings of the tokens", (), "given"),
    "attn_norm": Slot("after the norm and its weight, before q, k and v", (STREAM,)),
    "qkv": Slot("q, k and v side by side, before RoPE", ("attn_norm",), "product"),
    "attn_q_norm": Slot("q after the norm of each head and its weight", ("qkv",)),
    "attn_k_norm": Slot("k after the norm of each head and its weight", ("qkv",)),
    "q_rope": Slot("q after RoPE", ("attn_q_norm",)),
    "k_rope": Slot("k after RoPE", ("attn_k_norm",)),
    "k_cache": Slot("k after RoPE, as the cache holds it", ("k_rope",)),
    "v_cache": Slot("v as the cache holds it", ("qkv",)),
    "attention": Slot("softmax(q·k)·v, before the output projection", ("q_rope", "k_cache", "v_cache"), "attention"),
    "attn_sub_norm": Slot("after the norm of attention and its weight", ("attention",)),
    "attn_out": Slot("after the output projection, before the residual", ("attn_sub_norm",), "product"),
    "attn_residual": Slot("the residual stream after attention", (STREAM, "attn_out")),
    "ffn_norm": Slot("after the norm and its weight, before gate and up", ("attn_residual",)),
    "ffn_gate": Slot("the gate, before its activation", ("ffn_norm",), "product"),
    "ffn_up": Slot("the up projection", ("ffn_norm",), "product"),
    "ffn_silu_gate": Slot("the activation of the gate (SiLU or relu²)", ("ffn_gate",)),
    "ffn_swiglu_inner": Slot("activation of the gate times up", ("ffn_gate", "ffn_up")),
    "ffn_sub_norm": Slot("after the norm of that product and its weight", ("ffn_swiglu_inner",)),
    "ffn_out": Slot("after the down projection, before the residual", ("ffn_sub_norm",), "product"),
    "output": Slot("the residual stream after the layer", ("attn_residual", "ffn_out")),
    "result_norm": Slot("after the last norm and its weight", (STREAM,)),
    "logits": Slot("the logits", ("result_norm",), "product"),
}
"""In order of computation."""
GLOBAL = ("embd", "result_norm", "logits")
"""Those of no layer."""
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
"""Those of the few models that have such norms: that others lack them is not told."""
HEADS = ("k_cache", "v_cache")
"""Those that are recorded head by head."""
ABSENT = -1
"""Instead of a layer or a head."""
ORDER = {name: at for at, name in enumerate(TABLE)}
KEY = re.compile(r"(?:(\d{1,4})\.)?([a-z_]+)(?:\.(\d{1,4}))?", re.ASCII)


@dataclass(frozen=True)
class Key:
    """A slot of a layer and, of the cache, of a head."""

    layer: int
    slot: str
    head: int = ABSENT

    @classmethod
    def parse(cls, text: str) -> Key:
        """Raises UnknownName for a slot that does not exist, WrongInput for a layer or head where there is none."""
        found = KEY.fullmatch(text)
        if not found:
            raise UnknownName("trace slot", text, TABLE)
        layer, slot, head = found.groups()
        if slot not in TABLE:
            raise UnknownName("trace slot", slot, TABLE)
        if (layer is None) != (slot in GLOBAL) or (head is not None and slot not in HEADS):
            raise WrongInput(f"{text} is no place of a trace: {slot} is written {_form(slot)}")
        return cls(ABSENT if layer is None else int(layer), slot, ABSENT if head is None else int(head))

    def __str__(self) -> str:
        return ".".join(str(each) for each in (self.layer, self.slot, self.head) if each != ABSENT)

    @property
    def name(self) -> str:
        """Without its layer: ``ffn_gate``, ``k_cache.1``."""
        return self.slot + (f".{self.head}" if self.head != ABSENT else "")

    @property
    def place(self) -> str:
        """For people: ``layer 3 ffn_gate``."""
        layer = f"layer {self.layer} " if self.layer != ABSENT else ""
        return layer + self.slot + (f" head {self.head}" if self.head != ABSENT else "")

    @property
    def order(self) -> tuple[int, int, int]:
        """What is computed earlier is smaller."""
        layer = self.layer if self.layer != ABSENT else ABSENT if self.slot == "embd" else 1 << 30
        return layer, ORDER[self.slot], self.head

    def inputs(self, there: Collection[Key]) -> list[Key] | None:
        """What it is made of, of what is there. An input that is not there is replaced by its own inputs; None where
        one of them is a product, whose own loss would be taken for that of this slot.
        """
        found: list[Key] = []
        for key in self._made_of(there):
            heads = [each for each in there if (each.layer, each.slot) == (key.layer, key.slot)]
            if heads or TABLE[key.slot].kind in ("product", "given", "attention"):
                if not heads:
                    return None
                found += heads if self.head == ABSENT else [each for each in heads if each.head in (ABSENT, self.head)]
                continue
            further = key.inputs(there)
            if further is None:
                return None
            found += further
        return list(dict.fromkeys(found))

    def _made_of(self, there: Collection[Key]) -> Iterator[Key]:
        below = self.layer - 1 if self.layer != ABSENT else max(each.layer for each in there)
        for name in TABLE[self.slot].inputs:
            if name == STREAM:
                yield Key(below, "output") if below >= 0 else Key(ABSENT, "embd")
            else:
                yield Key(ABSENT if name in GLOBAL else self.layer, name)


def _form(slot: str) -> str:
    return slot if slot in GLOBAL else f"LAYER.{slot}" + (" or LAYER.SLOT.HEAD" if slot in HEADS else "")
