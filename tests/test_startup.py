"""What a command costs before it does anything: nothing heavy is imported unasked, and help is there at once."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kparity.cli.main import COMMANDS
from kparity.model.writer import Spec
from tests.cli import python
from tools import load_time, speeds

PUBLISHED = (
    "general.architecture", "general.name", "vocab_size", "context_length", "embedding_length", "block_count",
    "feed_forward_length", "rope.dimension_count", "attention.head_count", "attention.head_count_kv",
    "tokenizer.ggml.add_bos_token", "attention.layer_norm_rms_epsilon", "rope.freq_base", "general.file_type",
    "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.padding_token_id", "tokenizer.chat_template", "general.quantization_version",
)  # fmt: skip
"""Keys of BitNet-b1.58-2B-4T as i2_s, those of the architecture without its name."""
UNASKED = ("numpy", "torch", "wgpu", "pyopencl", "cupy", "matplotlib", "yaml", "jsonschema", "rich", "tokenizers",
           "msgspec", "gguf", "duckdb", "jinja2", "cryptography", "xllamacpp", "kparity._native")  # fmt: skip
BENCH = "kparity.bench"

LOADED = """
import sys
from kparity.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("\\n" + " ".join(sys.modules))
"""


def loaded(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    return set(python(LOADED, *arguments).splitlines()[-1].split())


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_imports_nothing_heavy(name: str | None) -> None:
    found = loaded(*filter(None, [name]), "--help")
    assert [module for module in UNASKED if module in found] == []
    assert "click" in found and not any(module.startswith(BENCH) for module in found)


def test_the_timing_core_imports_no_vendor_library() -> None:
    code = "import sys, kparity.bench.ops, kparity.bench.comparison; print(*sys.modules)"
    assert not {"torch", "wgpu", "pyopencl", "cupy", "xllamacpp", "matplotlib"} & set(python(code).split())


def test_help_is_there_within_120_ms() -> None:
    """By the processor's time: on an idle machine it is the wall's, and neighbours do not add to it."""
    command, best = [sys.executable, "-m", "kparity.cli.main", "--help"], 1.0
    for _ in range(10):
        before = os.times()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0.005 < best <= 0.120


# --- what measures them ---


def test_a_repack_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "DISTINCT", 1)
    table = list(speeds.repacking())
    assert {series.row.name.split(",")[0] for series in table} == {"repack TQ2_0", "repack TQ1_0", "repack I2_S"}
    assert all(series.check() is None and series.sample().wall_s > 0 for series in table)
    monkeypatch.setattr(speeds, "repack", lambda *_: np.zeros((speeds.ROWS, speeds.K // 16), np.uint32))
    assert all("output wrong" in (series.check() or "") for series in table)


def test_a_command_that_fails_is_no_time() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        speeds.process("fails", sys.executable, "-c", "raise SystemExit(1)").sample()


@pytest.mark.alone
def test_a_published_vocabulary_loads_in_time_that_grows_as_it_does(tmp_path: Path) -> None:
    """Eight times the tokens and merges take eight times as long, or twice that at most; the keys are the published."""
    spec = Spec(type="i2_s", layers=1, width=256, ffn=256, heads=2, kv_heads=1)
    names = [name.removeprefix("bitnet-b1.58.") for name, _, _ in load_time.keys(spec)]
    assert sorted(names) == sorted(PUBLISHED) and len(names) == 24
    seconds = []
    for vocab in (spec.vocab // 8, spec.vocab):
        found = [load_time.loaded(dataclasses.replace(spec, vocab=vocab), tmp_path) for _ in range(2)]
        seconds.append(min(each.keys_s + each.vocabulary_s for each in found))
    assert seconds[1] < 2 * 8 * seconds[0], seconds
