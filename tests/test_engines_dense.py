"""Files without a ternary weight, of architectures that kparity itself does not read, in any build of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kparity.numerics.logits import compare_logits
from tests.dense_files import VOCAB, write_dense
from tests.test_engines import engine

TOKENS = [0, *(int(each) for each in np.random.default_rng(7).integers(2, VOCAB, 40))]


@pytest.mark.parametrize(("arch", "kind"), [("llama", "F16"), ("qwen2", "Q8_0"), ("qwen3", "F16")])
@pytest.mark.parametrize(
    "text", ["llama.cpp?threads=1", "FOLDER?device=CPU&threads=1", "FOLDER?device=Vulkan0&threads=1"]
)
def test_llamacpp_scores_a_dense_file(arch: str, kind: str, text: str, tmp_path: Path) -> None:
    """The whole against its steps, and each position is about its own token: the residual stream is no echo."""
    with engine(text, model=str(write_dense(tmp_path / "model.gguf", arch, kind))) as made:
        facts = made.facts
        assert (facts.vocab, facts.layers, facts.width, facts.context) == (VOCAB, 4, 256, 512)
        assert made.tokenize("the and") == [0, 258, 103, 264]
        logits = made.score(TOKENS)
        made.reset()
        steps = np.stack([made.step(token) for token in TOKENS])
    found = compare_logits(logits, steps)
    print(f"{arch} {kind} in {text}: batch against step, worst 1 - cosine {found.cosine_distance.max():.2g}")
    assert found.cosine_distance.max() < 5e-3  # seen: 2e-3 with Q8_0, 1.5e-4 on Vulkan in f16, 2e-6 on the processor
    assert 2 < logits.std() < 4 and np.mean(logits.argmax(axis=1) == TOKENS) < 0.2
