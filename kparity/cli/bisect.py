"""``kparity bisect``: from a pair that diverges to the position, the layer and the op."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kparity.cli.command import Command, for_people
from kparity.cli.options import FOLDER, json_option, quiet_option
from kparity.cli.pair import asked_for, pair_options

if TYPE_CHECKING:
    from kparity.bisect.record import Bisection

POSITIONS = 96
"""Two chunks of a prompt, a part of a third, and more than the shortest ring buffers hold."""


@click.command(
    cls=Command,
    examples=(
        "kparity bisect --ref reference --cand kparity:cpu",
        "kparity bisect --ref kparity:numpy --cand kparity:cpu --positions 48 --dump found --json bisect.json",
    ),
)
@pair_options
@click.option("--prompt", "given", metavar="TEXT", help="Text to compare [default: built in].")
@click.option("--positions", type=click.IntRange(min=2), metavar="N",
              help="Positions to look at [default: what the text has, some dozens at most].")  # fmt: skip
@click.option("--dump", "folder", type=FOLDER, metavar="DIR",
              help="Keep the one case that is wrong, for kparity check --replay.")  # fmt: skip
@json_option
@quiet_option
def bisect(folder: Path | None, json_path: str | None, quiet: bool, **asked: Any) -> int:
    """Find where two engines part: the way of feeding, the first bad position, the layer, the slot, and the op.

    The position is halved and verified from both sides. Where an engine is kparity's own, every slot is computed anew
    from the other side's values, the first that does not follow is swapped, and its launches are held one by one
    against fp64 on the inputs that they had. Exit codes: 0 nothing is beyond the limits, 1 something is.
    """
    from kparity.bisect.run import bisect
    from kparity.host import files
    from kparity.ladder.stream import EngineFailed

    settings, opener, room = asked_for(asked, usual=POSITIONS)
    if folder is not None:
        files.refuse_no_folder(folder)
    try:
        found = bisect(settings, opener, folder, room)
    except EngineFailed as failed:
        raise failed.error from None
    if json_path:
        files.write_record(json_path, found)
    if for_people():
        print_bisection(found)
    return found.exit_code


def print_bisection(found: Bisection) -> None:
    """The ways that were tried, the slots that do not follow, and where it ended."""
    from kparity.cli.table import STYLES, Table, say
    from kparity.traces.slots import Key

    table = Table("fed as", "first bad", "runs", right={"first bad", "runs"})
    for way in found.ways:
        table.add(way.name, way.first_bad if way.first_bad >= 0 else "none", way.runs)
    if found.ways:
        table.print()
    if found.slots:
        more = f", and {len(found.slots) - 1} more" if len(found.slots) > 1 else ""
        say(f"slots that do not follow from their inputs: {Key.parse(found.slots[0].key).place}{more}")
    where, verdict = found.found, "PASS" if found.exit_code == 0 else "FAIL"
    place = f"layer {where.layer} {where.slot}: " if where.layer >= 0 else f"{where.slot}: " if where.slot else ""
    say((verdict, STYLES[verdict]), f" {place}{where.op + ', ' if where.op else ''}{where.kind}")
    told = {"position": str(where.position) if where.position >= 0 else "", "what": where.sentence, "case": where.case,
            "pattern": where.pattern, "healed": _healed(where.heals)}  # fmt: skip
    if where.replay:
        told["replay"] = f"kparity check --replay {where.replay}"
    for name, text in told.items():
        if text:
            say(f"{name}: {text}", indent=2)
    for note in found.notes:
        say(note, indent=2)
    say(f"{found.evaluations} evaluations over {found.tokens} tokens and {found.layers} layers, {found.seconds:.1f} s")


def _healed(heals: bool | None) -> str:
    if heals is None:
        return ""
    return "with the other side's values there the logits are right" if heals else "no: it is not wrong there alone"
