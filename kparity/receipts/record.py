"""A receipt as typed records: the form of receipt-v1, and the source of its JSON Schema (``kparity schema receipt``).

What is not known is None, never zero. Whether a document in this form may be believed is up to the rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from kparity.device.adapter import LARGEST, Device
from kparity.gates.challenge import Sampled
from kparity.model.hparams import MAX_LAYERS, MAX_SIZE

Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Size = Annotated[int, Meta(ge=1, le=LARGEST)]
Positive = Annotated[float, Meta(gt=0)]
Elements = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
Nonce = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_.:-]+$")]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]
KernelId = Annotated[str, Meta(pattern="^[a-z0-9]+(_[a-z0-9]+)+$")]
BLOCK = 8
"""Steps of a model's decode that are timed one by one before another engine's turn."""
TIMED = ("timed_output", "determinism", "graph", "bandwidth", "clocks", "energy")
"""What a run has where it was timed, and only there."""
CEILINGS = ("stream", "copy")
"""What the rows of the memory's bandwidth call their op: no kernel of kparity."""
Second = Annotated[float, Meta(ge=1e-12, le=1e9)]
"""From less than any clock tells to more than anybody waits."""
Seconds = Annotated[
    list[Second],
    Meta(min_length=1, description="One by one, as the clock gave them: never rounded, sorted or left out."),
]


class Record(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a receipt; a field that it does not know is an error."""


class Digest(Record):
    """Of a file or of texts."""

    sha256: Sha256


class Subject(Record):
    """What a statement speaks of: the model, or a kernel."""

    name: Text
    digest: Digest


class Gate(Record):
    """A measured number beside the limit that judges it; ``name`` is the threshold of the contract."""

    gate: Text
    name: Text
    value: float | None
    """None where the measured number is not finite."""
    limit: float
    passed: bool


class Parity(Record):
    """The verdict of the probe; INVALID-CORRECTNESS where there was none."""

    verdict: Literal["PASS", "FAIL", "INVALID-CORRECTNESS"]
    gates: list[Gate]
    reason: str | None
    proved: Count | None = None
    """The last position up to which it was proved."""


class Proof(Record):
    """What speaks for the device."""

    device_clock: bool
    dispatches_counted: bool
    device: Literal["", "verified", "not verified", "refuted"] = ""
    """What the driver's counters of its process say to the claim of a GPU; empty where there is none."""
    evidence: list[str] = field(default_factory=list)


class Programs(Record):
    """A number for each program that a run replays: a step feeds one token, a chunk several; without the head is every
    part of a prompt but the last, whose logits alone are read.
    """

    step: Count
    chunk: Count
    headless_step: Count
    headless_chunk: Count

    def times(self, launches: Programs) -> int:
        """How often so many replays of each program launch a kernel that stands in it so often."""
        return sum(getattr(self, name) * getattr(launches, name) for name in self.__struct_fields__)


class Kernel(Record):
    """A kernel that ran. ``dispatches`` are those of all replays, warm-up included."""

    id: KernelId
    sha256: Sha256
    dispatches: Count
    device_ns: Annotated[float, Meta(ge=0)] | None
    """Of one decode step, over all its launches."""
    launches: Programs | None
    """In each program; None in a probe."""


class Graph(Record):
    """The programs of a run: launches in each, and how often each ran."""

    chunk: Size
    """Tokens of a chunk at most."""
    launches: Programs
    replays: Programs


class TimedOutput(Record):
    """The verdict on the output of the timed run itself."""

    checked: bool
    what: str
    cosine: float | None
    limit: float | None
    passed: bool


class Determinism(Record):
    """How often the same work was done, and whether the bits were the same."""

    repeats: Count
    identical: bool


class Bandwidth(Record):
    """The memory in the same run; ``bytes`` is what one pass moves: read, and for a copy written too."""

    what: Literal["streaming read", "device copy"]
    bytes: Size
    bytes_per_s: Positive
    samples_s: Seconds
    cache_bytes: Count | None


class Percentiles(Record):
    """Milliseconds per token."""

    p10: Positive
    p50: Positive
    p90: Positive
    p99: Positive


class Compared(Record, omit_defaults=True):
    """How many times faster something is, with the 95 % interval."""

    ratio: Positive
    low: Positive
    high: Positive
    doubt: str = ""
    """Why it is no comparison, where it is absurd."""


class BaselineRatio(Compared, kw_only=True, omit_defaults=True):
    """Than a baseline's row of an op, per launch."""

    baseline: Text


class Row(Record, omit_defaults=True):
    """What was measured: ``pp128`` (a prompt of 128 tokens) or ``tg@512`` (decode behind 512) of a model, or an op:
    every sample, and what follows from them. What was not measured, is not known, or does not apply is left out.

    A unit is a token of a model, a launch of an op.
    """

    name: Text
    units: Size = 1
    """In a sample."""
    samples_s: list[Second] = []
    """By the wall's clock, one by one, as it gave them: never rounded, sorted or left out."""
    device_s: list[Second] = []
    """By the device's own clock: of an op the same runs (by the wall's where the API has none); of a model the same
    work, in runs of their own."""
    unit_s: Positive | None = None
    """The median of a unit, by the wall's clock of a model, by the device's of an op; and its 95 % interval."""
    low_s: Positive | None = None
    high_s: Positive | None = None
    limit: str = ""
    bytes: Count | Annotated[float, Meta(ge=0)] = 0
    """That a unit must move; 0 for another program, which moves what it likes."""
    gb_per_s: Annotated[float, Meta(ge=0)] | None = None
    of_bandwidth: Positive | None = None
    floor_s: Positive | None = None
    """That the memory needs for a unit, where no cache holds it."""
    errors: list[Text] = []

    # Of a model.
    phase: Literal["", "prefill", "decode"] = ""
    depth: Count = 0
    ms_per_token: Percentiles | None = None
    energy_j_per_token: Positive | None = None

    # Of an op: each row says by itself where it ran and that it was right.
    op: str = ""
    backend: str = ""
    device: Device | None = None
    verified: bool = False
    cold: bool = False
    clock: Literal["", "device", "wall"] = ""
    case: str = ""
    state: str = ""
    tag: str = ""
    copies: Count = 0
    graph: bool | None = None
    baseline: bool = False
    unsupported: str = ""
    kernel: Annotated[str, Meta(pattern="^([a-z0-9]+(_[a-z0-9]+)+)?$")] = ""
    """Of kparity's own rows: no bandwidth, no baseline."""
    kernel_sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    dispatches: Count = 0
    """Of the kernel, counted by the backend in the samples and the warm-ups."""
    replays: Count = 0
    """Programs that ran in the samples and the warm-ups."""
    launches_per_replay: Count = 0
    """Of the kernel in such a program: ``units``, times its parts where a weight exceeds one binding."""
    gflop_per_s: Positive | None = None
    ratios: list[BaselineRatio] = []

    @property
    def seconds(self) -> list[float]:
        """Of one unit, sample by sample, by the clock that counts."""
        return [each / self.units for each in (self.device_s if self.op else self.samples_s)]

    @property
    def rates(self) -> tuple[float, float, float]:
        """Units per second with the interval; raises TypeError where nothing was measured."""
        return 1 / self.unit_s, 1 / self.high_s, 1 / self.low_s  # type: ignore[operator]

    def gaps(self) -> Iterator[tuple[str, str]]:
        """Name and reason of what such a row must have."""
        if not self.op and not (self.phase and self.samples_s and self.ms_per_token):
            yield "samples_s", "a measurement of a model has them, its phase and its percentiles"
        if self.seconds and not (self.samples_s and self.unit_s and self.low_s and self.high_s):
            yield "unit_s", "samples have a median with its interval, and those of a device the wall's beside them"
        if bool(self.kernel) != bool(self.kernel_sha256):
            yield "kernel", "a kernel and the digest of its text go together"
        if self.dispatches and not (self.kernel and self.launches_per_replay):
            yield "dispatches", "of which kernel, and in which programs, is not known"
        if self.op not in ("", *CEILINGS) and (self.state == "cold") is not self.cold:
            yield "state", "it is cold where no cache held the data, and nowhere else"


class Skipped(Record):
    """A measurement that was asked for and could not be made."""

    name: Text
    reason: Text


class Energy(Record):
    """Which counter told, or why none did."""

    source: str | None
    reason: str | None


class Canary(Record):
    """A known step that was repeated bit by bit while the backend served."""

    every: Count
    """Runs from one to the next."""
    checks: Count
    trips: Count
    """How often it gave other bits, or the column sums did not hold: the backend served no further."""
    doubtful: Count | None
    """The first token of the output that is in doubt, from 1; None where none is."""


class Run(Record):
    """One backend that was opened. ``errors`` are why the whole run does not count."""

    backend: Name
    device: Device
    proof: Proof
    parity: Parity
    kernels: list[Kernel]
    engine: dict[str, Any]
    timed_output: TimedOutput | None = None
    determinism: Determinism | None = None
    graph: Graph | None = None
    bandwidth: Bandwidth | None = None
    measurements: list[Row] = []
    skipped: list[Skipped] = []
    errors: list[Text] = []
    clocks: dict[str, Any] | None = None
    energy: Energy | None = None
    step_ns: Size | None = None
    """A decode step of the probe on the device's own clock."""
    logits: list[Sampled] = []
    """What it computed, at drawn positions: by them the output can be computed again elsewhere."""
    canary: Canary | None = None
    """What was seen of it while it served (``kparity run``)."""


class Ratio(Compared, kw_only=True, omit_defaults=True):
    """Of a backend, than a baseline on the same model."""

    backend: Name
    name: Text


class Agreement(Record):
    """How well an engine's outputs agree with a reference: the cosine of each measurement's last logits."""

    against: str
    cosine: dict[str, float | None]


class Baseline(Record):
    """Another engine on the same file in the same run."""

    name: Text
    version: str
    library_sha256: Sha256 | None
    measurements: list[Row]
    ratios: list[Ratio]
    options: dict[str, Any] = {}
    agreement: Agreement | None = None
    errors: list[Text] = []
    skipped: list[Skipped] = []


class Harness(Record):
    """What measured: version, commit, changed files (None: unknown), and the digest of everything that computes."""

    version: Text
    commit: Annotated[str, Meta(pattern="^([0-9a-f]{40}|unknown)$")]
    dirty: bool | None
    changed: list[Text]
    kernels_sha256: Sha256


class Host(Record):
    """Where it ran; ``devices_sha256`` is of all devices and drivers."""

    system: Text
    machine: Text
    cpu: str
    cpus: Annotated[int, Meta(ge=1, le=1 << 16)]
    memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None
    python: Text
    devices_sha256: Sha256


class Request(Record):
    """What was asked for."""

    command: Annotated[list[str], Meta(min_length=1)]
    backends: Annotated[list[Name], Meta(min_length=1)]
    options: dict[str, Any]


class Model(Record):
    """What was run, sizes in elements, types of tensors as GGUF calls them; ``seed`` is that of random weights."""

    name: Text
    sha256: Sha256
    bytes: Size
    arch: Text
    layers: Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
    width: Elements
    ffn: Elements
    heads: Elements
    kv_heads: Elements
    head_dim: Elements
    vocab: Elements
    context: Elements
    type: Text
    """Of the ternary matrices; several, comma-separated, where they differ."""
    embedding: Text
    head: Text | None
    """None where the head is the embedding."""
    seed: int | None
    mixed: dict[Text, Text] = {}
    """Types of the linear layers that are not ternary, by their names: ``blk.0.attn_v``."""


class Contract(Record):
    """Which contract judged."""

    id: Text
    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]


class Tried(Record):
    """What became of a backend that was asked for."""

    backend: Name
    status: Literal["accepted", "rejected", "mistrusted", "unavailable"]
    code: str | None
    reason: str | None


class Head(Record):
    """What every predicate tells of itself: when, by which harness, where, and by which contract."""

    schema_version: Literal["1.0.0"]
    id: Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
    begun: Time
    ended: Time
    harness: Harness
    host: Host
    libraries: dict[str, Text]
    contract: Contract


class Predicate(Head):
    """What was measured, and on what."""

    kind: Literal["bench", "probe"]
    request: Request
    model: Model | None
    """None for single ops."""
    nonce: Nonce
    """Somebody's word, from which tokens, positions and entries were drawn; empty where nobody gave one."""
    seeds: dict[str, int]
    serving: Name | None
    fallback: Annotated[list[Tried], Meta(min_length=1)]
    runs: list[Run]
    baselines: list[Baseline]
    sha256: Sha256
    ops: list[Row] = []

    def owners(self) -> Iterator[tuple[str, Run | Baseline]]:
        """Pointer and content of everything that has measurements."""
        yield from ((f"/predicate/runs/{at}", run) for at, run in enumerate(self.runs))
        yield from ((f"/predicate/baselines/{at}", each) for at, each in enumerate(self.baselines))

    def rows(self) -> Iterator[tuple[str, Row, Run | Baseline | None]]:
        """Pointer and content of every row that could be measured, and whose it is: that of an op stands for itself."""
        for at, owner in self.owners():
            yield from ((f"{at}/measurements/{index}", row, owner) for index, row in enumerate(owner.measurements))
        yield from ((f"/predicate/ops/{at}", row, None) for at, row in enumerate(self.ops) if not row.unsupported)

    def subjects(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of what it speaks of: the model first, then every kernel once; or else of what measured."""
        kernels = {kernel.id: kernel.sha256 for run in self.runs for kernel in run.kernels}
        kernels |= {row.kernel: row.kernel_sha256 for row in self.ops if row.kernel}
        models = [(self.model.name, self.model.sha256)] if self.model else []
        measurer = f"kparity {self.harness.version}", self.harness.kernels_sha256
        return [*models, *sorted(kernels.items())] or [measurer]

    def gaps(self) -> Iterator[tuple[str, str]]:
        """Place and name of what a receipt of its kind must have, or must not: no JSON Schema of ours says so."""
        backends = self.request.backends
        if len(set(backends)) != len(backends):
            yield "/request/backends", "a backend stands twice"
        probe, single = self.kind == "probe", bool(self.ops)
        if (self.model is None) is not single:
            yield "/model", "a run is of a model, single ops are of none"
        for name, there in (("baselines", probe or single), ("ops", probe), ("runs", single), ("serving", single)):
            if there and getattr(self, name):
                yield f"/{name}", "single ops have none" if single else "a probe has none"
        for at, run in enumerate(self.runs):
            for name in TIMED:
                if (getattr(run, name) is None) is not probe:
                    yield f"/runs/{at}/{name}", "a benchmark has it, and a probe has not"
            for name in ("measurements", "skipped") if probe else ("step_ns", "canary"):
                if getattr(run, name):
                    yield f"/runs/{at}/{name}", f"a {self.kind} has none"
            for index, kernel in enumerate(run.kernels):
                if (kernel.launches is None) is not probe or (probe and kernel.device_ns is not None):
                    yield f"/runs/{at}/kernels/{index}/launches", "a benchmark has them, and a probe has no times"
        for at, row in enumerate(self.ops):
            if row.unsupported and (row.device_s or row.samples_s or row.unit_s or row.ratios or row.dispatches):
                yield f"/ops/{at}/unsupported", "what a backend does not support was not measured"
        for where, row, owner in self.rows():
            place = where.removeprefix("/predicate")
            if bool(row.op) is not (owner is None):
                yield f"{place}/op", "a row of an op names it, a measurement of a model has none"
            yield from ((f"{place}/{name}", why) for name, why in row.gaps())


class Statement(Record):
    """An in-toto Statement v1."""

    type: Literal["https://in-toto.io/Statement/v1"] = field(name="_type")
    subject: Annotated[list[Subject], Meta(min_length=1)]
    type_of_predicate: Literal["https://kparity.dev/receipt/v1"] = field(name="predicateType")
    predicate: Predicate
