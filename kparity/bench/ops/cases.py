"""Which cases are timed: the launches of a decode step and of a prefill chunk of BitNet b1.58 2B-4T, and every case
that the ops themselves list; chosen by an expression.
"""

from __future__ import annotations

from collections.abc import Iterator

from kparity import ops
from kparity.check.select import expression
from kparity.errors import WrongInput
from kparity.kernels.support import SERVED, VOCABULARY
from kparity.ops.spec import Case

WIDTH, FFN, HEADS, KV_HEADS, HEAD = SERVED.width, SERVED.ffn, SERVED.heads, SERVED.kv_heads, SERVED.head
CHUNK = 64
"""Tokens of the prefill cases."""
DEFAULT = "step"
"""The expression without which all cases of the pool would run."""
EMPTY = "empty launch"
"""The tag of an ``add`` of one element, whose time is that of a launch."""


def step() -> Iterator[Case]:
    """The launches of a decode step, the large ones first."""
    yield from (ops.get("tgemv").case(M=1, N=n, K=k) for n, k in (*SERVED.linears, *SERVED.fused))
    yield ops.get("tgemv").case(M=1, N=WIDTH, K=WIDTH, ascale="block256")
    yield from (_attention(length) for length in (64, 512, 2048))
    for mode in ("token", "block256"):
        yield from (ops.get("act_quant").case(M=1, K=k, mode=mode) for k in (WIDTH, FFN))
    yield ops.get("rmsnorm").case(M=1, D=WIDTH)
    yield ops.get("add").case(M=1, D=WIDTH)
    yield from (ops.get("glu").case(M=1, D=FFN, act=act) for act in ("relu2", "silu"))
    yield ops.get("norm_quant").case(M=1, D=WIDTH, pre="add")
    yield ops.get("norm_quant").case(M=1, D=FFN, pre="relu2")
    yield ops.get("rope").case(M=1, H=HEADS, D=HEAD, theta=SERVED.theta)
    yield ops.get("rope_store").case(M=1, H=HEADS, G=KV_HEADS, D=HEAD, L=512, theta=SERVED.theta)


def prefill() -> Iterator[Case]:
    """The GEMMs of a prefill chunk and of a short one."""
    yield from (ops.get("tgemv").case(M=CHUNK, N=n, K=k) for n, k in SERVED.linears)
    yield ops.get("tgemv").case(M=8, N=WIDTH, K=WIDTH)


def large() -> Iterator[Case]:
    """What takes a gigabyte to lay out: the LM head, and a tgemv that fills any GPU."""
    yield ops.get("dense_gemv").case(M=1, N=VOCABULARY, K=WIDTH)
    yield ops.get("tgemv").case(M=1, N=16 * FFN, K=WIDTH)


def _attention(length: int) -> Case:
    return ops.get("attention").case(M=1, L=length, H=HEADS, G=KV_HEADS, D=HEAD)


def pool() -> dict[Case, str]:
    """Every case that can be chosen, with what an expression finds beside its id: ``step``, ``prefill``, ``large``, or
    ``listed`` for the cases of ``Op.cases``.
    """
    listed = (case for name in ops.names() for case in ops.get(name).cases())
    found: dict[Case, str] = {}
    for tag, cases in (("step", step()), ("prefill", prefill()), ("large", large()), ("listed", listed)):
        for case in cases:
            found.setdefault(case, tag)
    return found


def plan(text: str | None = None) -> list[tuple[Case, str]]:
    """Cases to run, each with its tag; the empty launch first.

    ``text`` is an expression as of ``kparity check -k`` over ``<case id> <tag>``: ``tgemv and (step or large)``. Raises
    WrongInput where it admits nothing.
    """
    matches = expression(text if text is not None else DEFAULT)
    chosen = [(case, tag) for case, tag in pool().items() if matches(f"{case.id} {tag}")]
    if not chosen:
        raise WrongInput(f"no op case matches {text!r}: names are parts of a case id, or step, prefill, large, listed")
    empty = ops.get("add").case(M=1, D=1)
    return [(empty, EMPTY), *((case, tag) for case, tag in chosen if case != empty)]


def short(case: Case) -> str:
    """A case for a table: without M = 1 and what is as usual."""
    usual = {**ops.get(case.op).defaults, "M": 1, "rows": dict(case.params).get("N")}
    return " ".join([case.op, *(f"{name}={value}" for name, value in case.params if usual.get(name) != value)])
