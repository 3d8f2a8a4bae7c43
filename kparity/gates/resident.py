"""The gate ``resident``: what lies on the device against the file, byte for byte, after all that ran.

Words that were flipped, an upload that lost its end, an entry of a table that no token of the probe reads: no logit
shows them. It comes late, so that it also sees what a kernel wrote where it should not.
"""

from __future__ import annotations

from contextlib import closing

from kparity.engine import resident
from kparity.gates.candidate import Candidate
from kparity.gates.verdict import Gate
from kparity.model import load_model


def gate_resident(candidate: Candidate) -> Gate:
    """Rows of every weight, scale, norm and table, as the launches of the recordings are given them, that differ."""
    engine, wrong, first = candidate.engine, 0, ""
    bound = resident.bound(engine)
    with closing(load_model(engine.model.path)) as model:
        for held in resident.everything(engine, model):
            engine.tick(held.name)
            for buffer in bound.get(id(held.buffer.handle), [held.buffer]):
                rows = resident.wrong_rows(engine.backend, buffer, held.rows)
                wrong += len(rows)
                if rows and not first:
                    told = f"{len(rows)} of {buffer.shape[0]} rows of {held.name} on the device"
                    first = f"{told} are not the file's, the first is {rows[0]}"
    return candidate.judged("resident", {"resident_differences": wrong}, lambda bad: ("KP-RESIDENT", first))
