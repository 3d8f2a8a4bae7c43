"""The JSON of a probe; its JSON Schema is ``kparity schema probe``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from kparity import __version__, contracts
from kparity.gates.verdict import Row
from kparity.model import load_model
from kparity.probe import messages


class Part(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the document."""


class Contract(Part):
    """Which contract judged."""

    id: str
    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]


class Model(Part):
    """What was probed."""

    name: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Meta(ge=1)]
    arch: str


class Request(Part):
    """What was asked for."""

    backends: Annotated[list[str], Meta(min_length=1)]
    depth: Annotated[str, Meta(pattern="^(bos|full|soak)$")]
    positions: Annotated[int, Meta(ge=1)]
    require_gpu: bool
    trust_claims: bool
    act: str
    kv: str
    index: Annotated[int, Meta(ge=0)]
    context: Annotated[int, Meta(ge=0)]
    """Positions that are to be served; 0: the model's, at most 4096."""
    repeat: Annotated[int, Meta(ge=1)]
    """Rounds in which everything is run again, bit for bit."""
    soak: Annotated[float, Meta(ge=0)]
    """Seconds of two engines on one device; 0: none."""


class Document(Part):
    """Everything that a probe found, with model and contract. As JSON a number that is not finite is null."""

    form: Literal["kparity-probe-v1"] = field(name="schema")
    kparity: str
    contract: Contract
    model: Model
    request: Request
    serving: str | None
    exit_code: Annotated[int, Meta(ge=0, le=3)]
    rows: Annotated[list[Row], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raise ValueError for a row that cannot stand."""
        if flaw := next((row.flaw for row in self.rows if row.flaw), ""):
            raise ValueError(flaw)


def document(
    rows: Sequence[Row], serving: str, request: messages.Request, order: Sequence[str], exit_code: int
) -> Document:
    """The document of a probe of ``order``; ``serving`` is empty where none of them does."""
    contract = contracts.load(contracts.PROBE)
    model = load_model(request.model)
    probed = Model(name=model.name, sha256=model.sha256, bytes=model.n_bytes, arch=model.hparams.arch)
    model.close()
    return Document(
        form="kparity-probe-v1", kparity=__version__, model=probed,
        contract=Contract(id=contract.id, version=contract.version),
        request=Request(
            backends=list(order), depth=request.depth, positions=request.positions, require_gpu=request.require_gpu,
            trust_claims=request.trust_claims, act=request.act, kv=request.kv, index=request.index,
            context=request.context, repeat=request.repeat, soak=request.soak,
        ),
        serving=serving or None, exit_code=exit_code, rows=list(rows),
    )  # fmt: skip
