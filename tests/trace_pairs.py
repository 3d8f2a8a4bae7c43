"""Engines that are known to be wrong against llama.cpp, by their traces of one prompt: the first slot that differs by
more than a right engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kparity.engines.remote import open_engine
from kparity.mutate.library import every
from kparity.traces import files
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import TraceDiff, diff

TEXT = "In the beginning God created the heaven and the earth."
THEIRS, RIGHT = "FOLDER?device=CPU", "kparity:numpy"
"""The engine that is taken for right, and the floor: one that is right and computes as the mutants do."""
BESIDE = "attn_sub_norm comes from the op alone, beside the fused kernel that lacks it: what that makes shows behind it"
ONE_CHUNK = "a prompt of several chunks is refused: it reads what the pass before left, and no two passes are alike"
EMPTY = "its row of position 0 is empty"


@dataclass(frozen=True)
class Wrong:
    """A mutant and the slot that its trace must differ in first."""

    mutant: str
    slot: str
    note: str = ""

    @property
    def what(self) -> str:
        """Its defect."""
        return next(each.what for each in every() if each.label == self.mutant)


WRONG = (
    Wrong("norm_quant/relu2-for-silu", "0.ffn_swiglu_inner", "llama.cpp's graph has no slot between gate and product"),
    Wrong("rope/convention-swapped", "0.q_rope"),
    Wrong("engine/rope-theta-default", "0.q_rope"),
    Wrong("engine/no-sub-norm", "0.attn_out", BESIDE),
    Wrong("attention/mask-one-more", "0.attention", ONE_CHUNK),
    Wrong("attention/mask-one-less", "0.attention", EMPTY),
    Wrong("kv_store/next-position", "0.k_cache", EMPTY),
    Wrong("engine/position-off-by-one", "0.q_rope", "the first that reads positions; the caches differ, too"),
    Wrong("engine/wrong-activation", "0.ffn_swiglu_inner"),
    Wrong("engine/residual-dropped", "3.attn_residual"),
)


def traced(spec: str, folder: Path, tokens: Sequence[int] = (), twice: bool = False) -> files.Loaded:
    """A trace with all tensors, of the text or of tokens; with ``twice`` BOS stands there two times."""
    with closing(open_engine(spec)) as engine:
        tokens = tokens or engine.tokenize(TEXT)
        capture(engine, spec, [*tokens[:1] * twice, *tokens], folder, Wanted(("*",)))
    return files.load(folder)


def told(wrong: Wrong, theirs: files.Loaded, right: files.Loaded, folder: Path) -> TraceDiff:
    """What ``trace diff THEIRS MUTANT --floor RIGHT`` says."""
    assert theirs.begin
    return diff(theirs, traced(f"mutant:{wrong.mutant}", folder, theirs.begin.tokens), floor=right)
