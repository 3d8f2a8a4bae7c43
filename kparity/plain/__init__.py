"""The reference of the probe: a plain forward pass over a model's file, which shares no host code with any candidate.

It reads the file's keys by itself, has tables of its own and no graph: what is wrong in ``kparity.engine``, in the
kernels' tables or in ``kparity.model.hparams`` is not wrong here too.
"""

from kparity.plain.file import Facts, facts
from kparity.plain.forward import CONTROLLED, RIGHT, Cache, Logits, Span, Stream, Variation, logits, streamed

__all__ = [
    "CONTROLLED", "RIGHT", "Cache", "Facts", "Logits", "Span", "Stream", "Variation", "facts", "logits", "streamed",
]  # fmt: skip
