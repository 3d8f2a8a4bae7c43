"""How near right engines come to the limits of the ladder's rung ``positions``: the basis of its factors.

    python -m tools.ladder_noise [--windows 12] [--seed 1] [--positions 64,256] [--engines ENGINE,…]

Each window is another stretch of the embedded model's held-out text, each floor the plain fp64 pass beside its f32
twin over 256 tokens of it. For every engine: the largest share of a limit that was used, by statistic, and how many
windows would have been false alarms.
"""

from __future__ import annotations

import argparse

import numpy as np

from kparity import plain
from kparity.cli.table import Table
from kparity.engines.registry import open_here
from kparity.ladder.floor import FEWEST
from kparity.ladder.limits import STATISTICS, Floor, Judge
from kparity.ladder.prompts import PER_TOKEN, built_in
from kparity.ladder.stream import compared
from kparity.model.gguf_file import embedded

ENGINES = ("kparity:cpu", "kparity:cpu?kv=f32", "kparity:numpy", "kparity:torch", "transformers:exported")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.ladder_noise", description=__doc__)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--positions", default="64,256")
    parser.add_argument("--engines", default=",".join(ENGINES))
    options = parser.parse_args()
    lengths = [int(each) for each in options.positions.split(",")]
    text, rng, path = built_in(), np.random.default_rng(options.seed), str(embedded())
    engines = {name: open_here(name, context=2 * FEWEST) for name in options.engines.split(",")}
    worst = {(name, count): dict.fromkeys(STATISTICS, 0.0) for name in engines for count in lengths}
    alarms = dict.fromkeys(worst, 0)
    for _ in range(options.windows):
        at = int(rng.integers(0, len(text) - FEWEST * PER_TOKEN))
        ids = next(iter(engines.values())).tokenize(text[at : at + FEWEST * PER_TOKEN])[:FEWEST]
        floors = {}
        for name, engine in engines.items():
            kv = engine.facts.kv
            if kv not in floors:
                both = plain.logits(path, ids, act="token", kv=kv)
                floors[kv] = both.logits, Floor("plain", False, {"f32": compared(both.logits, both.rounded)})
            truth, floor = floors[kv]
            engine.reset()
            found = engine.score(ids)
            for count in lengths:
                tally, judge = compared(truth[:count], found[:count]), Judge(True, {}, floor)
                measures = judge.walked(tally)
                alarms[name, count] += any(each.outcome == "FAIL" for each in measures)
                for each in measures:
                    kind = each.of.split()[-1]
                    if kind in STATISTICS and each.used > worst[name, count][kind]:
                        worst[name, count][kind] = each.used
    table = Table("engine", "positions", *STATISTICS, "false alarms", right=("positions", *STATISTICS))
    for (name, count), shares in worst.items():
        table.add(name, str(count), *(f"{share:.3f}" for share in shares.values()),
                  f"{alarms[name, count]} of {options.windows}")  # fmt: skip
    table.print()


if __name__ == "__main__":
    main()
