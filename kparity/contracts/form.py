"""A contract as typed records: the form of the YAML, and the source of what ``kparity schema contract`` prints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType


def _whole(pattern: str) -> Meta:
    """A pattern for a whole value: to Python, but not to JSON Schema, ``$`` fits before a last line break too."""
    return Meta(pattern=rf"^{pattern}$(?!\n)")


_COUNT = "(0|[1-9][0-9]{0,8})"
_PATH = r"(?:\.?\w[\w.+-]*/)*\.?\w[\w.+-]*"
"""A file below the root, with no way out of it, and nothing that a program takes for an option."""

CPU_ONLY: tuple[Literal["cpu", "gpu"], ...] = ("cpu",)
"""The scope of a contract that names no devices."""
Sentence = Annotated[str, Meta(min_length=1, pattern=r"\S")]
Pattern = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]
Sentences = Annotated[list[Sentence], Meta(min_length=1)]
Version = Annotated[str, _whole(rf"{_COUNT}\.{_COUNT}\.{_COUNT}")]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
"""What a limit may be: nothing that is measured here comes near either end."""
Name = Annotated[str, _whole("[a-z][a-z0-9_]*")]
Id = Annotated[str, _whole("[A-Z][A-Z0-9]*(-[A-Z0-9]+)+")]
Node = Annotated[str, _whole(rf"{_PATH}\.py::\S.*")]
Source = Annotated[str, _whole(rf"{_PATH}\.py")]
Receipt = Annotated[str, _whole(rf"{_PATH}\.json")]
Field = Annotated[str, _whole(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")]
Way = Annotated[str, _whole("[abc]")]
"""How an issue closes."""


class Part(Struct, forbid_unknown_fields=True):
    """A part of a contract; a key that it does not know is a problem."""


class Change(Part):
    """What a version brought."""

    version: Version
    change: Sentence


class Metadata(Part):
    """Who and which version."""

    id: Annotated[str, _whole("[a-z0-9]+(-[a-z0-9]+)*-v[0-9]+")]
    version: Version
    status: Literal["draft", "active", "deprecated"]
    summary: Sentence
    references: Sentences
    changelog: Annotated[list[Change], Meta(min_length=1)]
    scope: Sentence = ""
    devices: Annotated[tuple[Literal["cpu", "gpu"], ...], Meta(min_length=1)] = CPU_ONLY
    """On which kinds of device the claims have been shown: version 1 has the CPU only."""


class Log(Part):
    """The shapes of the lines on stderr."""

    rejected: str
    serving: str


class Equation(Part):
    """A term: what it is defined on, and what always holds."""

    formula: Sentence
    domain: Sentence
    codomain: Sentence
    invariants: Sentences
    fixes: Sentences = []


class Limit(Part):
    """A threshold, the side on which it lies, and where the number comes from."""

    value: Number
    rule: Literal["at least", "at most", "above", "below"]
    basis: Annotated[str, Meta(min_length=40)]


class Precondition(Part):
    """What must hold before a number means anything."""

    id: Id
    of: Annotated[list[Name], Meta(min_length=1)]
    requires: Sentence
    if_violated: Sentence


class RequiredField(Part):
    """What a document must hold."""

    meaning: Sentence
    status: Literal["present", "planned"]


class Falsifier(Part):
    """A rule, and the prediction that would refute it."""

    id: Id
    rule: Sentence
    prediction: Sentence
    test: Node
    if_fails: Sentence
    status: Literal["partial", "functional", "discharged"]
    evidence: Sentence = ""


class Obligation(Part):
    """A property with a formal line."""

    id: Id
    type: Literal["invariant", "soundness", "completeness", "bound", "equivalence", "determinism"]
    property: Sentence
    formal: Sentence
    test: Node
    tolerance: Annotated[float, Meta(ge=0, le=1e15)] | Sentence = ""


class Harness(Part):
    """Stands in for a model checker: every case up to a bound, or a hypothesis test."""

    id: Id
    obligation: Id
    bound: Annotated[int, Meta(ge=1, le=10**15)]
    strategy: Literal["hypothesis", "bounded-exhaustive"]
    test: Node


class Why(Part):
    """A step from the symptom to the cause."""

    why: Sentence
    because: Sentence


class Refuted(Part):
    """What was believed and is known to be wrong."""

    hypothesis: Sentence
    refuted_by: Sentence


class Match(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The devices of a backend that an issue is about: every pattern given must fit."""

    device: Pattern = ""
    driver: Pattern = ""
    api: Pattern = ""


class KnownIssue(Part):
    """A device that is known as bad, and what would close the issue."""

    id: Id
    backend: Annotated[str, _whole("[a-z0-9_-]+")]
    match: Match
    symptom: Sentence
    cause: Sentence
    reference: Sentence
    closure: Annotated[dict[Way, Sentence], Meta(min_length=1)]
    """Way → what would have to be: a, fixed and the closing test passes; b, the backend is removed; c, a newer driver
    is right, and those that the issue matches stay refused.
    """
    closing_test: Node
    status: Literal["open", "closed"]
    closed_by: Way | UnsetType = UNSET
    proof: Receipt | UnsetType = UNSET
    """Of c: the receipt of a probe that a device with such a driver passed."""


class Sections(Part):
    """A whole contract."""

    metadata: Metadata
    equations: dict[Name, Equation]
    falsification_tests: Annotated[list[Falsifier], Meta(min_length=1)]
    proof_obligations: Annotated[list[Obligation], Meta(min_length=1)]
    enforced_by: Annotated[list[Source], Meta(min_length=1, extra_json_schema={"uniqueItems": True})] = []
    log: Log | UnsetType = UNSET
    thresholds: dict[Name, Limit] = {}
    preconditions: list[Precondition] = []
    required_fields: dict[Field, RequiredField] = {}
    harnesses: list[Harness] = []
    five_whys: Annotated[list[Why], Meta(min_length=5)] = []
    refuted_hypotheses: list[Refuted] = []
    known_issues: list[KnownIssue] = []


def schema() -> dict[str, Any]:
    """The JSON Schema of a contract, with the two conditions that no type says."""
    whole = msgspec.json.schema(Sections)
    whole["$defs"]["KnownIssue"] |= {
        "if": {"properties": {"status": {"const": "closed"}}},
        "then": {"required": ["closed_by"]},
        "else": {"not": {"required": ["closed_by"]}},
    }
    in_force = {"properties": {"status": {"enum": ["active", "deprecated"]}}}
    whole["$defs"]["Sections"] |= {
        "if": {"required": ["thresholds"], "properties": {"metadata": in_force}},
        "then": {"required": ["enforced_by"]},
    }
    return whole
