"""The GGUF file: TQ2_0 packing, metadata, and the files that stand beside it."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from tokenizers import Tokenizer

from training.evaluate import continuations, perplexity, read_tensors
from training.net import Net, Shape, TernaryLinear, ternary
from training.text import BOS_ID, EOS_ID, HELD_OUT, Corpus, held_out_file

BLOCK = 256
BLOCK_BYTES = 66

SOURCE = {
    "text": "King James Bible, one verse per line without references",
    "package": "Debian bible-kjv-text 4.38",
    "command": "bible -f gen1:1-rev22:21",
    "licence": "public domain (published in 1611)",
    "held_out_chapters": list(HELD_OUT),
}


def pack_tq2_0(codes: np.ndarray, scale: np.float16) -> np.ndarray:
    """Codes {-1, 0, 1} [rows, columns] → bytes [rows, columns / 256 · 66], `scale` in every block.

    Element i of a block sits in byte (i / 128) · 32 + i % 32 at bit 2 · ((i % 128) / 32), as code + 1; the
    half-precision scale follows the 64 code bytes (ggml-common.h, block_tq2_0). The packer of the `gguf` package is
    not used, because it would give an all-zero block the scale 0.
    """
    rows, columns = codes.shape
    planes = (codes.astype(np.int8) + 1).astype(np.uint8).reshape(rows, columns // BLOCK, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    body = np.bitwise_or.reduce(planes << shifts, axis=3).reshape(rows, columns // BLOCK, BLOCK_BYTES - 2)
    tail = np.broadcast_to(np.array([scale], dtype="<f2").view(np.uint8), (rows, columns // BLOCK, 2))
    return np.concatenate([body, tail], axis=2).reshape(rows, -1)


def add_hyper_parameters(writer: GGUFWriter, shape: Shape) -> None:
    """General keys and those under the architecture's prefix."""
    writer.add_name("kparity embedded")
    writer.add_description("Ternary language model for parity checks, trained on the King James Bible")
    writer.add_license("Apache-2.0")
    writer.add_file_type(LlamaFileType.MOSTLY_TQ2_0)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.theta)


def add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    """The byte-level BPE vocabulary: tokens in the order of their ids, merges in the order of their rank."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [TokenType.CONTROL if i in (BOS_ID, EOS_ID) else TokenType.NORMAL for i in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def add_tensors(writer: GGUFWriter, net: Net) -> None:
    """Ternary weights as TQ2_0, the embedding as F16, the norm gains as F32."""
    for name, module in net.named_modules():
        if not hasattr(module, "weight"):
            continue
        tensor = f"{name}.weight"
        if isinstance(module, TernaryLinear):
            codes, scale = ternary(module.weight.detach())
            packed = pack_tq2_0(codes.numpy(), np.float16(scale.item()))
            writer.add_tensor(tensor, packed, raw_dtype=GGMLQuantizationType.TQ2_0)
        else:
            kind = np.float16 if module.weight.ndim == 2 else np.float32
            writer.add_tensor(tensor, module.weight.detach().numpy().astype(kind))


def write_gguf(path: Path, net: Net, tokenizer: Tokenizer) -> None:
    """Write the whole model to `path`."""
    writer = GGUFWriter(path, "bitnet")
    add_hyper_parameters(writer, net.shape)
    add_tokenizer(writer, tokenizer)
    add_tensors(writer, net)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model_files(net: Net, tokenizer: Tokenizer, corpus: Corpus, training: dict[str, Any], out: Path) -> None:
    """Write `embedded.gguf`, `heldout.txt` and the record `embedded.json`, whose numbers are measured on the file."""
    out.mkdir(parents=True, exist_ok=True)
    model = out / "embedded.gguf"
    write_gguf(model, net, tokenizer)
    (out / "heldout.txt").write_text(held_out_file(corpus), encoding="ascii")
    tensors = read_tensors(model)
    record = {
        "source": SOURCE,
        "tokenizer": {"kind": "byte-level BPE", "pre": "gpt-2", "tokens": net.shape.vocab},
        "training": training,
        "versions": {name: version(name) for name in ("torch", "tokenizers", "gguf", "numpy")},
        "held_out": perplexity(tensors, net.shape, tokenizer, corpus.held_out),
        "continuations": continuations(tensors, net.shape, tokenizer),
        "file": {"bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
    }
    (out / "embedded.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: record[key] for key in ("held_out", "continuations", "file")}, indent=1))
