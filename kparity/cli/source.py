"""``kparity source``: the text of an op, as a backend's compiler gets it."""

from __future__ import annotations

import click

from kparity.cli import names
from kparity.cli.command import Command
from kparity.cli.names import completing


@click.command(
    cls=Command,
    examples=("kparity source rmsnorm -b cuda -k 'D=257,'",),
)
@click.argument("op_name", metavar="OP", shell_complete=completing(names.ops))
@click.option("-b", "--backend", "backend_name", required=True, metavar="BACKEND", help="Whose text.")
@click.option("-k", "expression", metavar="EXPR", help="The first case that matches, as kparity check -k selects.")
def source(op_name: str, backend_name: str, expression: str | None) -> None:
    """Print the text of an op at one case, as the backend's compiler gets it.

    The device need not be there: then the text is the one for a wavefront of 32 lanes, and its first line says so. A
    backend that compiles no text while it runs is exit code 2, with the file that holds its code.
    """
    from kparity import ops
    from kparity.check import select
    from kparity.device import registry
    from kparity.errors import Unavailable, WrongInput
    from kparity.host.text import printable
    from kparity.ops.assemble import TEXTS, missing_text, place

    op, backend = ops.get(op_name), registry.backend_class(backend_name)
    chosen = select.selected([op_name], False, expression)
    if not chosen:
        raise WrongInput(f"-k {expression!r}: no case of {op_name} matches; kparity check -o {op_name} --list has all")
    missing = missing_text(op, backend.dialect)
    if missing:
        raise WrongInput(missing)
    case, constants, note = chosen[0].case, backend.constants, ""
    if constants:  # they depend on the device
        try:
            device = registry.open_backend(backend_name)
        except Unavailable as problem:
            values = ", ".join(f"{name}={value}" for name, value in constants.items())
            note = f"; no device here ({problem.code}): {values} is assumed"
        else:
            constants = device.constants
            device.close()
    text = backend.source(op, case, constants)
    if text is None:
        where = f": its code of {op_name} is {place(op, backend.dialect)}" if backend.dialect in TEXTS else ""
        raise WrongInput(f"{backend_name} compiles no text while it runs{where}")
    click.echo(printable(f"// {case.id} for {backend_name}, from {text.path}{note}\n{text.text}", "\n\t\r"), nl=False)
