"""Write a GGUF file with random ternary weights, by default of the shape of the 2B-4T model.

    python -m tools.write_gguf OUT --type tq2_0 --layers 4

The shapes that ``kparity bench --shape`` knows are written by itself.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from kparity.host import files
from kparity.model.architectures import ARCHITECTURES
from kparity.model.writer import LINEAR, Spec, write

CHOICES = {"type": sorted(LINEAR), "embedding": sorted({*LINEAR} - {"i2_s"}), "arch": sorted(ARCHITECTURES)}


def main() -> None:
    """One option per field of ``Spec``."""
    parser = argparse.ArgumentParser(description="Write a random ternary GGUF model.")
    parser.add_argument("out", type=Path)
    for field in fields(Spec):
        flags = dict.fromkeys((f"--{field.name.replace('_', '-')}", f"--{field.name}"))
        if isinstance(field.default, bool):
            parser.add_argument(*flags, action="store_true")
        else:
            choices = CHOICES.get(field.name)
            parser.add_argument(*flags, type=type(field.default), default=field.default, choices=choices)
    options = vars(parser.parse_args())
    files.refuse_unwritable(options["out"])
    out = write(options.pop("out"), Spec(**options))
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
