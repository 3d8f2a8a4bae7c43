"""The gate ``graph``: what the candidate's kernels were built with against the file, as a second reader has it.

Logits show a wrong base or eps by as much as the model lets them: one per cent of a base of 500,000 is lost in the
noise of 72 positions and decides at 4,000. Constants have no noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kparity.gates.candidate import Candidate
from kparity.gates.verdict import Gate
from kparity.ops.spec import ROUNDOFF, Case, Value
from kparity.plain import Facts


def expected(case: Case, facts: Facts, act: str, kv: str) -> dict[str, Value]:
    """The parameters of a served kernel that follow from the file and from how it is asked to run."""
    rope: dict[str, Value] = {
        "D": facts.head_dim, "R": facts.rope_dim, "mode": facts.rope_mode, "theta": facts.theta,
        "scale": facts.rope_scale,
    }  # fmt: skip
    heads: dict[str, Value] = {"H": facts.heads, "G": facts.kv_heads, "D": facts.head_dim, "dtype": kv}
    pre, q, kv_rows = dict(case.params).get("pre"), facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    shapes = {(q, facts.width), (kv_rows, facts.width), (facts.width, q), (facts.ffn, facts.width),
              (facts.width, facts.ffn)}  # fmt: skip
    linear = facts.mixed and case.op == "dense_gemv" and (case["N"], case["K"]) in shapes
    activation: dict[str, Value] = {"pre": facts.act, "clamp": facts.clamp, "D": facts.ffn}
    table: dict[str, dict[str, Value]] = {
        "rmsnorm": {"eps": facts.eps},
        "norm_quant": {"eps": facts.eps, "mode": act, **(activation if pre in ("silu", "relu2") else {})},
        "norm_tgemv": {"eps": facts.eps},
        "act_quant": {"mode": act},
        "tgemv": {"ascale": act},
        "rope": rope,
        "rope_store": {**rope, **heads},
        "rope_attention": {**rope, **heads},
        "attention": heads,
        "glu": {"act": facts.act, "clamp": facts.clamp, "D": facts.ffn},
        "dense_gemv": {} if linear else {"N": facts.vocab, "K": facts.width},
        "argmax": {"N": facts.vocab},
    }
    return table.get(case.op, {})


def differences(candidate: Candidate) -> Iterator[str]:
    """Every difference in words."""
    engine, facts = candidate.engine, candidate.reference.facts
    for case in engine.kernels.built:
        for name, value in expected(case, facts, engine.options.act, engine.options.kv).items():
            if case[name] != value:
                yield f"{case.op} was built with {name} = {case[name]}, the file says {value}"
    want = np.asarray(facts.frequencies)
    allowed = candidate.contract.threshold("graph_roundings").value * ROUNDOFF["f32"] * np.abs(want)
    for rows in sorted({rows for rows, _ in engine.programs}):
        table = engine.backend.download(engine.recorded(rows).graph.freq).astype(np.float64)
        if table.shape != want.shape:
            yield f"the RoPE table of {rows} rows has {table.size} frequencies, the file says {want.size}"
            continue
        wrong = np.flatnonzero(~(np.abs(table - want) <= allowed))
        for at in wrong:
            yield f"frequency {at} of the RoPE table of {rows} rows is {table[at]:.8g}, the file says {want[at]:.8g}"


def gate_graph(candidate: Candidate) -> Gate:
    """Constants of every kernel that serves, and the RoPE table as it lies on the device."""
    wrong = list(differences(candidate))
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return candidate.judged("graph", {"graph_differences": len(wrong)}, lambda bad: ("KP-GRAPH", f"{wrong[0]}{more}"))
