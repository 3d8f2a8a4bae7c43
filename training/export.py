"""The GGUF file, and the files that stand beside it: the held-out text, and what was measured on the file.

The measuring reads the file back by the plain forward pass of kparity, which shares no code with the network under
training: a mistake in packing, in tensor names or in the graph shows as a perplexity that differs from the one at the
end of the training curve.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kparity import plain
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.model import load_model
from kparity.model.writer import ARRAY, BOOL, I32, STRING, U32, Entry, Key, Spec, encode, graph_keys, write_file
from training.net import Net, Shape, TernaryLinear, ternary
from training.text import BOS_ID, EOS_ID, HELD_OUT, Corpus

PROMPTS = ("In the beginning", "And the LORD said unto", "Blessed are", "The sword of", "Then Jesus answered")
CONTINUED = 48
"""Tokens of a continuation at most."""
SOURCE = {
    "text": "King James Bible, one verse per line without references",
    "package": "Debian bible-kjv-text 4.38",
    "command": "bible -f gen1:1-rev22:21",
    "licence": "public domain (published in 1611)",
    "held_out_chapters": list(HELD_OUT),
}
TQ2_0_FILE = 37
"""``general.file_type`` of a file whose linear layers are TQ2_0 (llama.h, ``enum llama_ftype``)."""
NORMAL, CONTROL = 1, 3
"""Token types (llama.h, ``enum llama_token_type``)."""


def keys(shape: Shape, tokenizer: Tokenizer) -> list[Key]:
    """Hyper-parameters and the byte-level BPE vocabulary: tokens in the order of their ids, merges in that of rank."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [CONTROL if index in (BOS_ID, EOS_ID) else NORMAL for index in range(len(tokens))]
    return [
        ("general.architecture", STRING, "bitnet"),
        ("general.name", STRING, "kparity embedded"),
        ("general.description", STRING, "Ternary language model for parity checks, trained on the King James Bible"),
        ("general.license", STRING, "Apache-2.0"),
        ("general.file_type", U32, TQ2_0_FILE),
        *graph_keys(Spec(arch="bitnet", **asdict(shape))),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, types)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, [" ".join(pair) for pair in model["merges"]])),
        ("tokenizer.ggml.bos_token_id", U32, BOS_ID),
        ("tokenizer.ggml.eos_token_id", U32, EOS_ID),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_eos_token", BOOL, False),
    ]


def tensors(net: Net) -> Iterator[Entry]:
    """Ternary weights as TQ2_0, the embedding as F16, the norm gains as F32."""
    for name, module in net.named_modules():
        if not hasattr(module, "weight"):
            continue
        weight = module.weight.detach()
        if isinstance(module, TernaryLinear):
            codes, scale = ternary(weight)
            scales = np.full((len(codes), codes.shape[1] // 256), scale.item(), np.float32)
            kind, raw = "tq2_0", encode("tq2_0", codes.numpy().astype(np.int8), scales)
        else:
            kind, dtype = ("f16", "<f2") if weight.ndim == 2 else ("f32", "<f4")
            raw = weight.numpy().astype(dtype).tobytes()
        yield Entry.of(f"{name}.weight", tuple(reversed(weight.shape)), kind, lambda raw=raw: [raw])


def perplexity(path: Path, chapters: list[str]) -> dict[str, float]:
    """Perplexity per token and bits per byte, in windows of the context length that each begin with `<s>`."""
    model = load_model(path)
    nats, tokens = 0.0, 0
    for chapter in chapters:
        ids = model.tokenizer.encode(chapter, bos=False)
        for begin in range(0, len(ids), model.hparams.context):
            target = ids[begin : begin + model.hparams.context]
            logits = plain.logits(path, [BOS_ID, *target[:-1]], act="token", kv="f32").logits
            nats += float((np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(target)), target]).sum())
            tokens += len(target)
    octets = sum(len(chapter.encode()) for chapter in chapters)
    return {
        "perplexity": round(math.exp(nats / tokens), 4),
        "nats_per_token": round(nats / tokens, 5),
        "bits_per_byte": round(nats / math.log(2) / octets, 4),
        "tokens": tokens,
        "bytes": octets,
    }


def continuations(path: Path) -> dict[str, str]:
    """Greedy continuations of a few prompts."""
    model = load_model(path)
    engine, texts = Engine(model, open_backend("cpu")), {}
    for prompt in PROMPTS:
        engine.reset()
        texts[prompt] = model.tokenizer.decode(list(engine.generate(model.tokenizer.encode(prompt), CONTINUED)))
    engine.close()
    return texts


def write_model_files(net: Net, tokenizer: Tokenizer, corpus: Corpus, training: dict[str, Any], out: Path) -> None:
    """Write `embedded.gguf`, `heldout.txt` and the record `embedded.json`, whose numbers are measured on the file."""
    out.mkdir(parents=True, exist_ok=True)
    path = write_file(out / "embedded.gguf", keys(net.shape, tokenizer), list(tensors(net)))
    (out / "heldout.txt").write_text("\n".join(corpus.held_out), encoding="ascii")  # an empty line between chapters
    record = {
        "source": SOURCE,
        "tokenizer": {"kind": "byte-level BPE", "pre": "gpt-2", "tokens": net.shape.vocab},
        "training": training,
        "versions": {name: version(name) for name in ("torch", "tokenizers", "gguf", "numpy")},
        "held_out": perplexity(path, corpus.held_out),
        "continuations": continuations(path),
        "file": {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    (out / "embedded.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: record[key] for key in ("held_out", "continuations", "file")}, indent=1))
