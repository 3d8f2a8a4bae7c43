"""A published speed against bytes and bandwidth: what memory cannot deliver, what was not a model, what has no verdict.

At batch 1 a token reads every weight once, so that tokens/s times bytes is a rate which the memory must deliver. A
claim is a small YAML or JSON, or a text, of which nothing is taken but what a strict pattern finds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kparity import contracts
from kparity.bench import bandwidths, shapes
from kparity.contracts.plain_yaml import parse
from kparity.errors import UnknownName, WrongInput
from kparity.host import files
from kparity.host.text import number
from kparity.model import writer
from kparity.model.gguf_file import GgufFile
from kparity.receipts import document, sign, verify
from kparity.receipts.record import Row
from kparity.receipts.rules.identity import form

TYPED = (".yaml", ".yml", ".json")
Positive = Annotated[float, Meta(gt=0, le=1e18)]
DENSEST = "tq1_0"
"""The type of ternary weights with the fewest bytes: 1.6875 bits each."""
_NUMBER, _SPEED = r"(\d[\d,]*(?:\.\d+)?)", r"(?:tokens/s|tokens per second|tok/s|t/s)(?![\w/])"
_SIZES = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
SPEED = re.compile(rf"(?<![\w.,]){_NUMBER}\s*{_SPEED}", re.I)
BYTES = re.compile(rf"(?<![\w.,]){_NUMBER}\s*([MGT]i?B)(?= (?:of weights|weights|model|file|checkpoint|GGUF)\b)")
BANDWIDTH = re.compile(rf"(?<![\w.,]){_NUMBER}\s*([MGT]i?B)/s(?!\w)")
KERNEL = re.compile(
    rf"\b(?:kernel|GEMV|GEMM|matmul) (?:runs at|reaches|gives|achieves|does|delivers) {_NUMBER}\s*{_SPEED}", re.I
)


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody says of a speed."""

    tokens_per_s: Positive
    measured: Literal["model", "kernel", ""] = ""
    """What was timed; empty where it is not told."""
    model: str = ""
    """A shape of ``kparity bench --shape`` or a GGUF file, whose bytes count where none are told."""
    bytes_per_token: Positive | None = None
    batch: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    """Sequences, or guessed tokens, that share one reading of the weights."""
    device: str = ""
    kind: Literal["gpu", "processor"] = "gpu"
    bandwidth_gb_s: Positive | None = None
    """Of its memory, in 1e9 bytes per second, by its maker or by a measurement."""
    receipt: str = ""
    """Of ``kparity bench``: the verdict on the output, and the speed with its samples."""


def read(what: str) -> Claim:
    """The claim in a file, or in the words themselves where no file has that name; raises WrongInput for what is none,
    and for a text with no speed or several.
    """
    if not Path(what).is_file():
        return of_text(what, "the text")
    text = files.read_text(what, "a claim")
    if Path(what).suffix not in TYPED:
        return of_text(text, what)
    try:
        return msgspec.convert(parse(text, what, "claim"), Claim)
    except msgspec.ValidationError as problem:
        raise WrongInput(f"{what}: {problem}; docs/claims.md says what a claim has") from problem


def of_text(text: str, where: str) -> Claim:
    """What strict patterns find in a text; raises WrongInput."""
    speeds = list(dict.fromkeys(_figure(each) for each in SPEED.findall(text)))
    if len(speeds) != 1:
        found = f"has {len(speeds)} speeds ({', '.join(map(number, speeds))})" if speeds else "claims no tokens/s"
        raise WrongInput(f"{where} {found}; give a text with one, as in '240 tokens/s', or a file of YAML")
    nbytes, bandwidth = (
        [_figure(value) * _SIZES[unit] for value, unit in each.findall(text)] for each in (BYTES, BANDWIDTH)
    )
    return Claim(
        tokens_per_s=speeds[0], measured="kernel" if KERNEL.search(text) else "",
        bytes_per_token=nbytes[0] if len(nbytes) == 1 else None,
        bandwidth_gb_s=bandwidth[0] * 1e-9 if len(bandwidth) == 1 else None,
    )  # fmt: skip


def _figure(text: str) -> float:
    return float(text.replace(",", ""))


def bytes_of(claim: Claim) -> tuple[float, str]:
    """The least bytes that a token reads, and whose they are; 0 where nothing tells. Raises WrongInput, UnknownName."""
    if claim.bytes_per_token:
        return claim.bytes_per_token, "as claimed"
    if not claim.model:
        return 0, ""
    if Path(claim.model).is_file():
        with closing(GgufFile.open(claim.model)) as file:
            tied = not any(each.name == "output.weight" for each in file.tensors.values())
            read = [each.n_bytes for each in file.tensors.values() if tied or each.name != "token_embd.weight"]
        return sum(read), f"of the tensors of {claim.model}"
    try:
        spec = dataclasses.replace(shapes.parse(claim.model), type=DENSEST)
    except UnknownName as problem:
        raise WrongInput(f"model: {problem}; or name a GGUF file that is there, or give bytes_per_token") from problem
    layers = [each.n_bytes for each in writer.tensors(spec) if each.name.startswith("blk.")]
    return sum(layers), f"of the layers of {claim.model} in {DENSEST.upper()}, its head left out"


def wrong(claim: Claim) -> Iterator[str]:
    """A sentence for everything that keeps a claim from being believed."""
    if claim.measured == "kernel":
        yield (
            f"a kernel was timed, and {number(claim.tokens_per_s)} tokens/s is told of it: attention, norms, head and "
            "launches of a model are not in it; tell its seconds, or time the model"
        )
    nbytes, whose = bytes_of(claim)
    if not nbytes:
        yield "its bytes are not told, so that nothing holds it against memory: give model or bytes_per_token"
    else:
        yield from _beyond_memory(claim, nbytes, whose)
    if not claim.receipt:
        yield "no receipt: nothing says that the output was right (kparity bench --receipt writes one)"
    else:
        yield from _beyond_receipt(claim)


def _beyond_memory(claim: Claim, nbytes: float, whose: str) -> Iterator[str]:
    """Where the memory cannot deliver it: the device's, or where that is not told, any of its kind."""
    rate = claim.tokens_per_s / claim.batch * nbytes
    known = bandwidths.of(claim.device)
    if claim.bandwidth_gb_s:
        most, of = claim.bandwidth_gb_s * 1e9, claim.device or "the device"
    elif known:
        most, of = known.gb_s * 1e9, f"{claim.device} ({known.name}: {known.source})"
    else:
        most, of = contracts.load("receipt-v1").threshold(f"bandwidth_{claim.kind}").value, f"any {claim.kind}"
        yield (
            f"the bandwidth of {claim.device or 'its device'} is not told"
            f"{f', nor is {claim.device} in the table of devices' if claim.device else ''}: held against the most of "
            f"any {claim.kind}"
        )
    if rate > most:
        yield (
            f"{number(claim.tokens_per_s)} tokens/s at batch {claim.batch} read {number(rate * 1e-9)} GB/s "
            f"({number(nbytes * 1e-9)} GB a token, {whose}); the memory of {of} delivers {number(most * 1e-9)} GB/s, "
            f"which is {number(most / nbytes * claim.batch)} tokens/s at most"
        )


def _beyond_receipt(claim: Claim) -> Iterator[str]:
    """Where the receipt is refused, or shows less."""
    found = document.read(Path(claim.receipt))
    refused = verify.verify(found, require_parity=True)
    for finding in refused:
        yield f"{claim.receipt}: {finding}"
    statement = form(sign.statement_of(found))[0] if not refused else None
    if statement is None:
        return
    rows: list[Row] = [row for run in statement.predicate.runs for row in run.measurements if row.phase == "decode"]
    best = max((row.rates[2] for row in rows), default=0.0)
    if claim.tokens_per_s > best * claim.batch:
        shown = f"{number(best)} tokens/s at most" if best else "no decode of a model"
        yield f"{claim.receipt} shows {shown} at batch 1, {number(claim.tokens_per_s)} at {claim.batch} are claimed"
