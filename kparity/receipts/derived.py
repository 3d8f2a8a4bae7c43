"""What follows from a model's sizes and types: the bytes of its file and of a token, and the kernels of its graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from kparity.device.adapter import Backend, Buffer, Device, DeviceInfo
from kparity.engine.graph import FusedGraph, Kernels, Options
from kparity.engine.weights import DenseLinear, Linear, Part, Weights, gemvs, parts_of
from kparity.errors import BadModel, WrongInput
from kparity.model.architectures import ARCHITECTURES
from kparity.model.graph import LINEARS, NORMS, linear_shapes, norms_of
from kparity.model.hparams import Hparams
from kparity.model.types import READABLE, TensorType
from kparity.ops.spec import Array, padded
from kparity.receipts.record import Graph, Model, Row

BY_NAME: Mapping[str, TensorType] = {each.name: each for each in READABLE}
MOST_PARTS = 4096
"""Pieces in which a table may lie on a device: no more than one that holds a row each."""


def hparams(model: Model) -> Hparams:
    """The hyper-parameters that sizes, launches and ids depend on; the others are any. Raises WrongInput for an
    architecture or for sizes that are no graph's.
    """
    if model.arch not in ARCHITECTURES:
        raise WrongInput(f"{model.arch} is none of {', '.join(ARCHITECTURES)}")
    if model.heads % model.kv_heads or model.head_dim % 2:
        raise WrongInput(f"{model.heads} heads of {model.head_dim} over {model.kv_heads} of keys and values")
    act, mode = ARCHITECTURES[model.arch].act, ARCHITECTURES[model.arch].rope
    return Hparams(
        arch=model.arch, n_layer=model.layers, width=model.width, ffn=model.ffn, n_head=model.heads,
        n_kv=model.kv_heads, head_dim=model.head_dim, rope_dim=model.head_dim, rope_mode=mode, theta=10_000.0,
        rope_scale=1.0, eps=1e-5, context=model.context, vocab=model.vocab, act=act, clamp=int(act == "relu2"),
        bos=None, eos=None, add_bos=False,
    )  # fmt: skip


def mixed_of(model: Model) -> dict[tuple[int, str], TensorType]:
    """Types of the linear layers that are not ternary, by layer and name. Raises WrongInput for a name or a type that
    none of them has.
    """
    places = {f"blk.{layer}.{name}": (layer, name) for layer in range(model.layers) for name in LINEARS}
    if unknown := [*{*model.mixed} - {*places}]:
        raise WrongInput(f"{unknown[0]} is no linear layer of {model.layers} layers")
    found = {places[name]: _type(kind) for name, kind in model.mixed.items()}
    if ternary := [kind.name for kind in found.values() if kind.ternary]:
        raise WrongInput(f"{ternary[0]} among the types that are not ternary")
    return found


def _type(name: str, ternary: bool = False) -> TensorType:
    found = BY_NAME.get(name)
    if found is None or (not found.ternary if ternary else found.flat):
        raise WrongInput(f"{name} is no type of {'ternary matrices' if ternary else 'tables'}")
    return found


def tensor_bytes(model: Model) -> tuple[int, int]:
    """Bytes of all tensors of the file: the least and the most, where types may be mixed. Raises WrongInput for types
    and sizes that no file can have.
    """
    h = hparams(model)
    tables = [_type(name) for name in (model.embedding, model.head) if name]
    types = [_type(name, True) for name in model.type.split(", ")]
    try:
        fixed = sum(each.n_bytes("a table", (h.width, h.vocab)) for each in tables)
        shapes, mixed = linear_shapes(h), mixed_of(model)
        fixed += sum(kind.n_bytes(name, shapes[name]) for (_, name), kind in mixed.items())
        left = Counter({name: h.n_layer for name in shapes}) - Counter(name for _, name in mixed)
        each_type = [sum(kind.n_bytes(name, shapes[name]) * times for name, times in left.items()) for kind in types]
    except BadModel as error:
        raise WrongInput(str(error)) from error
    norms, factors = _norms(h), 2 * h.rope_dim * ARCHITECTURES[h.arch].factors
    return fixed + min(each_type) + 2 * norms, fixed + max(each_type) + 4 * norms + factors


def _norms(h: Hparams) -> int:
    """Elements of all norms."""
    lengths: list[int] = [getattr(h, NORMS[name]) for name in norms_of(h.arch)]
    return h.n_layer * sum(lengths) + h.width


def element(kind: str) -> str:
    """The element type on a device of a table of that type in a file."""
    return "f16" if kind == "F16" or BY_NAME[kind].ternary else "f32"


def _size(kind: str) -> int:
    return 2 if element(kind) == "f16" else 4


def _packed(k: int, n: int) -> int:
    """Bytes of a ternary matrix on a device."""
    return n * padded(k) // 4


def weight_bytes(model: Model) -> int:
    """Bytes of all weights that one pass reads, whatever its launches are: every one but the embedding, once."""
    h = hparams(model)
    shapes, mixed = linear_shapes(h), mixed_of(model)
    linears = h.n_layer * sum(_packed(*shapes[name]) for name in LINEARS)
    for (_, name), kind in mixed.items():
        k, n = shapes[name]
        linears += k * n * _size(kind.name) - _packed(k, n)
    return linears + 4 * _norms(h) + h.vocab * h.width * _size(model.head or model.embedding)


def operations(model: Model) -> int:
    """Multiplications and additions of a token's products, whatever its position; 0 for sizes of no graph."""
    try:
        h = hparams(model)
    except WrongInput:
        return 0
    return 2 * (h.n_layer * sum(k * n for k, n in linear_shapes(h).values()) + h.vocab * h.width)


def bytes_per_token(model: Model, phase: str, length: int, kv: str) -> int:
    """Bytes that must move for a token: a lower bound. ``length`` is that of a prompt, or what a step follows.

    A step reads all weights, its row of the embedding, and the cache up to its position. A prompt reads the weights
    once for all of its tokens, and writes its rows of the cache.
    """
    h = hparams(model)
    per_position, row = 2 * h.n_layer * h.kv_dim * (2 if kv == "f16" else 4), h.width * _size(model.embedding)
    if phase == "prefill":
        return weight_bytes(model) // length + row + per_position
    return weight_bytes(model) + row + per_position * (length + 1)


def bytes_of(model: Model, row: Row, kv: str) -> int:
    """The same of a measurement."""
    return bytes_per_token(model, row.phase, row.units if row.phase == "prefill" else row.depth, kv)


class Paper(Backend):
    """A backend on which nothing runs: the graph of a model as a list of launches, without the model."""

    name = dialect = "paper"

    def __init__(self, max_binding: int, dialect: str = dialect) -> None:
        self.dialect = dialect  # type: ignore[misc]
        self.info = DeviceInfo("paper", "paper", "cpu", "", "", "", max_binding=max_binding)

    @classmethod
    def open(cls, index: int = 0) -> Paper:
        return cls(1 << 62)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return Buffer(None, dtype, shape)

    def write(self, buffer: Buffer, array: Array) -> None:
        pass

    def download(self, buffer: Buffer) -> Array:
        raise NotImplementedError

    def supports(self, op: object, case: object) -> None:
        return None

    def sync(self) -> None:
        pass


def _weights(paper: Paper, h: Hparams, model: Model) -> Weights:
    """Where every weight would lie."""
    dtype = element(model.embedding), element(model.head or model.embedding)
    found = Weights(dtype=dtype)
    shapes, mixed = linear_shapes(h), mixed_of(model)
    for layer in range(h.n_layer):
        for name in gemvs(h.arch, True, [each for at, each in mixed if at == layer]):
            k, n = shapes[parts_of(name)[0]][0], sum(shapes[part][1] for part in parts_of(name))
            if dense := mixed.get((layer, name)):
                kind = element(dense.name)
                found.dense[layer, name] = DenseLinear(_parts(paper, (n, k), kind), kind, n, k)
                continue
            kind = "tensor" if parts_of(name) == (name,) else "row"
            words, scale = paper.empty((n, padded(k) // 16), "u32"), paper.empty((1 if kind == "tensor" else n,), "f32")
            found.linears[layer, name] = Linear(words, scale, kind, n, k)
        found.norms |= {
            f"blk.{layer}.{name}.weight": paper.empty((getattr(h, NORMS[name]),), "f32") for name in norms_of(h.arch)
        }
    found.norms["output_norm.weight"] = paper.empty((h.width,), "f32")
    found.embedding, found.head = (_parts(paper, (h.vocab, h.width), each) for each in dtype)
    return found


def _parts(paper: Paper, shape: tuple[int, int], dtype: str) -> list[Part]:
    """As ``kparity.engine.weights`` divides a table [rows, K]."""
    whole, k = shape
    rows = max(1, min(whole, paper.info.max_binding // (k * (2 if dtype == "f16" else 4))))
    if whole / rows > MOST_PARTS:
        raise WrongInput(f"a binding of {paper.info.max_binding} bytes divides a table of {whole} rows too often")
    return [
        Part(paper.empty((min(rows, whole - at), k), dtype), at, min(rows, whole - at)) for at in range(0, whole, rows)
    ]


def without_dialect(kernel_id: str, dialect: str) -> str:
    """``<op>_<variant>`` of a kernel id; all scales of ternary weights count as one: they are the file's."""
    op, _, variant = kernel_id.partition(f"_{dialect}_")
    return f"{op}_{re.sub('_w(row|block[0-9]*)', '', variant) if op.endswith('tgemv') else variant}"


def kernels(
    model: Model, device: Device, graph: Graph | None, act: str, kv: str, dialect: str = Paper.dialect
) -> dict[str, Counter[str]]:
    """Launches of each kernel (``without_dialect``) in each of the programs of ``record.Programs``, by the very graph
    that engines record on backends of a dialect; not to be changed. Raises WrongInput for sizes and options that it
    cannot be built with.
    """
    return _recorded(msgspec.json.encode(model), device.max_binding, graph.chunk if graph else 2, act, kv, dialect)


@lru_cache(maxsize=64)
def _recorded(told: bytes, max_binding: int, rows: int, act: str, kv: str, dialect: str) -> dict[str, Counter[str]]:
    model = msgspec.json.decode(told, type=Model)
    h, paper = hparams(model), Paper(max_binding, dialect)
    options, weights = Options(act, kv, 1, True), _weights(paper, h, model)
    cache = [(paper.empty((1, h.kv_dim), kv), paper.empty((1, h.kv_dim), kv))] * h.n_layer
    found = {}
    for name, m in (("step", 1), ("chunk", rows)):
        made = FusedGraph(h, Kernels(paper), weights, cache, options, m)
        for unit, launches in ((name, made.launches), (f"headless_{name}", made.body)):
            found[unit] = Counter(without_dialect(each.kernel_id, "paper") for each in launches)
    return found
