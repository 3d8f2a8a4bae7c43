"""``kparity schema``: the form of what kparity writes, for other programs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

FORMS = {
    "receipt": ("kparity.receipts.record", "Statement"),
    "probe": ("kparity.probe.document", "Document"),
    "check": ("kparity.check.document", "Document"),
}
"""Name → the typed record that stands for a document."""


def schema_of(form: str) -> dict[str, Any]:
    """The JSON Schema of one of ``FORMS``."""
    import msgspec

    module, name = FORMS[form]
    found = msgspec.json.schema(getattr(import_module(module), name))
    for part in found["$defs"].values():
        for each in part["properties"].values():  # a float that JSON cannot hold says itself what stands in its place
            if "anyOf" in each:
                each.pop("type", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


@click.command()
@click.argument("form", type=click.Choice(list(FORMS)))
def schema(form: str) -> None:
    """Print the JSON Schema of a receipt, or of the JSON of probe or check."""
    import json

    click.echo(json.dumps(schema_of(form), indent=2, ensure_ascii=False))
