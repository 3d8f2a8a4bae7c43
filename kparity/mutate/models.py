"""Models on which a defect of the host's code matters: what the embedded one cannot show, since its base is the usual
10,000, its activation SiLU, and all of its heads and scales are ordinary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from kparity.model import writer
from kparity.model.gguf_file import STRING
from kparity.model.writer import F32, Key, Spec

EMBEDDED = ""
"""Stands for the model that is part of the package."""
SMALL = dataclasses.replace(writer.TINY, arch="bitnet-b1.58", layers=3, heads=4, kv_heads=2)
ROPE = f"{SMALL.arch}.rope"


@dataclasses.dataclass(frozen=True)
class Made:
    """A model of random weights, and the keys that it has beside the usual ones."""

    spec: Spec
    keys: tuple[Key, ...] = ()


MODELS: Mapping[str, Made] = {
    "b158": Made(SMALL),  # relu², base 500,000
    "eps": Made(dataclasses.replace(SMALL, eps=0.05)),
    "peaks": Made(dataclasses.replace(SMALL, ffn_gain=30.0)),  # products beyond the range of f16
    "scales": Made(dataclasses.replace(SMALL, scale_tensors=True)),
    "stretched": Made(SMALL, ((f"{ROPE}.scaling.type", STRING, "linear"), (f"{ROPE}.scaling.factor", F32, 4.0))),
}
"""Name → model. Each has controls of its own: right engines pass on it."""


def path_of(name: str, folder: Path) -> Path | None:
    """The file of a model, written unless it is there; None for the embedded one."""
    if name == EMBEDDED:
        return None
    path, made = folder / f"{name}.gguf", MODELS[name]
    if not path.exists():
        usual = [key for key in writer.keys(made.spec) if key[0] not in {each[0] for each in made.keys}]
        writer.write_file(path, [*usual, *made.keys], list(writer.tensors(made.spec)))
    return path
