"""Pairs of engines through the whole ladder: right ones, which must pass, and known-wrong ones, each with the rung that
must fail. Writes docs/ladder-pairs.md.

    python -m tests.ladder_pairs [--only PATTERN] [--write]

KPARITY_LLAMACPP names a folder with llama.cpp's libraries (FOLDER below). What is missing here is a row that says so,
and exit code 3; a verdict that is not the expected one is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kparity.bench import shapes
from kparity.host.revision import checkout, commit
from kparity.host.text import markdown_table
from kparity.receipts.statement import host
from tests.dense_files import write_dense
from tests.llama_server import serving

PAGE = Path(__file__).parent.parent / "docs/ladder-pairs.md"
EMBEDDED, PASS = "", "PASS"
LLAMACPP = os.environ.get("KPARITY_LLAMACPP", "")


@dataclass(frozen=True)
class Pair:
    """``expected`` is PASS, or the rung that fails."""

    reference: str
    candidate: str
    model: str = EMBEDDED
    expected: str = PASS
    options: tuple[str, ...] = ()
    what: str = ""
    positions: int = 256


BLOCKS = "kparity:cpu?act=block256"
"""Activations are quantised as llama.cpp does it."""
NPM, VULKAN = "FOLDER?device=CPU", "FOLDER?device=Vulkan0&ubatch=8"
RIGHT = (
    Pair("reference", "kparity:cpu"),
    *(Pair("kparity:cpu", f"kparity:{name}") for name in ("numpy", "wgpu", "opencl", "torch")),
    *(Pair(BLOCKS, name) for name in ("llama.cpp", NPM, VULKAN)),
    Pair("llama.cpp", BLOCKS),
    Pair("llama.cpp", "SERVER"),
    Pair(NPM, VULKAN),
    Pair(NPM, VULKAN, options=("--third", "f16")),
    *(Pair("llama.cpp", NPM, dense) for dense in ("llama F16", "qwen2 Q8_0", "qwen3 F16")),
    *(Pair(NPM, VULKAN, dense, positions=64) for dense in ("llama F16", "qwen3 F16")),
    Pair("kparity:cpu?kv=f32", "transformers:exported"),
)
LARGE = (Pair("llama.cpp", BLOCKS, "2b-4t:4"),)
"""Of 731 MB: four layers of the shape of BitNet b1.58 2B-4T, with its vocabulary."""
WRONG = (
    Pair("reference", "mutant:norm_quant/relu2-for-silu", expected="first-logit", what="relu² for SiLU"),
    Pair("reference", "mutant:rope/convention-swapped", expected="positions", what="interleaved for NEOX"),
    Pair("reference", "mutant:engine/rope-theta-default", expected="positions", what="theta 500,000 for 10,000"),
    Pair("reference", "mutant:engine/no-sub-norm", expected="first-logit", what="a sub-norm is missing"),
    Pair("reference", "mutant:attention/mask-one-more", expected="masks", what="the mask shows one key more"),
    Pair("reference", "mutant:attention/mask-one-less", expected="first-logit", what="a query misses its own key"),
    Pair("reference", "mutant:kv_store/next-position", expected="first-logit", what="keys go one position late"),
    Pair("reference", "mutant:engine/position-off-by-one", expected="masks", what="positions of a step are off by one"),
    Pair("reference", "mutant:engine/cache-not-reset", expected="masks", what="the cache is not reset"),
    Pair("reference", "mutant:engine/ring-too-short", expected="decode", what="a ring buffer of 64 positions"),
    Pair("reference", "kparity:cpu?act=block256", expected="first-logit", options=("--profile", "same"),
         what="activations quantised by blocks of 256, which is not the same numerics"),
    Pair("llama.cpp", "mutant:rope/convention-swapped", expected="positions", what="the same, against llama.cpp"),
)  # fmt: skip


@cache
def model_path(name: str, folder: Path) -> str:
    """The file of a model; empty for the embedded one."""
    if " " in name:
        arch, kind = name.split()
        return str(write_dense(folder / f"{arch}.gguf", arch, kind))
    return str(shapes.model_file(name)) if name else ""


def climbed(pair: Pair, server: str, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The JSON of a climb in a process of its own, or what the command said instead."""

    def written(text: str) -> str:
        return text.replace("FOLDER", f"llama.cpp:{LLAMACPP}").replace("SERVER", server)

    path, model = folder / "found.json", model_path(pair.model, folder)
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "kparity", "ladder", "--ref", written(pair.reference), "--cand"]
    command += [written(pair.candidate), "--positions", str(pair.positions), "--json", str(path), *pair.options]
    ran = subprocess.run(
        [*command, *(["--model", model] if model else [])], capture_output=True, text=True, check=False
    )
    if not path.exists():
        return None, (ran.stderr.strip().splitlines() or ["no output"])[-1]
    return json.loads(path.read_text()), ""


def row(pair: Pair, found: dict[str, Any] | None, said: str) -> tuple[list[str], str]:
    """A row of the table, and the verdict: PASS, the rung that failed, or another word."""
    start = [f"`{pair.reference}`", f"`{' '.join((pair.candidate, *pair.options))}`", pair.model or "embedded"]
    if found is None:
        return [*start, "not run", *[""] * 5, said], "not run"
    failed = next((each for each in found["rungs"] if each["verdict"] == "FAIL"), None)
    open_rung = next((each for each in found["rungs"] if each["verdict"] == "INCONCLUSIVE"), None)
    verdict = failed["name"] if failed else found["verdict"]
    rows, steps = found["positions"], [step for each in found["decode"] for step in each["steps"]]
    numbers = [""] * 5
    if rows:
        kls = sorted(each["kl"] for each in rows if each["kl"] is not None) or [float("nan")]
        same = sum(each["tokens"][0] == each["tokens"][1] for each in rows)
        numbers = [
            f"{1 - (rows[0]['cosine_similarity'] or 0):.1e}",
            f"{1 - (found['metrics']['min_cosine_similarity'] or 0):.1e}",
            f"{kls[len(kls) // 2]:.1e}", f"{kls[-1]:.1e}", f"{same} of {len(rows)}",
        ]  # fmt: skip
    decoded = f"{sum(step == 'SAME' for step in steps)} of {len(steps)}" if steps else ""
    share = 1 - found["engine_seconds"] / found["seconds"] if found["seconds"] else 0
    note = failed["cause"] or failed["reason"] if failed else open_rung["reason"] if open_rung else pair.what
    shown = f"fails at {verdict}" if failed else verdict
    return [*start, shown, *numbers, decoded, f"{found['seconds']:.0f} s, {100 * share:.0f} %", note], verdict


HEADS = ["reference", "candidate", "model", "verdict", "1 − cosine at 0", "worst", "KL median", "most", "argmax equal",
         "greedy equal", "time, harness's own", "note"]  # fmt: skip


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.ladder_pairs", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of `reference candidate model`")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    sections, worst = list[str](), 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving())
        for title, pairs in (("Right pairs", (*RIGHT, *LARGE)), ("Known to be wrong", WRONG)):
            table = []
            for pair in pairs:
                if not re.search(options.only, f"{pair.reference} {pair.candidate} {pair.model}"):
                    continue
                cells, verdict = row(pair, *climbed(pair, server, folder))
                cells[0], cells[1] = (each.replace(server, "SERVER") for each in cells[:2])
                as_expected = verdict == pair.expected
                worst = max(worst, 0 if as_expected else 3 if verdict == "not run" else 1, key=(0, 3, 1).index)
                print("ok   " if as_expected else "WRONG", *cells, sep=" | ", flush=True)
                table.append(cells)
            sections.append(f"## {title}\n\n{markdown_table(HEADS, table)}")
    if options.write:
        head = HEAD.format(commit=(commit(checkout()) or "unknown")[:7], host=host().cpu)
        PAGE.write_text("\n\n".join([head, *sections]) + "\n")
    return worst


HEAD = """# Pairs through the ladder

Written by `python -m tests.ladder_pairs --write` (commit {commit}, {host}). FOLDER is the npm
package that [engines.md](engines.md) names, its Vulkan backend on Mesa's lavapipe: software, not a GPU. SERVER is
llama.cpp's own HTTP server. The models `llama F16` … are random weights of 4 layers (`tests/dense_files.py`). A mutant
runs on numpy."""

if __name__ == "__main__":
    sys.exit(main())
