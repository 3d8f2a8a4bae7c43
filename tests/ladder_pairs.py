"""Pairs of engines through the whole ladder: right ones, which must pass, and known-wrong ones, each with the rung that
must fail; then the traces of known-wrong ones against llama.cpp's. Writes docs/ladder-pairs.md.

    python -m tests.ladder_pairs [--section right|graphs|wrong|traces] [--only PATTERN] [--write]

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from kparity.bench import shapes
from kparity.errors import WrongInput
from kparity.host.revision import checkout, commit
from kparity.host.text import markdown_table
from kparity.model.gguf_file import embedded
from kparity.model.writer import TINY, write
from kparity.receipts.statement import host
from kparity.traces.diff import diff
from kparity.traces.slots import Key
from tests import trace_pairs
from tests.dense_files import write_dense
from tests.llama_server import serving
from tests.trace_pairs import traced

PAGE = Path(__file__).parent.parent / "docs/ladder-pairs.md"
EMBEDDED, PASS, BREAK = "", "PASS", "\n"
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
    candidate_model: str = ""
    """Of the same names; empty for the same file."""


BLOCKS = "kparity:cpu?act=block256"
"""Activations are quantised as llama.cpp does it."""
BLOCKS_OF_32 = "kparity:cpu?act=block32"
"""As it does it beside Q2_0."""
NPM, VULKAN = "FOLDER?device=CPU", "FOLDER?device=Vulkan0&ubatch=8"
RIGHT = (
    Pair("reference", "kparity:cpu"),
    *(Pair("kparity:cpu", f"kparity:{name}") for name in ("numpy", "wgpu", "opencl", "torch")),
    *(Pair(BLOCKS, name) for name in ("llama.cpp", NPM, VULKAN)),
    Pair("llama.cpp", BLOCKS),
    Pair("llama.cpp", "SERVER"),
    Pair("kparity:cpu?act=block256", "SERVER"),
    Pair(NPM, VULKAN),
    Pair(NPM, VULKAN, options=("--third", "f16")),
    *(Pair("llama.cpp", NPM, dense) for dense in ("llama F16", "qwen2 Q8_0", "qwen3 F16")),
    *(Pair(NPM, VULKAN, dense, positions=64) for dense in ("llama F16", "qwen3 F16")),
    Pair("kparity:cpu?kv=f32", "transformers:exported"),
)
LARGE = (Pair("llama.cpp", BLOCKS, "2b-4t:4"),)
"""Of 731 MB: four layers of the shape of BitNet b1.58 2B-4T, with its vocabulary."""
EIGHT = (Pair(BLOCKS, NPM, "llama3-8b:2", positions=64), Pair(BLOCKS_OF_32, NPM, "bonsai-8b:2", positions=64))
"""Of 2.2 GB and 462 MB: two layers of Llama3-8B-1.58 and of Ternary-Bonsai 8B, with their vocabularies."""
MADE = replace(TINY, layers=4, heads=8, kv_heads=4, vocab=640, context=512, theta=10000.0)
"""Of random ternary weights; heads of ``llama`` and ``qwen3`` have a size of their own."""
SPECS = {
    f"{arch} {kind}": replace(MADE, arch=arch, type=kind, key_length=0 if arch == "bitnet" else 64)
    for arch in ("bitnet", "llama", "qwen3")
    for kind in ("tq2_0", "tq1_0", "q2_0")
}
SPECS["llama 3 tq2_0"] = replace(SPECS["llama tq2_0"], rope_freqs=True, untied=True)
SPECS["qwen3 q2_0 and its head"] = replace(SPECS["qwen3 q2_0"], embedding="q2_0")
SPECS["llama tq2_0 and f16"] = replace(SPECS["llama tq2_0"], mixed="attn_v,0.ffn_down")
MIXED = "its activations are f16 where weights are, ours f32; alike beside ternary ones"
GRAPHS = (
    *(Pair(BLOCKS_OF_32 if " q2_0" in each else BLOCKS, NPM, each, what=MIXED if " and f16" in each else "")
      for each in SPECS),
    *(Pair("reference", "mutant:rope/convention-swapped", each, "positions", what="the other pairs")
      for each in ("llama tq2_0", "qwen3 tq2_0")),
)  # fmt: skip
WRONG = (
    Pair("reference", "mutant:norm_quant/relu2-for-silu", expected="first-logit", what="relu² for SiLU"),
    Pair("reference", "mutant:rope/convention-swapped", expected="positions", what="interleaved for NEOX"),
    Pair("reference", "mutant:engine/rope-theta-default", expected="positions", what="theta 500,000 for 10,000"),
    Pair("reference", "mutant:engine/no-sub-norm", expected="first-logit", what="a sub-norm is missing"),
    Pair("reference", "mutant:attention/mask-one-more", expected="masks", what="the mask shows one key more"),
    Pair("reference", "mutant:attention/mask-one-less", expected="first-logit", what="a query misses its own key"),
    Pair("reference", "mutant:kv_store/next-position", expected="first-logit", what="keys go one position late"),
    Pair("reference", "mutant:engine/position-off-by-one", expected="first-logit", what="positions begin at 1"),
    Pair("reference", "mutant:engine/cache-not-reset", expected="masks", what="the cache is not reset"),
    Pair("reference", "mutant:engine/ring-too-short", expected="positions", what="a ring buffer of 64 positions"),
    Pair("reference", "kparity:cpu?act=block256", expected="first-logit", options=("--profile", "same"),
         what="activations quantised by blocks of 256, which is not the same numerics"),
    Pair("llama.cpp", "mutant:rope/convention-swapped", expected="positions", what="the same, against llama.cpp"),
    Pair("llama.cpp", "llama.cpp", "without tokenizer.ggml.add_bos_token", "tokens", ("--prompt", "<s>In the end"),
         candidate_model="embedded", positions=4, what="BOS in the text, and of the tokenizer"),
    Pair("llama.cpp", "llama.cpp", "embedded", "tokens", ("--prompt", "David's son, the king's house"),
         candidate_model="without tokenizer.ggml.pre", positions=4, what="a file that does not say how text is cut"),
)  # fmt: skip


@cache
def model_path(name: str, folder: Path) -> str:
    """The file of a model; empty for the embedded one, or a copy of it without a key."""
    if name.startswith("without "):
        key, path = name.split()[1], folder / f"{name}.gguf"
        command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--remove-metadata", key]
        subprocess.run([*command, str(embedded()), str(path)], check=True, capture_output=True)
        return str(path)
    if name == "embedded":
        return str(embedded())
    if name in SPECS:
        return str(write(folder / f"{name}.gguf", SPECS[name]))
    if " " in name:
        arch, kind = name.split()
        return str(write_dense(folder / f"{arch}.gguf", arch, kind))
    return str(shapes.model_file(name)) if name else ""


def climbed(pair: Pair, server: str, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The JSON of a climb in a process of its own, or what the command said instead."""

    def written(text: str) -> str:
        return text.replace("FOLDER", f"llama.cpp:{LLAMACPP}").replace("SERVER", server)

    path = folder / "found.json"
    models = {"--model": model_path(pair.model, folder), "--cand-model": model_path(pair.candidate_model, folder)}
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "kparity", "ladder", "--ref", written(pair.reference), "--cand"]
    command += [written(pair.candidate), "--positions", str(pair.positions), "--json", str(path), *pair.options]
    command += [part for option, file in models.items() if file for part in (option, file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if not path.exists():
        return None, (ran.stderr.strip().splitlines() or ["no output"])[-1]
    return json.loads(path.read_text()), ""


def row(pair: Pair, found: dict[str, Any] | None, said: str) -> tuple[list[str], str]:
    """A row of the table, and the verdict: PASS, the rung that failed, or another word."""
    model = f"{pair.model or 'embedded'}{pair.candidate_model and f', candidate {pair.candidate_model}'}"
    start = [f"`{pair.reference}`", f"`{' '.join((pair.candidate, *pair.options))}`", model]
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


@dataclass
class Run:
    """What a section needs, and how bad its worst row was: an exit code."""

    folder: Path
    only: str
    worst: int = 0

    def judged(self, cells: list[str], right: bool, there: bool = True) -> list[str]:
        """A row of a table, printed with whether it says what is expected."""
        self.worst = max(self.worst, 0 if right else 1 if there else 3, key=(0, 3, 1).index)
        print("ok   " if right else "WRONG", *cells, sep=" | ", flush=True)
        return cells


def climbs(run: Run, pairs: Sequence[Pair]) -> str:
    """The table of some pairs through the ladder."""
    table = []
    chosen = [each for each in pairs if re.search(run.only, f"{each.reference} {each.candidate} {each.model}")]
    with serving() as server:
        for pair in chosen:
            cells, verdict = row(pair, *climbed(pair, server, run.folder))
            cells[:2] = (each.replace(server, "SERVER") for each in cells[:2])
            table.append(run.judged(cells, verdict == pair.expected, verdict != "not run"))
    return markdown_table(HEADS, table)


def traces(run: Run) -> str:
    """The table of the first slots in which known-wrong engines differ from llama.cpp."""
    if not LLAMACPP:
        run.worst = 3
        return "KPARITY_LLAMACPP names no folder"
    theirs = traced(NPM.replace("FOLDER", f"llama.cpp:{LLAMACPP}"), run.folder / "theirs")
    assert theirs.begin
    right = traced(trace_pairs.RIGHT, run.folder / "right", theirs.begin.tokens)
    floor, table = {each.key: each.error for each in diff(theirs, right).slots}, []
    for at, wrong in enumerate(each for each in trace_pairs.WRONG if re.search(run.only, each.mutant)):
        first = trace_pairs.told(wrong, theirs, right, run.folder / str(at)).first
        numbers = [f"{each:.1e}" for each in (first.error_in or 0.0, first.error, floor[first.key])] if first else []
        place = Key.parse(first.key).place if first else "none"
        cells = [f"`mutant:{wrong.mutant}`", wrong.what, place, *(numbers or [""] * 3), wrong.note]
        table.append(run.judged(cells, bool(first and first.key == wrong.slot)))
    try:
        refused = diff(theirs, traced(trace_pairs.RIGHT, run.folder / "bos", theirs.begin.tokens, twice=True)).reason
    except WrongInput as error:
        refused = str(error).replace(f"{run.folder}/", "")
    cells = [f"`{trace_pairs.RIGHT}`", "BOS stands twice", "refused", *[""] * 3, refused]
    table.append(run.judged(cells, "double BOS" in refused))
    return f"{TRACES}\n\n{markdown_table(SLOT_HEADS, table)}"


SECTIONS: dict[str, tuple[str, Callable[[Run], str]]] = {
    "right": ("Right pairs", lambda run: climbs(run, (*RIGHT, *LARGE))),
    "graphs": ("Architectures and types", lambda run: climbs(run, (*GRAPHS, *EIGHT))),
    "wrong": ("Known to be wrong", lambda run: climbs(run, WRONG)),
    "traces": ("Known to be wrong, by traces against llama.cpp", traces),
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.ladder_pairs", description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of `reference candidate model`, or of a mutant")
    parser.add_argument("--section", choices=SECTIONS, action="append", help="this one; repeatable [default: all]")
    parser.add_argument("--write", action="store_true", help="write the sections into the page; the others stay")
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("--only leaves rows out, and --write would drop them from the page; leave out one of them")
    page, since = PAGE.read_text(), f"Commit {(commit(checkout()) or 'unknown')[:7]}, {host().cpu}."
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), options.only)
        for title, made in (SECTIONS[each] for each in options.section or SECTIONS):
            section = f"## {title}\n\n{since}\n\n{made(run)}\n"
            before, found, after = page.partition(f"## {title}\n")
            page = f"{before}{'' if found else BREAK}{section}" + "".join(after.partition("\n## ")[1:])
    if options.write:
        PAGE.write_text(page)
    return run.worst


TRACES = """One prompt, every tensor kept on both sides: `kparity trace diff LLAMACPP MUTANT --floor RIGHT`, where
RIGHT is `kparity:numpy`, which is right and computes as the mutants do. Errors are relative to a row of the mutant."""
SLOT_HEADS = ["candidate", "defect", "first slot", "inputs differ by", "output by", "that of the right one", "note"]

if __name__ == "__main__":
    sys.exit(main())
