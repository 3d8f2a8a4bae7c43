"""From the names that engines and dumps give to slots: what is not known is told, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kparity.errors import KparityError, WrongInput
from kparity.ops.spec import Array
from kparity.traces.slots import ABSENT, GLOBAL, HEADS, Key

GGML: Mapping[str, str] = {
    r"(?:inp_)?embd:GET_ROWS": "embd",
    r"attn_norm-(\d+):MUL": "attn_norm",
    r"Qcur-(\d+):(?:MUL_MAT|MUL|ADD)": "qkv/0",
    r"Kcur-(\d+):(?:MUL_MAT|MUL|ADD)": "qkv/1",
    r"Vcur-(\d+):(?:MUL_MAT|MUL|ADD)": "qkv/2",
    r"Qcur_normed-(\d+):MUL": "attn_q_norm",
    r"Kcur_normed-(\d+):MUL": "attn_k_norm",
    r"Qcur-(\d+):ROPE": "q_rope",
    r"Kcur-(\d+):ROPE": "k_rope",
    r"cache_k_l(\d+) \(view\):VIEW": "k_cache",
    r"cache_v_l(\d+) \(view\):VIEW": "v_cache",
    r"kqv_out-(\d+):\w+": "attention",
    r"attn_sub_norm-(\d+):MUL": "attn_sub_norm",
    r"attn_out-(\d+):(?:MUL_MAT|MUL|ADD)": "attn_out",
    r"ffn_inp-(\d+):ADD": "attn_residual",
    r"ffn_norm-(\d+):MUL": "ffn_norm",
    r"ffn_gate-(\d+):(?:MUL_MAT|MUL|ADD)": "ffn_gate",
    r"ffn_up-(\d+):(?:MUL_MAT|MUL|ADD)": "ffn_up",
    r"ffn_silu-(\d+):\w+": "ffn_silu_gate",
    r"ffn_(?:sub_out|swiglu|gate_par)-(\d+):\w+": "ffn_swiglu_inner",
    r"ffn_sub_norm-(\d+):MUL": "ffn_sub_norm",
    r"ffn_(?:down|out)-(\d+):(?:MUL_MAT|MUL|ADD)": "ffn_out",
    r"l_out-(\d+):ADD": "output",
    r"result_norm:MUL": "result_norm",
    r"result_output:MUL_MAT": "logits",
}
"""``name:OPERATION`` of llama.cpp's graphs → slot, with the number of those that stand side by side. Where several
nodes of a layer are the same slot (a product, then its scale or bias), the last one is."""
LAYER = r"model\.layers\.(\d+)"
MODULES: Mapping[str, str] = {
    r"model\.embed_tokens": "embd",
    rf"{LAYER}\.input_layernorm": "attn_norm",
    rf"{LAYER}\.self_attn\.q_proj": "qkv/0",
    rf"{LAYER}\.self_attn\.k_proj": "qkv/1",
    rf"{LAYER}\.self_attn\.v_proj": "qkv/2",
    rf"{LAYER}\.self_attn\.q_norm": "attn_q_norm",
    rf"{LAYER}\.self_attn\.k_norm": "attn_k_norm",
    rf"{LAYER}\.self_attn\.attn_sub_norm:in": "attention",
    rf"{LAYER}\.self_attn\.attn_sub_norm": "attn_sub_norm",
    rf"{LAYER}\.self_attn\.o_proj:in": "attention?",
    rf"{LAYER}\.self_attn\.o_proj": "attn_out",
    rf"{LAYER}\.post_attention_layernorm:in": "attn_residual",
    rf"{LAYER}\.post_attention_layernorm": "ffn_norm",
    rf"{LAYER}\.mlp\.gate_proj": "ffn_gate",
    rf"{LAYER}\.mlp\.act_fn": "ffn_silu_gate",
    rf"{LAYER}\.mlp\.up_proj": "ffn_up",
    rf"{LAYER}\.mlp\.ffn_sub_norm:in": "ffn_swiglu_inner",
    rf"{LAYER}\.mlp\.ffn_sub_norm": "ffn_sub_norm",
    rf"{LAYER}\.mlp\.down_proj:in": "ffn_swiglu_inner?",
    rf"{LAYER}\.mlp\.down_proj": "ffn_out",
    LAYER: "output",
    r"model\.norm": "result_norm",
    r"lm_head": "logits",
}
"""The same of modules of transformers: what they give, and with ``:in`` what they are given. A slot with ``?`` is that
of models where no other name is.
"""
UNNAMED = re.compile(r"node_\d+:MUL_MAT")
"""The output projection in graphs that do not name it: the first product after attention."""


@dataclass(frozen=True)
class Rule:
    """Names → a slot, or nothing where it is empty; the first group is the layer. Of several tensors the last is the
    slot, unless it is ``spare``.
    """

    names: re.Pattern[str]
    slot: str
    part: int = 0
    spare: bool = False


def rules(table: Mapping[str, str]) -> list[Rule]:
    """Of regular expressions."""
    parted = ((names, slot.endswith("?"), *slot.rstrip("?").partition("/")) for names, slot in table.items())
    return [Rule(re.compile(names), slot, int(part or 0), spare) for names, spare, slot, _, part in parted]


def map_of(table: Mapping[str, str | None], path: str) -> list[Rule]:
    """Of a file in which a name with ``{layer}`` in it has a slot, ``qkv/0`` to ``qkv/2`` for q, k and v by themselves,
    or null to leave it out; raises WrongInput for a slot that is none.
    """
    for name, slot in table.items():
        if slot is not None:
            bare, _, part = slot.partition("/")
            if part not in (("", "0", "1", "2") if bare == "qkv" else ("",)) or "." in bare:
                raise WrongInput(f"{path}: {name!r} → {slot!r} is no slot; write for example ffn_gate or qkv/0")
            if (bare in GLOBAL) == ("{layer}" in name):
                raise WrongInput(f"{path}: {name!r} → {slot!r}: {'no' if bare in GLOBAL else 'a'} {{layer}} is wanted")
            Key.parse(bare if bare in GLOBAL else f"0.{bare}")
    return rules({re.escape(name).replace(r"\{layer\}", r"(\d+)"): slot or "" for name, slot in table.items()})


ALONE = Rule(UNNAMED, "")
"""Of a name that is a slot by itself."""


class Namer:
    """Tells the slot behind a name: by its own rules, by the names of llama.cpp and of transformers, or as a key."""

    def __init__(self, own: Sequence[Rule] = ()) -> None:
        self._rules = [*own, *rules(GGML), *rules(MODULES)]
        self._after = ABSENT
        """The layer whose output projection comes next."""

    def __call__(self, name: str) -> tuple[Key, Rule] | None:
        """The key, and the rule that gave it; None for what has no slot."""
        for rule in self._rules:
            if found := rule.names.fullmatch(name):
                layer = int(found[1]) if found.groups() else ABSENT
                self._after = layer if rule.slot == "attention" else ABSENT if rule.slot == "attn_out" else self._after
                return (Key(layer, rule.slot), rule) if rule.slot else None
        if self._after != ABSENT and UNNAMED.fullmatch(name):
            layer, self._after = self._after, ABSENT
            return Key(layer, "attn_out"), ALONE
        try:
            return Key.parse(name), ALONE
        except KparityError:
            return None


Take = Callable[[Key, Array, tuple[str, ...]], None]
"""Takes rows of a slot, f32 [rows, width], in the order of tokens, and the names that it had."""


class Gatherer:
    """A sink of ``Engine.trace``: puts side by side what is one slot, divides caches into heads, and hands on what is
    ``wanted`` once a layer is done.
    """

    def __init__(self, take: Take, wanted: Callable[[Key], bool], own: Sequence[Rule] = ()) -> None:
        self._take, self._wanted, self._namer = take, wanted, Namer(own)
        self._held: dict[Key, dict[int, tuple[str, Array]]] = {}
        self._rows, self._done = 0, 0

    def __call__(self, name: str, values: Array) -> None:
        """One tensor; what has no slot is dropped."""
        found = self._namer(name)
        if found is None:
            return
        key, rule = found
        if any(key.layer != each.layer for each in self._held):
            self.flush()
        if key.slot == "embd":
            self._done, self._rows = self._done + self._rows, len(values)
        if key.slot in HEADS or self._wanted(key):
            parts = self._held.setdefault(key, {})
            if not (rule.spare and parts):
                parts[rule.part] = (name, values)

    def flush(self) -> None:
        """Hand on what is held: to be called after the last tensor, too."""
        held, self._held = self._held, {}
        for key, parts in held.items():
            names, arrays = zip(*(parts[part] for part in sorted(parts)), strict=True)
            if key.slot not in HEADS:
                self._take(key, np.concatenate([each.reshape(len(each), -1) for each in arrays], axis=1), names)
            elif self._wanted(key):
                _, like = held.get(Key(key.layer, "k_cache"), parts)[0]
                for head, values in enumerate(self._of_batch(arrays[0], like.shape)):
                    self._take(Key(key.layer, key.slot, head), np.ascontiguousarray(values), names)

    def _of_batch(self, cache: Array, of_keys: tuple[int, ...]) -> Array:
        """[heads, rows, head_dim] of rows [rows, heads, head_dim], or of a whole cache [1, positions, heads, head_dim];
        that of the values has its positions last where it is kept transposed.
        """
        if cache.ndim == 4:
            whole = cache[0] if cache.shape == of_keys else cache[0].transpose(2, 0, 1)
            cache = whole[self._done : self._done + self._rows]
        return np.swapaxes(cache, 0, 1)
