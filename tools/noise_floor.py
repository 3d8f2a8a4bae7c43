"""How far right backends lie from their reference: the basis of the probe's thresholds.

    python -m tools.noise_floor [--windows 20] [--positions 72] [--model FILE] [--backends wgpu,opencl,cpu,numpy]

Each window is another stretch of text (the embedded model's held-out text) or of seeded random ids. Every pair is two
right implementations that round in another order; what separates them is activations that fall to the other side of a
rounding tie.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

import numpy as np

from kparity import contracts
from kparity.backends.numpy import NumpyBackend
from kparity.cli.table import Table
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.errors import KparityError
from kparity.gates.candidate import Distance
from kparity.gates.reference import first_token
from kparity.model import Model, load_model
from kparity.ops.spec import Array
from tools.false_alarms import chosen

COLUMNS = ("pair", "runs", "cosine min", "median of", "1 - median", "factor max", "norm max")


def windows(model: Model, count: int, positions: int) -> list[list[int]]:
    """Half of the windows are held-out text, half are random ids."""
    vocab, first = model.hparams.vocab, first_token(model)
    text = resources.files("kparity").joinpath("data/heldout.txt").read_text(encoding="utf-8")
    ids = [token for token in model.tokenizer.encode(text, bos=False) if token < vocab]
    rng = np.random.default_rng(7)
    bodies = []
    for index in range(count):
        start = int(rng.integers(0, len(ids) - positions)) if index % 2 == 0 and len(ids) > positions else None
        bodies.append(rng.integers(0, vocab, positions - 1).tolist() if start is None else ids[start:][: positions - 1])
    return [[first, *body] for body in bodies]


def open_engine(name: str, model: Model) -> Engine | None:
    """A right backend by the beginning of its name (``tools.false_alarms``), or ``f64``; None where it is not there."""
    try:
        backend = NumpyBackend("f64") if name == "f64" else next(iter(chosen(name).values()))()
        return Engine(model, backend)
    except KparityError as error:
        print(f"{name}: left out: {error}")
        return None


def logits(engine: Engine, tokens: list[int]) -> Array:
    """Logits of every position; fp64 takes them in one batch."""
    engine.reset()
    if engine.backend.name == "numpy":
        return engine.score(tokens, rows=len(tokens))
    return np.stack([engine.step(token) for token in tokens])


def row(name: str, distances: list[Distance]) -> tuple[str, ...]:
    """The worst over the windows, and the median of the worst cosines."""
    cosine, median, factor, norm = np.array([(far.cosine, far.median, far.factor, far.norm) for far in distances]).T
    cosines = f"{cosine.min():.6f}", f"{np.median(cosine):.6f}"
    return name, str(len(distances)), *cosines, f"{1 - median.min():.2e}", f"{factor.max():.2e}", f"{norm.max():.4f}"


def main() -> None:
    """Measure every pair and print the thresholds beside what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--positions", type=int, default=72)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backends", default="cpu:scalar,cpu:avx2,numpy,opencl,wgpu")
    options = parser.parse_args()
    model = load_model(options.model)
    tokens = windows(model, options.windows, options.positions)
    reference = Engine(model, open_backend("cpu"))
    wanted = [logits(reference, window) for window in tokens]
    table = Table(*COLUMNS, right=COLUMNS[1:])
    for name in ("f64", *options.backends.split(",")):
        engine = open_engine(name, model)
        if engine is None:
            continue
        pairs = [(logits(engine, window), want) for window, want in zip(tokens, wanted, strict=True)]
        if name == "f64":
            table.add(*row("cpu vs f64", [Distance.between(b, a) for a, b in pairs]))
        else:
            table.add(*row(f"{name} vs cpu", [Distance.between(a, b) for a, b in pairs]))
        engine.close()
    table.print()
    contract = contracts.load(contracts.PROBE)
    for threshold in ("positions_cosine", "positions_noise", "positions_factor", "positions_norm"):
        limit = contract.threshold(threshold)
        print(f"threshold {threshold} {limit.sign} {limit.value:g}")


if __name__ == "__main__":
    main()
