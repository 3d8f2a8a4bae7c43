"""What to do about each pattern: the command that comes next, and where the repair lies."""

from __future__ import annotations

from kparity.ladder.record import Finding, Settings
from kparity.model.gguf_file import embedded

IDS = "kparity ladder --ref {ref} --cand {cand}{model} --ladder tokens --dump-ids"
BISECT = "kparity bisect --ref {ref} --cand {cand}{model}"
INSPECT = "kparity model inspect {path}"
RERUN = "kparity ladder --ref {ref} --cand {cand}{model} --ladder masks --deterministic"
SIZES = "kparity diagnose --cand {cand}{model} --batch-invariant"
CONTROL = "kparity ladder --ref f16 --cand {cand}{model}, and the same of {ref}: which lies nearer"
OP = "kparity check -o {}, or that op of the engine against the specification of kparity ops {}"

ADVICE = {
    "P1-ids": (IDS, "let either the template or the tokenizer put BOS; take both tokenizers from the same file"),
    "P2-offset": (IDS, "compare where special tokens lie in both vocabularies, and the first id of each table"),
    "P3-gain": (INSPECT, "look at the gain of the last norm, at the final scale, and at a temperature"),
    "P4-growth": (BISECT, "look at RoPE's base and scale, and at the mask: what goes with the distance of a key"),
    "P5-jump": (BISECT, "look at what has this size: a chunk, a tile, a ring buffer, the stride of the KV cache"),
    "P6-second": (BISECT, "look at the KV update, RoPE and the mask: all that a single key does not show"),
    "P7-random": (RERUN, "take the argmax instead of a sample; write every buffer before it is read; look for races"),
    "P8-quantisation": (CONTROL, "compare how weights are decoded and activations quantised, type by type"),
    "weights": (BISECT, "compare embedding, activation and the layout of weights"),
    "fallback": ("kparity preflight", "give the device all layers (ngl), or ask for the one that serves"),
    "shapes": (INSPECT, "give both sides the same file, and a context that is long enough"),
    "nan": (BISECT, "look for a type of too small a range, a division by zero, and memory that nobody wrote"),
    "reset": (RERUN, "clear the cache, its length and the position counter when a request ends"),
    "batch": (SIZES, "look at kernels of several rows, and at mask and positions of a batch"),
    "steps": (BISECT, "look at the KV update and the position of single steps, and at a recorded graph"),
    "turn": (BISECT, "let a batch begin at the length of the cache: position counter, KV index, mask"),
    "prefill": (BISECT, "look at the path that serves a prompt: its last row, padding of a chunk, a recorded graph"),
    "neighbours": (SIZES, "keep positions, mask and cache of sequences apart"),
    "mask": (BISECT, "compare the mask's first and last visible key with the position of the query"),
    "layout": (INSPECT, "compare the rows of the head on both sides, and their order"),
    "input": (IDS, "compare what is fed with what was asked for: the first id, a BOS of its own, a lost write"),
    "late": (BISECT, "read the buffer after the step that writes it"),
    "anew": (BISECT, "carry the position counter and the cache across the chunk"),
    "blind": (BISECT, "write keys and values before they are read, and let attention read the cache"),
    "ties": ("kparity ladder --ref {ref} --cand {cand}{model} -v", "none is needed: both ids are right within noise"),
    "reference": (CONTROL, "repair the reference, or compare with another one"),
    "failed": ("KPARITY_DEBUG=1 with the same command", "see what the engine's process said last"),
    "activation": (OP.format("glu", "glu"), "take the activation from the architecture of the file"),
    "gate-and-up": (OP.format("glu", "glu"), "apply the activation to the gate, which is ffn_gate"),
    "clamp": (OP.format("glu", "glu"), "keep products of relu² within ±65504, and others as they are"),
    "rope-pairs": (OP.format("rope", "rope"), "turn element i with element i + d/2 of a head, or permute Q and K"),
    "rope-direction": (OP.format("rope", "rope"), "y = (a·cos − b·sin, b·cos + a·sin)"),
    "rope-missing": (OP.format("rope", "rope"), "turn queries and keys by the position of their own row"),
    "rope-dim": (INSPECT, "read rope.dimension_count"),
    "rope-table": (INSPECT, "frequency i of d turning elements is base^(−2i/d): the same d as in the kernel"),
    "rope-keys": (OP.format("rope_store", "rope_store"), "turn keys before they are stored"),
    "rope-values": (OP.format("rope_store", "rope_store"), "store values as they are"),
    "rope-theta": (INSPECT, "read rope.freq_base of the file"),
    "rope-scale": (INSPECT, "read rope.scaling.type and rope.scaling.factor of the file"),
    "mask-more": (OP.format("attention", "attention"), "a query at position p sees the keys up to p, and no later one"),
    "mask-less": (OP.format("attention", "attention"), "a query at position p sees the key at p too"),
    "mask-none": (OP.format("attention", "attention"), "hide keys of later positions in a batch"),
    "kv-late": (OP.format("kv_store", "kv_store"), "store the key of position p at place p"),
    "kv-hole": (BISECT, "count positions from 0, or hide the empty place"),
    "kv-exchanged": (OP.format("attention", "attention"), "bind each cache at its own place"),
    "kv-missing": (OP.format("kv_store", "kv_store"), "store values before attention reads them"),
    "kv-type": (CONTROL, "take the same type of the cache on both sides, or say --profile other"),
    "gqa": (OP.format("attention", "attention"), "query head h reads key head h / (heads / key heads), rounded down"),
    "softmax-scale": (OP.format("attention", "attention"), "multiply scores by 1/√d once, d the size of a head"),
    "norm-missing": (INSPECT, "apply the norm: the file has its weight"),
    "norm-gain": (OP.format("rmsnorm", "rmsnorm"), "multiply by the gain as the file has it"),
    "norm-mean": (OP.format("rmsnorm", "rmsnorm"), "divide by the root mean square, and take no mean off"),
    "eps": (INSPECT, "read attention.layer_norm_rms_epsilon of the file, and add it to the mean square"),
    "quantisation": (CONTROL, "quantise as the model was trained, or say --profile other"),
    "rounding": (OP.format("act_quant", "act_quant"), "round codes to the nearest, half to even"),
    "scale": (INSPECT, "apply each scale of weights and activations once"),
    "scale-tensor": (INSPECT, "multiply by the tensor .scale beside each weight"),
    "embedding-scale": (INSPECT, "take the rows of token_embd as they are"),
    "residual": (BISECT, "add the block's output to the stream around it"),
    "block-missing": (BISECT, "launch every block of every layer"),
    "cache-of-another-layer": (BISECT, "give each layer a cache of its own"),
    "layers": (BISECT, "sort the names of layers as numbers"),
}  # fmt: skip
"""Pattern → the next command, and the fix."""


def advised(
    asked: Settings, pattern: str, cause: str, evidence: str, confidence: float, *, next: str = "", defect: bool = True,
    side: str = "candidate",
) -> Finding:  # fmt: skip
    """A finding with the advice of its pattern."""
    command, fix = ADVICE[pattern]
    model = "" if asked.model == str(embedded()) else f" --model {asked.model}"
    filled = command.format(ref=asked.reference, cand=asked.candidate, path=asked.model, model=model)
    return Finding(
        pattern=pattern, cause=cause, evidence=evidence, confidence=round(confidence, 3), next=next or filled, fix=fix,
        side=side, defect=defect,
    )  # fmt: skip
