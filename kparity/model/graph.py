"""Which tensors a file must have, of which shape, and which it may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kparity.errors import BadModel
from kparity.model.architectures import ARCHITECTURES
from kparity.model.gguf_file import TensorInfo
from kparity.model.hparams import Hparams
from kparity.model.types import READABLE

EMBEDDING, HEAD, OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm.weight"
FACTORS = "rope_freqs.weight"
"""By what the frequency of each rotating pair is divided (Llama 3.1 and later); in llama.cpp ``llama`` alone has it."""
LINEARS: Mapping[str, tuple[str, str]] = {
    "attn_q": ("width", "q_dim"),
    "attn_k": ("width", "kv_dim"),
    "attn_v": ("width", "kv_dim"),
    "attn_output": ("q_dim", "width"),
    "ffn_gate": ("width", "ffn"),
    "ffn_up": ("width", "ffn"),
    "ffn_down": ("ffn", "width"),
}
"""The matrices of a layer, ternary but for some of a mixed file, in file order, with the sizes that K and N are."""
NORMS: Mapping[str, str] = {
    "attn_norm": "width", "attn_q_norm": "head_dim", "attn_k_norm": "head_dim", "attn_sub_norm": "q_dim",
    "ffn_norm": "width", "ffn_sub_norm": "ffn",
}  # fmt: skip
"""The norms that a layer can have, in the order of the graph, with their lengths."""


_TERNARY = ", ".join(each.name for each in READABLE if each.ternary)


def scale_names(stem: str) -> tuple[str, str]:
    """What the tensor of a scale beside a ternary weight is called, by llama.cpp and by bitnet.cpp; it multiplies."""
    return f"{stem}.scale", f"{stem}.weight_scale"


def norms_of(arch: str) -> tuple[str, ...]:
    """The norms of a layer of an architecture, in the order of the graph."""
    return tuple(name for name in NORMS if name in ("attn_norm", "ffn_norm", *ARCHITECTURES[arch].norms))


def linear_shapes(h: Hparams) -> dict[str, tuple[int, int]]:
    """(K, N) of every ternary matrix of a layer."""
    return {name: (getattr(h, k), getattr(h, n)) for name, (k, n) in LINEARS.items()}


def norm_names(h: Hparams) -> Iterator[str]:
    """All norm tensors, in the order of the graph."""
    yield from (f"blk.{layer}.{name}.weight" for layer in range(h.n_layer) for name in norms_of(h.arch))
    yield OUTPUT_NORM


def check_tensors(tensors: Mapping[str, TensorInfo], h: Hparams) -> None:
    """Every tensor of the graph is there, has its shape and its kind of type, and there is no other one."""
    allowed = {EMBEDDING, OUTPUT_NORM, HEAD}
    _check_dense(tensors, EMBEDDING, (h.width, h.vocab))
    _check_dense(tensors, OUTPUT_NORM, (h.width,))
    if HEAD in tensors:
        _check_dense(tensors, HEAD, (h.width, h.vocab))
    if ARCHITECTURES[h.arch].factors and FACTORS in tensors:
        _check_dense(tensors, FACTORS, (h.rope_dim // 2,))
        allowed.add(FACTORS)
    linears = linear_shapes(h)
    check_some_ternary(tensors, h.n_layer)
    for layer in range(h.n_layer):
        for name in norms_of(h.arch):
            _check_dense(tensors, f"blk.{layer}.{name}.weight", (getattr(h, NORMS[name]),))
            allowed.add(f"blk.{layer}.{name}.weight")
        for name, shape in linears.items():
            _check_linear(tensors, f"blk.{layer}.{name}", shape)
            allowed.add(f"blk.{layer}.{name}.weight")
            if tensors[f"blk.{layer}.{name}.weight"].type.ternary:
                allowed |= {*scale_names(f"blk.{layer}.{name}")}
    extra = next((name for name in tensors if name not in allowed), None)
    if extra is not None:
        raise BadModel(f"tensor {extra} is no part of the {h.arch} graph; leaving it out would change the results")


def check_some_ternary(tensors: Mapping[str, TensorInfo], layers: int) -> None:
    """Raises BadModel where no linear layer is ternary, though they are there: nothing here is about such a file."""
    there = [tensors.get(f"blk.{layer}.{name}.weight") for layer in range(layers) for name in LINEARS]
    if there[0] and not any(each and each.type.ternary for each in there):
        raise BadModel(f"tensor {there[0].name} is {there[0].type.name}, expected a ternary type: {_TERNARY}")


def _find(tensors: Mapping[str, TensorInfo], name: str, shape: tuple[int, ...]) -> TensorInfo:
    tensor = tensors.get(name)
    if tensor is None:
        raise BadModel(f"tensor {name} is missing")
    stored = list(tensor.shape)
    while len(stored) > len(shape) and stored[-1] == 1:  # trailing sizes of 1 mean nothing
        stored.pop()
    if tuple(stored) != shape:
        raise BadModel(f"tensor {name} has the shape {list(tensor.shape)}, the hyper-parameters say {list(shape)}")
    return tensor


def _check_dense(tensors: Mapping[str, TensorInfo], name: str, shape: tuple[int, ...]) -> None:
    tensor = _find(tensors, name, shape)
    if len(shape) == 1 and (tensor.type.ternary or tensor.type.block > 1):
        raise BadModel(f"tensor {name} is {tensor.type.name}, expected F32, F16 or BF16")
    if tensor.type.flat:
        kinds = ", ".join(each.name for each in READABLE if not each.flat)
        raise BadModel(f"tensor {name} is {tensor.type.name}, expected one of {kinds}")


def _check_linear(tensors: Mapping[str, TensorInfo], name: str, shape: tuple[int, int]) -> None:
    _find(tensors, f"{name}.weight", shape)
    beside = [scale for scale in scale_names(name) if scale in tensors]
    for scale in beside:
        _check_dense(tensors, scale, (1,))
    if len(beside) > 1:
        raise BadModel(
            f"tensors {' and '.join(beside)} are both scales of one weight: which of them counts is not told"
        )
