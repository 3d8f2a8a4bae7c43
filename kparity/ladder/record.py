"""What a climb says: the measures of every rung, the floor that judged, and the JSON (``kparity schema ladder``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from kparity.engines.base import Facts
from kparity.gates.verdict import Verdict
from kparity.host.text import number

FAIL: Final = "FAIL"
INCONCLUSIVE: Final = "INCONCLUSIVE"
NOT_RUN: Final = "not run"
PASS: Final = "PASS"
Number = Annotated[float, Meta(extra_json_schema={"anyOf": [{"type": "number"}, {"type": "null"}]})]
"""Null in JSON where it is not finite."""
Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "not run"]
PositionVerdict = Literal["OK", "WARN", "FAIL"]
Tie = Literal["SAME", "EXACT-TIE", "NEAR-TIE", "DIVERGED"]
"""What the candidate's likeliest id is beside the reference's, within the noise."""
Ids = list[int]


RUNGS = ("preflight", "tokens", "masks", "first-logit", "positions", "decode")
POSITIONS = 64


class Part(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the JSON."""


class Measure(Part):
    """A number beside what judged it: a threshold of the contract, a multiple of the floor, or an overridden limit."""

    threshold: str
    of: str
    """What was measured: side, metric, statistic."""
    value: Number
    limit: Number
    sign: str
    holds: bool
    basis: str
    overridden: bool = False
    short: str = ""
    """Why the sample carries no verdict, and what to do; empty where it does."""

    @property
    def outcome(self) -> Verdict:
        """PASS, FAIL, or INCONCLUSIVE where the sample is too small to tell."""
        return INCONCLUSIVE if self.short else PASS if self.holds else FAIL

    @property
    def text(self) -> str:
        """For example ``cand mse median 0.0012 ≤ 0.0048 (4 × floor)``; with ``not ≤`` where it does not hold."""
        mark = ", overridden" if self.overridden else ""
        sign = self.sign if self.holds or self.short else f"not {self.sign}"
        value, limit = number(float(self.value), float(self.limit)), number(float(self.limit))
        return f"{self.of} {value} {sign} {limit} ({self.basis}{mark})"

    @property
    def used(self) -> float:
        """Share of the limit that was used, where both are positive and the limit is a most."""
        return self.value / self.limit if self.sign == "≤" and self.limit > 0 else 0.0


class Rung(Part):
    """What became of a rung. ``side`` is whose fault a failure is, where the rung can tell."""

    name: str
    verdict: Outcome = "not run"
    reason: str = ""
    cause: str = ""
    next: str = ""
    side: str = ""
    notes: list[str] = []
    measures: list[Measure] = []
    seconds: float = 0.0
    failed: bool = False
    """Whether an engine failed in it: it could not do what it was asked, or died."""


class Finding(Part):
    """What was found in what was measured: a pattern, or a defect that explains the candidate. ``confidence`` is mostly
    the share of the difference that it explains; ``defect`` is false for what is no fault of anyone.
    """

    pattern: str
    cause: str
    evidence: str
    confidence: Annotated[float, Meta(ge=0, le=1)]
    next: str
    """The next command."""
    fix: str
    side: str = "candidate"
    defect: bool = True


class Diagnosis(Part):
    """Findings about the rung that failed, best first, and what was tried."""

    rung: str
    findings: list[Finding] = []
    tried: list[str] = []
    notes: list[str] = []


def verdict_of(rungs: Sequence[Rung]) -> Verdict:
    """FAIL where one failed, PASS where every one that was run passed, and one was."""
    ran = {each.verdict for each in rungs} - {NOT_RUN}
    return FAIL if FAIL in ran else PASS if ran == {PASS} else INCONCLUSIVE


class Top(Part):
    """The five likeliest tokens of each side, the reference's first, with the logits that both give them. ``totals``
    are ln Σ exp of all logits of a side: exp(logit - total) is a probability.
    """

    ids: Ids
    reference: list[Number]
    candidate: list[Number]
    totals: tuple[Number, Number]

    def __post_init__(self) -> None:
        """Raise ValueError for logits that are not those of the ids."""
        if not len(self.ids) == len(self.reference) == len(self.candidate):
            raise ValueError(f"{len(self.ids)} ids, {len(self.reference)} and {len(self.candidate)} logits")


class Position(Part):
    """One position; ``tokens`` are what both sides find likeliest there, the reference first, and ``tie`` is what that
    difference is.
    """

    position: int
    verdict: PositionVerdict
    cosine_similarity: Number
    l2_distance: Number
    mse: Number
    rmse: Number
    max_abs: Number
    mean_abs: Number
    kl: Number
    norm_ratio: Number
    top1: float
    top5: float
    top10: float
    tokens: tuple[int, int]
    tie: Tie
    top: Top | None = None
    """None where a side is not finite."""


class Tokens(Part):
    """Ids of one text on both sides; ``first_difference`` is -1 where there is none, ids are None without tokenizer."""

    reference: Ids | None
    candidate: Ids | None
    first_difference: int


class Decoded(Part):
    """Greedy ids of one prompt, re-anchored on the reference's, with what each step is."""

    prompt_tokens: int
    reference: Ids
    candidate: Ids
    steps: list[Tie]


class Control(Part):
    """Two passes that should differ by noise alone: per metric median, worst window, p99, most and mean."""

    name: str
    positions: int
    spreads: dict[str, dict[str, Number]]


class FloorRecord(Part):
    """How far passes differ that are both right. ``covers_numerics``: another arithmetic was among them."""

    basis: str
    covers_numerics: bool
    controls: list[Control]


class ThreeWay(Part):
    """Median L2 of both sides to a third engine, and the probability that the candidate is the farther one."""

    third: str
    reference_l2: Number
    candidate_l2: Number
    candidate_farther: float


class Summary(Part):
    """The playbook's, and KL in nats."""

    min_cosine_similarity: Number
    max_l2_distance: Number
    mean_abs_difference: Number
    token_count: int
    mean_kl: Number
    p99_kl: Number
    """Of fewer than 100 positions the largest."""
    max_kl: Number


class Contract(Part):
    """What judged."""

    id: str
    version: str
    thresholds: dict[str, float]


class Settings(Part):
    """What to compare, how far. ``text`` is walked through by positions, each of ``prompts`` is decoded."""

    reference: str
    candidate: str
    text: str
    prompts: tuple[str, ...]
    model: str = ""
    candidate_model: str = ""
    """Empty for the same."""
    third: str = ""
    rung: str = "decode"
    """The last one to climb."""
    positions: int = 0
    """0 for ``POSITIONS``, or as many as the text has."""
    max_tokens: int = 16
    profile: Literal["auto", "same", "other"] = "auto"
    overrides: dict[str, float] = {}
    """Metric → limit in place of the contract's."""
    stop_at_first: bool = False
    keep_going: bool = False
    sweep: bool = False
    traces: str = ""
    """A new folder for traces of both sides at every length of the sweep."""
    deterministic: bool = False
    """Every bit again in a second process of each side."""
    sequential: bool = False
    """Judge the rate of prompts that are exact, and end the decode rung as soon as it is decided."""


class Document(Part):
    """The whole climb, the playbook's keys first. A number that is not finite is null."""

    status: Literal["ok", "diverged", "inconclusive"]
    backend: str
    """The candidate."""
    divergence_token: int
    """The first position that is no longer right; -1 where there is none."""
    metrics: Summary
    form: Literal["kparity-ladder-v1"] = field(name="schema")
    kparity: str
    verdict: Verdict
    exit_code: Annotated[int, Meta(ge=0, le=3)]
    contract: Contract
    request: Settings
    profile: str
    reference: Facts | None
    candidate: Facts | None
    floor: FloorRecord | None
    rungs: Annotated[list[Rung], Meta(min_length=1)]
    tokens: list[Tokens]
    positions: list[Position]
    decode: list[Decoded]
    three_way: ThreeWay | None
    diagnosis: Diagnosis | None
    """Of the first rung that failed; None where nobody asked for one."""
    seconds: float
    engine_seconds: float
    limits: dict[str, tuple[Number, Number]] = {}
    """Metric → the limit of position 0 and of a later one; null where there is none."""
    errors: list[tuple[float, float, int]] = []
    """How many of all logits of all positions have |logit of the reference| and |error| so large: each from 2^e or
    1.5·2^e, as told, up to the next such number.
    """
    pieces: dict[str, str] = {}
    """Id → how the vocabulary of the model's file spells it, of all ids in this document."""

    def __post_init__(self) -> None:
        """Raise ValueError for a verdict that its rungs do not bear out."""
        if self.verdict != verdict_of(self.rungs):
            raise ValueError(f"the verdict is {self.verdict}, its rungs say {verdict_of(self.rungs)}")
