"""Small GGUF files without a ternary weight, written by the ``gguf`` package, for engines that read more than we do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from kparity.model.writer import byte_alphabet

WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCAB = 256, 512, 8, 4, 32, 4, 640
MERGES = ["t h", "i n", "Ġ th", "Ġth e", "a n", "an d", "Ġ and"]


def write_dense(path: Path, arch: str, kind: str = "F16", seed: int = 0) -> Path:
    """A model of random weights: ``llama``, ``qwen2`` (biases of Q, K and V) or ``qwen3`` (norms of each head of Q and
    K), its matrices of a type that ``gguf`` quantises to; 3 to 8 MB. The vocabulary is bytes, a few merges and words.
    """
    file, rng, type_id = GGUFWriter(path, arch), np.random.default_rng(seed), GGMLQuantizationType[kind]

    def tensor(name: str, *shape: int, gain: float = 1.0, mean: float = 0.0) -> None:
        values = (mean + gain * rng.standard_normal(shape)).astype(np.float32)
        if len(shape) > 1:
            file.add_tensor(f"{name}.weight", quantize(values, type_id), raw_dtype=type_id)
        else:
            file.add_tensor(name, values)

    file.add_context_length(512)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(FFN)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_rope_freq_base(10000.0)
    file.add_layer_norm_rms_eps(1e-5)
    if arch == "qwen3":
        file.add_key_length(HEAD_DIM)
        file.add_value_length(HEAD_DIM)
    else:
        file.add_rope_dimension_count(HEAD_DIM)
    words = ["<|bos|>", "<|eos|>", *byte_alphabet(), *(pair.replace(" ", "") for pair in MERGES)]
    words += [f"Ġw{index}" for index in range(len(words), VOCAB)]
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(words)
    file.add_token_types([3, 3, *[1] * (VOCAB - 2)])
    file.add_token_merges(MERGES)
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    file.add_add_bos_token(True)
    tensor("token_embd", VOCAB, WIDTH, gain=3 / WIDTH**0.5)
    for layer in range(LAYERS):
        at, branch = f"blk.{layer}", 16 * 3 / WIDTH**0.5 / (2 * LAYERS) ** 0.5  # the branches outweigh the embedding
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"{at}.{name}.weight", WIDTH, gain=0.1, mean=1.0)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            tensor(f"{at}.attn_{name}", heads * HEAD_DIM, WIDTH, gain=WIDTH**-0.5)
            if arch == "qwen2":
                tensor(f"{at}.attn_{name}.bias", heads * HEAD_DIM, gain=0.1)
            elif arch == "qwen3" and name != "v":
                tensor(f"{at}.attn_{name}_norm.weight", HEAD_DIM, gain=0.1, mean=1.0)
        tensor(f"{at}.attn_output", WIDTH, HEADS * HEAD_DIM, gain=branch * WIDTH**-0.5)
        tensor(f"{at}.ffn_gate", FFN, WIDTH, gain=WIDTH**-0.5)
        tensor(f"{at}.ffn_up", FFN, WIDTH, gain=WIDTH**-0.5)
        tensor(f"{at}.ffn_down", WIDTH, FFN, gain=2 * branch * FFN**-0.5)
    tensor("output_norm.weight", WIDTH, gain=0.1, mean=1.0)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
