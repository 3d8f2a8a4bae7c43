"""The doctor: what of a model file is right, what is wrong or doubtful and why, and what each engine will do with it.

It trusts nothing of a file, and needs no engine that runs it: what cannot be looked at is told, item by item.
"""

from __future__ import annotations

from pathlib import Path

from kparity.doctor import engines, graphs, patient, structure, values, words
from kparity.doctor.fix import corrected
from kparity.doctor.record import Change, Finding, Report, Verdict
from kparity.doctor.trial import Trials
from kparity.host import files
from kparity.model.digest import file_sha256

__all__ = ["Change", "Finding", "Report", "Verdict", "examine"]


def examine(path: str | Path | None = None, tokens: int = 256, fix: str | Path = "") -> Report:
    """Look at a GGUF file, by default the embedded model's; ``tokens`` of a text are what runs of it read, 0 for none.

    ``fix`` names a copy with corrected keys, which is written where there is something to correct. Raises BadModel for
    what is no GGUF file, WrongInput for a copy that cannot be written.
    """
    with patient.opened(path) as found:
        items = [*structure.findings(found), *values.findings(found), *words.findings(found)]
        items += graphs.findings(found, Trials(found, tokens))
        items += engines.findings(found, {each.item: each for each in items})
        size, digest = found.path.stat().st_size, file_sha256(found.path)
        report = Report(str(found.path), size, digest, tuple(items))
        if not fix or not report.fixes:
            return report
        files.write_pieces(fix, lambda: corrected(found.path, report.fixes))
        return Report(str(found.path), size, digest, tuple(items), str(fix))
