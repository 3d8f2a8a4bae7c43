"""The gate ``depth``: late positions, up to the last of the context, on a cache that is filled in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kparity.gates.candidate import Candidate, Distance
from kparity.gates.reference import Deep
from kparity.gates.verdict import Gate, Measure
from kparity.ops.spec import Array
from kparity.plain import Span

if TYPE_CHECKING:
    from kparity.engine import Engine


def fill(engine: Engine, deep: Deep) -> None:
    """Give the cache the keys and values that the reference had, at all its positions."""
    for layer, buffers in enumerate(engine.cache):
        given = deep.filled.layer(layer, engine.model.hparams.kv_dim, engine.options.kv)
        for buffer, array in zip(buffers, given, strict=True):
            engine.backend.write(buffer, np.ascontiguousarray(array))


def feed(engine: Engine, span: Span, eager: bool = False) -> Array:
    """Logits f32 [vocab] after the last token of a span: a step, or a prompt."""
    engine.position = span.start
    one = len(span.tokens) == 1
    return engine.step(span.tokens[0], eager) if one else engine.prefill(span.tokens, eager)


def _where(span: Span) -> str:
    if len(span.tokens) == 1:
        return f"at position {span.start}"
    return f"after a prefill of {len(span.tokens)} at position {span.start}"


def _apart(span: Span, context: int) -> bool:
    """Whether its launches are run one by one too: a device waits after each of them, which takes its time."""
    return span.end == context or (len(span.tokens) == 1 and span.start & (span.start - 1) == 0)


def gate_depth(candidate: Candidate) -> Gate:
    """At every span of the reference: what was recorded against its launches one by one, bit for bit, and against the
    reference on the same keys and values; and the id that the device found largest behind it.
    """
    engine, deep = candidate.engine, candidate.reference.deep
    if deep is None or engine.context != deep.filled.count:
        asked = f"{deep.filled.count} positions" if deep else "nothing"
        values = {name: float("nan") for name in ("depth_cosine", "depth_noise", "depth_norm", "depth_differences")}
        reason = f"its cache holds {engine.context} positions, the reference has {asked}"
        return candidate.judged("depth", {**values, "depth_unreached": 1}, lambda bad: ("KP-DEPTH", reason))
    fill(engine, deep)
    recorded, differences, first, ids = [], 0, "", list[str]()
    for span in deep.spans:
        recorded.append(feed(engine, span))
        if len(span.tokens) == 1 and (best := engine.best()) != (largest := int(recorded[-1].argmax())):
            ids.append(f"the device returns {best} {_where(span)}, the largest logit is {largest}")
        if _apart(span, engine.context):
            wrong = int((recorded[-1] != feed(engine, span, eager=True)).sum())
            differences, first = differences + wrong, _where(span) if wrong else first
    engine.reset()
    far = Distance.between(np.stack(recorded), deep.logits)
    values = {
        **far.values("depth", candidate, deep),
        "depth_differences": differences + len(ids), "depth_unreached": 0,
    }  # fmt: skip

    def failure(bad: Measure) -> tuple[str, str]:
        if bad.threshold == "depth_differences":
            between = f"{differences} logits differ between the recording and its launches one by one, first {first}"
            return "KP-DEPTH", between if first else ids[-1]
        names = [f"{_where(span)} of {engine.context}" for span in deep.spans]
        end = f", up to position {engine.context - 1}"
        return "KP-DEPTH", far.reason(bad, f"vs {candidate.reference.name}", names, end=end)

    return candidate.judged("depth", values, failure)
