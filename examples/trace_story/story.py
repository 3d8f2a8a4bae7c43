"""A false alarm of six, and both ways out: one engine, traced over all tokens and over the last one alone.

Six of the eight tokens excite one layer seven times as much as the last one does. Who compares the standard deviations
of the two traces finds a ratio of six there, and no defect. Run it: ``python story.py``.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kparity.engines.remote import open_engine
from kparity.traces import files
from kparity.traces.capture import Wanted, capture
from kparity.traces.diff import diff

PROMPT = "I I I I I I Ph"


def main() -> None:
    """Print what is said of the two traces, and after each fix."""
    with TemporaryDirectory() as folder:
        whole, last = Path(folder, "all"), Path(folder, "last")
        engine = open_engine("kparity:cpu")
        capture(engine, "kparity:cpu", engine.tokenize(PROMPT), whole, Wanted(("*",)))
        engine.close()
        ours = files.load(whole)
        for rows, where in ((slice(-1, None), last), (slice(None), last.with_name("fixed"))):
            where.mkdir()
            for key, entry in ours.entries.items():
                np.save(where / f"{key}.npy", entry.rows.read()[rows])  # type: ignore[union-attr]
        theirs, fixed = files.load(last), files.load(last.with_name("fixed"))
        told = {
            "all tokens against the last:": diff(ours, theirs),
            "fix 1, all tokens on both sides:": diff(ours, fixed),
            "fix 2, the last on both sides:": diff(ours, theirs, last_token=True),
        }
        for title, found in told.items():
            print(title, found.verdict, found.reason)


if __name__ == "__main__":
    main()
