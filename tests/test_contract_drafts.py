"""Contracts that precede their code: their limits can be met, can be broken, and do not contradict each other."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity import contracts
from kparity.numerics import compare
from kparity.receipts.verify import verify
from tests.cli import run
from tests.edits import at, drop

LADDER = contracts.load("ladder-v1")
BURNIN = contracts.load("burnin-cutover-v1")
RECEIPT = contracts.load("receipt-v1")

STORY = {
    "ppl_delta": abs(9.1805 - 9.1607), "exact_rate": 0.9666, "rounds": 10_000, "v2_unreachable": 0.0, "p95_gap_ms": 10,
}  # fmt: skip
"""The cutover table as its authors published it: four gates green, one waiting."""


def logits(seed: int = 1, rows: int = 20, vocab: int = 512) -> np.ndarray:
    """[rows, vocab], of the magnitude that language models give."""
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab))


def kl(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Largest KL divergence of softmax(reference) from softmax(candidate) over the rows, in nats."""
    p, q = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in (reference, candidate))
    return float((np.exp(p) * (p - q)).sum(axis=-1).max())


def top5(a: np.ndarray, b: np.ndarray) -> float:
    """Mean overlap of the five best ids of each row."""
    best = [np.argsort(-x, axis=-1, kind="stable")[:, :5] for x in (a, b)]
    return float(np.mean([len(set(x) & set(y)) / 5 for x, y in zip(*best, strict=True)]))


def holds(name: str, value: float) -> bool:
    return LADDER.threshold(name).holds(value)


def test_positions_see_a_flattened_distribution_and_lost_ids() -> None:
    truth = logits()
    noisy = truth + logits(3) * 1e-6
    assert holds("positions_kl", kl(truth, noisy)) and holds("positions_top5", top5(truth, noisy))
    assert not holds("positions_kl", kl(truth, truth * 0.9))
    lost = truth.copy()
    for row in lost[::2]:
        best = np.argsort(-row)
        row[best[3:5]] = row[best[-1]]
    assert not holds("positions_top5", top5(truth, lost))
    assert not holds("positions_l2", float(np.linalg.norm(lost - truth, axis=-1).max()))
    assert not holds("positions_cosine", min(compare.cosine(a, b) for a, b in zip(truth[:, ::-1], truth, strict=True)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("contract", [LADDER, BURNIN], ids=lambda contract: contract.id)
def test_no_limit_passes_what_is_not_finite(contract: contracts.Contract, value: float) -> None:
    for name in contract.document["thresholds"]:
        assert not contract.threshold(name).holds(value), name


def test_the_limits_of_the_ladder_do_not_contradict_each_other() -> None:
    limit = {name: LADDER.threshold(name).value for name in LADDER.document["thresholds"]}
    assert limit["first_logit_mse"] <= limit["positions_mse"]
    assert limit["first_logit_max_abs"] <= limit["positions_max_abs"]
    assert limit["first_logit_cosine"] >= limit["positions_cosine"]
    assert limit["first_logit_max_abs"] ** 2 <= limit["first_logit_mse"]


def green(table: dict[str, float]) -> list[str]:
    """The gates of the cutover table that are green."""
    return [name for name in STORY if BURNIN.threshold(name).holds(table.get(name, float("nan")))]


def test_the_cutover_table_of_the_story() -> None:
    assert set(STORY) - set(green(STORY)) == {"rounds"}
    complete = {**STORY, "rounds": 50_000}
    assert green(complete) == list(STORY)
    for name in STORY:
        assert name not in green({key: value for key, value in complete.items() if key != name})


BROKEN = {"ppl_delta": 0.051, "exact_rate": 0.899, "rounds": 49_999, "v2_unreachable": 0.001, "p95_gap_ms": 100.0}


def test_less_than_excludes_the_limit() -> None:
    for name, good, bad in (
        ("v2_unreachable", 49 / 50_000, 50 / 50_000), ("p95_gap_ms", 99.9, 100.0), ("latency_ratio", 1.1, 2.0),
        ("no_match_per_hour", 0.20, 0.21),
    ):  # fmt: skip
        assert BURNIN.threshold(name).holds(good) and not BURNIN.threshold(name).holds(bad)
    assert (BURNIN.threshold("p95_gap_ms").sign, BURNIN.threshold("rounds").sign) == ("<", "≥")


def test_every_pattern_of_broken_gates_blocks() -> None:
    good = {**STORY, "rounds": 50_000}
    for pattern in itertools.product((False, True), repeat=len(STORY)):
        table = {name: (BROKEN if broken else good)[name] for name, broken in zip(STORY, pattern, strict=True)}
        assert (green(table) == list(STORY)) is not any(pattern)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A receipt of the CPU backend."""
    path: Path = tmp_path_factory.mktemp("receipt") / "receipt.json"
    done = run("probe", "--backends", "cpu", "--depth", "bos", "--receipt", str(path))
    assert done.returncode == 3, done.stderr
    return dict(json.loads(path.read_text()))


def test_a_receipt_holds_what_the_contract_asks_for(written: dict[str, Any]) -> None:
    fields = RECEIPT.document["required_fields"]
    assert len(fields) >= 40 and {entry["status"] for entry in fields.values()} == {"present"}
    for path in fields:
        at(written, path)
        without = copy.deepcopy(written)
        drop(path)(without)
        with pytest.raises(KeyError):
            at(without, path)
        assert [finding for finding in verify(without) if finding.code == "RCPT-SCHEMA"], path
