"""Weights of a GGUF file in a model of transformers, and the other way: names, layouts and hyper-parameters of both.

Files of the architecture ``llama`` hold the rows of Q and K in pairs, for a rotation of neighbours; transformers turns
halves. A ternary matrix becomes an ``AutoBitLinear``, whose activations are int8 per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kparity.engines import hf_words
from kparity.engines.base import needed
from kparity.engines.hf_words import CODE
from kparity.errors import BadModel, WrongInput
from kparity.model import writer
from kparity.model.gguf_file import GgufFile
from kparity.model.gguf_header import STRING
from kparity.model.graph import FACTORS
from kparity.model.hparams import MAX_LAYERS, MAX_SIZE, Keys, activation
from kparity.model.writer import F32, U32, Entry, Key
from kparity.ops.spec import Array
from kparity.plain.weights import BLOCK, matrix, pieces, vector

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_sub_norm": "self_attn.attn_sub_norm", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""Stems of tensors in a GGUF file, of the whole and of a layer, with what transformers calls them."""
SIZES = {
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}  # fmt: skip
"""Keys of an architecture, with the names in a configuration."""


@dataclass(frozen=True)
class Family:
    """An architecture of GGUF files in transformers: ``paired`` if the rows of Q and K stand in pairs, ``factors`` if a
    tensor may divide the frequencies of RoPE.
    """

    model_type: str
    hidden_act: str = "silu"
    paired: bool = False
    factors: bool = False


FAMILIES: Mapping[str, Family] = {
    "bitnet": Family("bitnet"),
    "bitnet-25": Family("bitnet", "relu2"),
    "bitnet-b1.58": Family("bitnet", "relu2"),
    "llama": Family("llama", paired=True, factors=True),
    "qwen3": Family("qwen3"),
}


def halves(weight: Array, heads: int) -> Array:
    """Rows of Q or K [heads · d, k] from pairs, as llama.cpp's converter writes them, to halves."""
    return np.ascontiguousarray(weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2)).reshape(weight.shape)


def pairs(weight: Array, heads: int) -> Array:
    """The other way."""
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2)).reshape(weight.shape)


def paired(values: Array, head_dim: int) -> Array:
    """Outputs of Q or K [rows, heads · d] by halves, in pairs."""
    return np.asarray(pairs(np.ascontiguousarray(values.T), values.shape[1] // head_dim).T)


def exported(path: str, act: str = "token") -> Any:
    """A model of transformers in f32 with the weights of a file; raises BadModel for a file that it cannot express.

    ``act`` is the quantisation of the activations that meet ternary weights: ``token``, or ``none``.
    """
    torch, transformers = _libraries()
    with closing(GgufFile.open(path)) as file, file.naming():
        family, config = _config(file, transformers)
        with torch.device("meta"):
            net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        state, modules = dict[str, Any](), dict(net.named_modules())
        for name, tensor in file.tensors.items():
            if name == FACTORS and family.factors:
                continue  # of the rotation, and no module's
            stem, module = _placed(name)
            beside = file.tensors.get(f"{stem}.weight")
            if name.endswith("scale") and beside and beside.type.ternary and stem not in TOP:
                continue  # read with its weight
            there = getattr(modules.get(module), "weight", None)
            if there is None or name.endswith("scale"):
                raise BadModel(f"tensor {name} has no place in the graph of transformers that the keys describe")
            if tensor.shape != tuple(reversed(there.shape)):
                raise BadModel(f"tensor {name} has the shape {list(tensor.shape)}, the keys say {[*there.shape][::-1]}")
            values, scale = _read(file, name, keep=act == "token" and stem != "token_embd")
            if family.paired and (at := stem.rpartition(".")[2]) in heads:
                values = halves(values, heads[at])
            state[f"{module}.weight"] = torch.from_numpy(values)
            if scale is not None:
                net.set_submodule(module, _ternary_layer(modules[module]))
                state[f"{module}.weight_scale"] = torch.from_numpy(scale)
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        _filled(net, state)
        net.model.rotary_emb = rotary = type(net.model.rotary_emb)(config)  # its table is in no file
        if family.factors and FACTORS in file.tensors:
            rotary.inv_freq /= torch.from_numpy(vector(file, FACTORS, len(rotary.inv_freq)).copy())
    return net.eval()


def _libraries() -> tuple[Any, Any]:
    found = [needed(name, "hf", CODE) for name in ("torch", "transformers")]
    found[1].logging.set_verbosity_error()
    found[1].utils.logging.disable_progress_bar()
    return found[0], found[1]


def _placed(name: str) -> tuple[str, str]:
    """The stem of a tensor and its module; raises BadModel for a tensor that no graph here has."""
    stem, _, last = name.rpartition(".")
    head, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    if last in ("weight", "scale", "weight_scale"):
        if stem in TOP:
            return stem, TOP[stem]
        if head == "blk" and number.isdecimal() and part in LAYER:
            return stem, f"model.layers.{number}.{LAYER[part]}"
    raise BadModel(f"tensor {name} has no place in a model of transformers; leaving it out would change the results")


def _config(file: GgufFile, transformers: Any) -> tuple[Family, Any]:
    """The configuration that a file's keys describe."""
    keys, arch = Keys(file.keys), str(file.keys.get("general.architecture"))
    if arch not in FAMILIES:
        raise BadModel(f"architecture {arch!r} has no model of transformers here (known: {', '.join(FAMILIES)})")
    family, embedding = FAMILIES[arch], file.tensors.get("token_embd.weight")
    if embedding is None:
        raise BadModel("tensor token_embd.weight is missing")
    sizes = {theirs: keys.integer(f"{arch}.{ours}", 1, MAX_SIZE, None) for ours, theirs in SIZES.items()}
    sizes["vocab_size"] = embedding.rows
    for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"):
        if not sizes[name] or (name == "num_hidden_layers" and sizes[name] > MAX_LAYERS):
            raise BadModel(f"the key for {name} is missing, or beyond every model")
    sizes["num_key_value_heads"] = sizes["num_key_value_heads"] or sizes["num_attention_heads"]
    sizes["head_dim"] = sizes["head_dim"] or sizes["hidden_size"] // sizes["num_attention_heads"]
    turned = keys.integer(f"{arch}.rope.dimension_count", 1, MAX_SIZE, sizes["head_dim"])
    if turned != sizes["head_dim"]:
        raise BadModel(f"{turned} elements of a head are turned, transformers turns all {sizes['head_dim']}")
    scaling = keys.text(f"{arch}.rope.scaling.type", "none")
    factor = keys.number(f"{arch}.rope.scaling.factor", 0.0, 1e6, 0.0) or 1.0
    if scaling not in ("none", "linear"):
        raise BadModel(f"RoPE scaling of type {scaling!r} is not mapped to transformers")
    linear = scaling == "linear" and factor != 1
    rope = {"rope_type": "linear" if linear else "default", **({"factor": factor} if linear else {})}
    return family, transformers.AutoConfig.for_model(
        family.model_type, **{name: value for name, value in sizes.items() if value}, hidden_act=activation(keys, arch),
        rms_norm_eps=keys.number(f"{arch}.attention.layer_norm_rms_epsilon", 0.0, 0.1), bos_token_id=None,
        rope_parameters={**rope, "rope_theta": keys.number(f"{arch}.rope.freq_base", 1.0, 1e12, 10000.0)},
        tie_word_embeddings="output.weight" not in file.tensors, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def _read(file: GgufFile, name: str, keep: bool) -> tuple[Array, Array | None]:
    """A tensor as f32, and its scale f32 [1] where it is ternary and that is to be kept; else the scales are in it."""
    tensor = file.tensors[name]
    if len(tensor.shape) == 1:
        return vector(file, name, tensor.shape[0]).copy(), None
    if not tensor.type.ternary or not name.startswith("blk."):
        return np.concatenate([values for _, values in pieces(file, tensor)]), None
    values, scales = matrix(file, name.removesuffix(".weight"))
    if keep and (scales == scales.flat[0]).all():
        return values, np.array([scales.flat[0]], np.float32)
    return values * np.repeat(scales, values.shape[1] // scales.shape[1], axis=1), np.ones(
        1, np.float32
    ) if keep else None


def _ternary_layer(linear: Any) -> Any:
    from_integrations = needed("transformers.integrations.bitnet", "hf", CODE)
    return from_integrations.AutoBitLinear(linear.in_features, linear.out_features, bias=False, device="meta")


def _filled(net: Any, state: Mapping[str, Any]) -> None:
    """Put tensors in their places; raises BadModel where one is missing."""
    for name in net.state_dict():
        if name not in state:
            raise BadModel(f"no tensor of the file is {name} of transformers")
    net.load_state_dict(state, strict=True, assign=True)


def loaded(folder: str) -> Any:
    """A model that was saved by transformers, in f32; nothing is downloaded and no code of the folder runs. Raises
    WrongInput for a folder without one, or whose tensors are not those of its graph.
    """
    if not Path(folder, "config.json").is_file():
        raise WrongInput(f"{folder} has no config.json; name a folder that transformers saved")
    torch, transformers = _libraries()
    try:
        net, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False,
            use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # whatever a file in it does to the library
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WrongInput(f"transformers does not read {folder}: {reason}") from None
    wrong = [f"{what.replace('_', ' ')} {name}" for what in found for name in sorted(map(str, found[what] or ()))]
    if wrong:
        raise WrongInput(f"{folder} is not whole: {wrong[0]} (of {len(wrong)}); its logits would be of other weights")
    return net.eval()


def save(path: str, folder: Path) -> None:
    """Write the model of a file as a folder of transformers: a configuration, safetensors and the tokenizer."""
    with closing(GgufFile.open(path)) as file, file.naming():
        if FACTORS in file.tensors:
            raise BadModel(f"tensor {FACTORS} is a table; a folder of transformers holds a rule that makes one instead")
    net = exported(path)
    if any(name.endswith("weight_scale") for name in net.state_dict()):
        net.config.quantization_config = {
            "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
            "modules_to_not_convert": ["lm_head"],
        }  # fmt: skip
    net.save_pretrained(folder)
    hf_words.save(hf_words.of_file(path, net.config.vocab_size), folder)


def to_gguf(net: Any, kind: str = "", tokenizer: Sequence[Key] = ()) -> tuple[list[Key], list[Entry]]:
    """Keys and tensors of a GGUF file (``kparity.model.writer``) of a model of transformers; the other direction of
    ``exported``.

    ``kind`` is the type of its matrices, by default f32, or i2_s where layers are ternary (``AutoBitLinear``, with its
    rule of the mean where it quantises by itself); a ternary type leaves the embedding in f32. Without ``tokenizer``
    the file gets the vocabulary of random models. Raises WrongInput for what such a file cannot express.
    """
    config, ternary = net.config, any(hasattr(each, "online_quant") for each in net.modules())
    arch, kind = _arch(config), kind or ("i2_s" if ternary else "f32")
    family, rope = FAMILIES[arch], config.rope_parameters
    if kind in writer.TERNARY and not ternary:
        raise WrongInput(f"no layer of it is ternary, and {kind} holds no others; name f32 or f16")
    known = ("default", "linear", *(["llama3"] if family.factors else []))
    if rope["rope_type"] not in known or rope.get("partial_rotary_factor", 1) != 1:
        raise WrongInput(f"RoPE of type {rope['rope_type']!r}, or of a part of a head, is not mapped to GGUF")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise WrongInput("attention of a sliding window is not mapped to GGUF")
    scaled = [("type", STRING, "linear"), ("factor", F32, rope.get("factor"))] if rope["rope_type"] == "linear" else []
    names = {theirs: ours for ours, theirs in (TOP | {f"blk.{{}}.{k}": v for k, v in LAYER.items()}).items()}
    entries = [each for name, each in net.named_modules() for each in _entries(name, each, names, config, family, kind)]
    if rope["rope_type"] == "llama3":
        factors = _factors(net, config)
        entries.append(Entry.of(FACTORS, factors.shape, "f32", lambda: [factors.tobytes()]))
    sizes = {f"{arch}.{ours}": getattr(config, theirs, None) for ours, theirs in SIZES.items()}
    sizes[f"{arch}.attention.value_length"] = sizes[f"{arch}.attention.key_length"]
    stored: list[Key] = [
        ("general.architecture", STRING, arch), *((name, U32, value) for name, value in sizes.items() if value),
        (f"{arch}.attention.layer_norm_rms_epsilon", F32, config.rms_norm_eps),
        (f"{arch}.rope.freq_base", F32, rope["rope_theta"]),
        *((f"{arch}.rope.scaling.{name}", value_type, value) for name, value_type, value in scaled),
        *(tokenizer or writer.tokenizer_keys(config.vocab_size)),
    ]  # fmt: skip
    return stored, entries


def _factors(net: Any, config: Any) -> Array:
    """By what the frequency of each pair is divided, f32 [head_dim / 2]."""
    found = net.model.rotary_emb.inv_freq.double().numpy()
    exponent = -2.0 * np.arange(len(found)) / (2 * len(found))
    return np.asarray(config.rope_parameters["rope_theta"] ** exponent / found, "<f4")


def imported(folder: str, kind: str = "") -> Iterator[bytes]:
    """The bytes of a GGUF file of a folder of transformers, ``kind`` as of ``to_gguf``; raises WrongInput, before the
    first of them, for what such a file cannot express.
    """
    net, words = loaded(folder), hf_words.of_folder(folder)
    if words is None:
        raise WrongInput(f"{folder} has no tokenizer that transformers reads; put its tokenizer.json there")
    try:
        return writer.pieces(*to_gguf(net, kind, hf_words.keys(words)))
    except WrongInput as error:
        raise WrongInput(f"{folder}: {error}") from None


def _arch(config: Any) -> str:
    """The architecture of a GGUF file that is such a model, the newest name of several."""
    wanted = (config.model_type, getattr(config, "hidden_act", ""))
    found = [arch for arch, each in FAMILIES.items() if (each.model_type, each.hidden_act) == wanted]
    if not found:
        raise WrongInput(f"a {wanted[0]} model with the activation {wanted[1]!r} has no architecture in GGUF here")
    return found[-1]


def _entries(
    name: str, module: Any, names: Mapping[str, str], config: Any, family: Family, kind: str
) -> Iterator[Entry]:
    """The tensor of a module, if it has one of its own."""
    weight = getattr(module, "weight", None)
    if weight is None or (name == "lm_head" and config.tie_word_embeddings):
        return
    number = name.split(".")[2] if name.startswith("model.layers.") else ""
    stem = names.get(name.replace(f"model.layers.{number}.", "") if number else name, "").replace("{}", number)
    if not stem or getattr(module, "bias", None) is not None or not weight.is_floating_point():
        raise WrongInput(f"{name} has no tensor in a GGUF file of this architecture, or is packed")
    values, scale = weight.detach().float().numpy(), np.float32(1)
    ternary = hasattr(module, "online_quant")
    if ternary:
        values, scale = _ternary(name, module, values)
    if family.paired and stem.endswith(("attn_q", "attn_k")):
        heads = config.num_attention_heads if stem.endswith("attn_q") else config.num_key_value_heads
        values = pairs(values, heads)
    shape = tuple(reversed(values.shape))
    if ternary:
        scales = np.full((values.shape[0], -(-values.shape[1] // BLOCK)), scale, np.float32)
        yield Entry.of(f"{stem}.weight", shape, kind, lambda: [writer.encode(kind, values.astype(np.int8), scales)])
        return
    stored = "f32" if values.ndim == 1 or kind in writer.TERNARY else kind
    yield Entry.of(f"{stem}.weight", shape, stored, lambda: [_bytes(values, stored)])


def _ternary(name: str, module: Any, values: Array) -> tuple[Array, np.float32]:
    """-1, 0 and 1, and what they are multiplied by."""
    if module.online_quant:
        scale = np.float32(max(np.abs(values).mean(dtype=np.float64), 1e-5))
        return np.clip(np.rint(values / scale), -1, 1), scale
    if not np.isin(values, (-1, 0, 1)).all():
        raise WrongInput(f"{name} does not quantise by itself and holds weights that are not ternary")
    return values, np.float32(module.weight_scale.item())


def _bytes(values: Array, kind: str) -> bytes:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return bytes(quantize(values, GGMLQuantizationType[kind.upper()]).tobytes())
