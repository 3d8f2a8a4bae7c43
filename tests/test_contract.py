"""Contracts: thresholds with a basis, tests that exist, and gates that fail closed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kparity import contracts, fingerprint
from kparity.errors import UnknownName
from kparity.probe.verdict import Gate, Measure, concluded

HERE = Path(__file__).parent
USERS = (
    ("probe", "gates.py"),
    ("probe", "candidate.py"),
    ("probe", "turns.py"),
    ("kparity", "dispatcher.py"),
    ("mutate", "score.py"),
)
"""The files that enforce the contract."""
CONTRACT = contracts.load(contracts.PROBE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("threshold", sorted(CONTRACT.document["thresholds"]))
def test_non_finite_numbers_fail_every_threshold(threshold: str, value: float) -> None:
    assert not Measure.of(CONTRACT, threshold, value).holds


def test_no_gates_is_no_acceptance() -> None:
    opened = Gate("open", "PASS")
    assert not concluded([]) and not concluded([opened])
    assert not concluded([opened, Gate("BOS", "INCONCLUSIVE")])
    assert not concluded([opened, Gate("BOS", "FAIL")])
    assert concluded([opened, Gate("BOS", "PASS")])


def test_every_threshold_has_a_basis_and_a_side() -> None:
    for name in CONTRACT.document["thresholds"]:
        threshold = CONTRACT.threshold(name)
        assert threshold.rule in ("at least", "at most") and len(threshold.basis) > 40


def test_thresholds_are_used_and_no_other_is() -> None:
    text = "".join(path.read_text() for path in fingerprint.sources() if path.parts[-2:] in USERS)
    used = set(
        re.findall(r'"((?:bos|exact|positions|prefill|replay|reset|noise|decode|turns|mutation)_[a-z_]+)"', text)
    )
    assert used == set(CONTRACT.document["thresholds"])


def test_the_bos_threshold_is_the_contracts() -> None:
    assert CONTRACT.threshold("bos_cosine").value == 0.99
    assert CONTRACT.threshold("positions_min").value >= 64
    with pytest.raises(UnknownName, match="did you mean 'bos_cosine'"):
        CONTRACT.threshold("bos_cosin")


def test_every_falsification_test_exists() -> None:
    document = CONTRACT.document
    entries = document["falsification_tests"] + document["proof_obligations"]
    assert len({entry["id"] for entry in entries}) == len(entries) >= 8
    for entry in entries:
        file, _, name = entry["test"].partition("::")
        functions = {
            node.name for node in ast.parse((HERE.parent / file).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name.partition("[")[0] in functions, entry["test"]


def test_metadata_is_complete() -> None:
    metadata = CONTRACT.document["metadata"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"]) and metadata["status"] and metadata["references"]
    assert metadata["changelog"][-1]["version"] == metadata["version"]
    for equation in CONTRACT.document["equations"].values():
        assert equation["formula"] and equation["domain"] and equation["codomain"] and equation["invariants"]
