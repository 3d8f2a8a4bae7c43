"""How near right engines come to the limit of a trace's slot (``local_excess`` of trace-parity-v1): its basis.

    python -m tools.trace_noise

Pairs of right engines on the embedded model and on random ones (relu², SiLU, products beyond the range of f16, a scale
per block); those of llama.cpp where ``xllamacpp`` is installed, and a build of it where KPARITY_LLAMACPP names one.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

from kparity.cli.table import Table
from kparity.engines.remote import open_engine
from kparity.errors import KparityError
from kparity.model.gguf_file import embedded
from kparity.model.writer import Spec, write
from kparity.traces import files
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import diff

TOKENS = [(index * 37 + 11) % 290 for index in range(48)]
SMALL = Spec(layers=4, width=768, ffn=1792, heads=12, kv_heads=4, vocab=300, context=128)
RANDOM = {
    "relu²": SMALL,
    "SiLU": dataclasses.replace(SMALL, arch="bitnet", seed=5),
    "beyond f16": dataclasses.replace(SMALL, ffn_gain=30.0),
    "block scales": dataclasses.replace(SMALL, block_scales=True, seed=3),
}
OURS = ("reference?precision=f32", "kparity:cpu", "kparity:cpu?fused=0", "kparity:numpy", "kparity:wgpu",
        "kparity:opencl")  # fmt: skip
BUILD = os.environ.get("KPARITY_LLAMACPP", "")
THEIRS = ("llama.cpp", *(f"llama.cpp:{BUILD}?device={name}" for name in ("CPU", "Vulkan0") if BUILD))


def pairs() -> Iterator[tuple[str, str, str]]:
    """Model, reference and candidate."""
    for model in ("embedded", *RANDOM):
        for act in ("token", "block256"):
            for name in OURS:
                yield model, f"reference?act={act}", f"{name}{'&' if '?' in name else '?'}act={act}"
        if model in ("embedded", "SiLU"):  # llama.cpp's graph
            yield from ((model, "reference?act=block256", name) for name in THEIRS)


def main() -> None:
    """Command line."""
    table, seen = Table("model", "reference", "candidate", "excess", "slot", right=("excess",)), list[float]()
    with tempfile.TemporaryDirectory() as folder:

        @cache
        def trace(model: str, spec: str) -> files.Loaded:
            path = str(embedded()) if model == "embedded" else str(write(Path(folder, f"{model}.gguf"), RANDOM[model]))
            to = Path(folder, f"{len(os.listdir(folder))}.trace")  # noqa: PTH208 - a count
            with closing(open_engine(spec, model=path, context=128)) as engine:
                capture(engine, spec, TOKENS, to, Wanted(("*",)))
            return files.load(to)

        for model, reference, candidate in pairs():
            shown = candidate.replace(BUILD, "FOLDER") if BUILD else candidate
            try:
                found = diff(trace(model, candidate), trace(model, reference))
            except KparityError as error:
                table.add(model, reference, shown, "", f"left out: {error}")
                continue
            worst = max((each for each in found.slots if each.excess is not None), key=lambda each: each.excess or 0.0)
            seen.append(worst.excess or 0.0)
            table.add(model, reference, shown, f"{worst.excess:.2f}", worst.key)
    table.print()
    print(f"{len(seen)} pairs, largest {max(seen):.2f}")


if __name__ == "__main__":
    main()
