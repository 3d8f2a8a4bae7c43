"""Fuzzes one target for some seconds with libFuzzer's rules: coverage of kparity's Python guides what is tried next.

Exit code 0: nothing found. Otherwise the input that did it lies in the folder that is named, to be kept under
``tests/fuzz/kept/TARGET`` once it is repaired.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any


class PlainLoaders(MetaPathFinder):
    """kparity's modules with Python's own loader: atheris counts no branches in what an editable install loads."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """The spec that the other finders have, with another loader."""
        others = (each for each in sys.meta_path if each is not self and type(each).__module__.startswith("_editable"))
        spec = next((found for each in others if (found := each.find_spec(name, path, target))), None)
        if spec is not None and (spec.origin or "").endswith(".py"):
            spec.loader = SourceFileLoader(name, str(spec.origin))
        return spec


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer; 0 draws one")
    options = parser.parse_args()
    import atheris

    sys.meta_path.insert(0, PlainLoaders())
    with atheris.instrument_imports(include=["kparity"]):
        from tests.fuzz.targets import KEPT, TARGETS
    if options.target not in TARGETS:
        parser.error(f"no target {options.target!r}; known: {', '.join(TARGETS)}")
    target = TARGETS[options.target]
    work = Path(tempfile.mkdtemp(prefix=f"kparity-fuzz-{options.target}-"))
    corpus, harm = work / "corpus", work / "harm"
    corpus.mkdir()
    harm.mkdir()
    for index, seed in enumerate(target.seeds()):
        (corpus / f"seed{index}").write_bytes(seed)
    print(f"{options.target}: corpus and findings in {work}", file=sys.stderr)
    own = target.mutator and target.mutator(lambda data, limit: atheris.Mutate(data, limit))
    limits = [
        f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=20", "-rss_limit_mb=3000",
        "-max_len=500000", "-print_final_stats=1", f"-artifact_prefix={harm}/",
    ]  # fmt: skip
    folders = [str(corpus), *([str(KEPT / options.target)] if (KEPT / options.target).is_dir() else [])]
    atheris.Setup(
        [sys.argv[0], *limits, *folders],
        lambda data: target.run(data) and None,
        **({"custom_mutator": own} if own else {}),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
