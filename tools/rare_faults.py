"""How many probes of the default depth reject a backend that errs in one step of a hundred.

    python -m tools.rare_faults [--probes 40] [--rate 0.01]

Each probe has a seed of its own. Exit code 1 where fewer than 95 % of the probes reject it.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

from kparity import contracts
from kparity.engine import Engine
from kparity.gates import reference
from kparity.gates.candidate import Candidate, run
from kparity.model import load_model
from kparity.probe.messages import DEFAULT_POSITIONS

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "liars"))


def count(probes: int, rate: float) -> list[str]:
    """The gate that rejected it, for each probe; empty where none did."""
    liar = import_module("kparity_rare_liars").Rare
    model, found = load_model(None), list[str]()
    tokens = reference.probe_tokens(model, DEFAULT_POSITIONS)
    context = min(model.hparams.context, 4096)
    wanted = reference.compute(model, tokens, act="token", kv="f16", context=context)
    for seed in range(probes):
        backend = liar.open()
        backend.rate, backend.chance = rate, np.random.default_rng(seed)
        candidate = Candidate(Engine(model, backend), wanted, contracts.load(contracts.PROBE))
        found.append(next((gate.name for gate in run(candidate, "full") if gate.verdict == "FAIL"), ""))
    return found


def main() -> int:
    """Count, and say by which gates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--probes", type=int, default=40)
    parser.add_argument("--rate", type=float, default=0.01, help="share of the steps that are wrong")
    options = parser.parse_args()
    found = count(options.probes, options.rate)
    seen = [name for name in found if name]
    gates = ", ".join(f"{name} {seen.count(name)}" for name in dict.fromkeys(seen))
    print(f"{len(seen)} of {len(found)} probes rejected one wrong step in {1 / options.rate:g} ({gates or 'none'})")
    return 0 if len(seen) >= 0.95 * len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
