"""Write a GGUF file with random ternary weights, by default of the shape of the 2B-4T model.

    python -m tools.write_gguf OUT --type tq2_0 --layers 4
    python -m tools.write_gguf OUT --shape llama3-8b:2

``--shape`` is one that ``kparity bench --shape`` knows; options beside it change it.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from kparity.bench import shapes
from kparity.errors import KparityError
from kparity.host import files
from kparity.model.architectures import ARCHITECTURES
from kparity.model.writer import LINEAR, Spec, write

CHOICES = {"type": sorted(LINEAR), "embedding": sorted({*LINEAR} - {"i2_s"}), "arch": sorted(ARCHITECTURES)}


def main() -> None:
    """One option per field of ``Spec``."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--shape", default="", help=", ".join(shapes.SHAPES) + ", each as NAME[:LAYERS[:VOCAB]]")
    parser = argparse.ArgumentParser(description="Write a random ternary GGUF model.", parents=[first])
    parser.add_argument("out", type=Path)
    name = first.parse_known_args()[0].shape
    try:
        shape = shapes.parse(name) if name else Spec()
    except KparityError as error:
        parser.error(str(error))
    for field in fields(Spec):
        flags = dict.fromkeys((f"--{field.name.replace('_', '-')}", f"--{field.name}"))
        value = getattr(shape, field.name)
        if isinstance(value, bool):
            parser.add_argument(*flags, action="store_true", default=value)
        else:
            parser.add_argument(*flags, type=type(value), default=value, choices=CHOICES.get(field.name))
    options = vars(parser.parse_args())
    files.refuse_unwritable(options["out"])
    out = write(options.pop("out"), Spec(**{field.name: options[field.name] for field in fields(Spec)}))
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
