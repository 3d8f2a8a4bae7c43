"""What is fuzzed: each target takes bytes and may refuse them with one of kparity's own errors, and with no other."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec

from kparity.bench import comparison
from kparity.contracts.plain_yaml import parse
from kparity.contracts.validate import validate
from kparity.device import fingerprint
from kparity.errors import KparityError
from kparity.model import load_model
from kparity.probe import cache as verdicts
from kparity.probe.messages import Request
from kparity.probe.repeat import Kept
from kparity.receipts import document, verify
from tests import made_receipts
from tests.fuzz import children, gguf_fields, json_values
from tests.gguf_files import TINY, write

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "kept"
"""Inputs that once did harm, a folder a target: ``tests/test_fuzz.py`` runs them all."""


Mutate = Callable[[bytes, int], bytes]
"""Bytes and the most that may be to other bytes."""


@cache
def folder() -> Path:
    """Where this process keeps its file; in memory where the system has such a place."""
    return Path(tempfile.mkdtemp(prefix="kparity-fuzz-"))


def named(data: bytes, name: str) -> Path:
    """A file with these bytes."""
    path = folder() / name
    path.write_bytes(data)
    return path


def gguf(data: bytes) -> None:
    """A model: header, hyper-parameters, tokenizer, tensors as an inspection reads them."""
    with suppress(KparityError):
        model = load_model(named(data, "model.gguf"))
        try:
            model.inspect()
            model.tokenizer.decode(model.tokenizer.encode("the and in \u00e9"))
            model.linear(0, "attn_q")
        finally:
            model.close()


def receipt(data: bytes) -> None:
    """A receipt or an envelope, verified."""
    with suppress(KparityError):
        verify.verify(document.read(named(data, "receipt.json")))


def benchmark(data: bytes) -> None:
    """What ``bench compare`` reads."""
    with suppress(KparityError):
        comparison.read(named(data, "benchmark.json"))


def contract(data: bytes) -> None:
    """A contract's YAML and every rule that runs no code; under the name that it has, which it cannot know here."""
    with suppress(KparityError):
        path = named(data, "some-contract-v1.yaml")
        document = parse(data.decode(errors="replace"), path.name)
        if isinstance(document, dict) and isinstance(document.get("metadata"), dict):
            document["metadata"]["id"] = path.stem
            path.write_text(json.dumps(document), encoding="utf-8")
        str(validate([path], ["cpu"], run=False).problems)


@cache
def _keys() -> verdicts.Keys:
    """Of a cache of this process alone, whose entries it signs."""
    os.environ["XDG_CACHE_HOME"] = str(folder())
    keys = verdicts.Keys(Request())
    keys.of = lambda _backend: {"host": "any"}  # type: ignore[method-assign] # what is kept is for every host
    return keys


def verdict(data: bytes) -> object:
    """A remembered verdict with a signature that fits: what the dispatcher takes for a row, or None."""
    path = _keys().path("numpy")
    path.write_bytes(verdicts._signature(path.parent, data) + b"\n" + data)
    path.chmod(0o600)
    hit = verdicts.get(_keys(), "numpy")
    return hit and children.written(hit[0])


def message(data: bytes) -> object:
    """All that a child says before it ends."""
    return children.heard(data)


@dataclass(frozen=True)
class Target:
    """A function that takes bytes, and inputs to begin with."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]
    mutator: Callable[[Mutate], Callable[[bytes, int, int], bytes]] | None = None
    """What knows its form, given a mutator that does not."""


def _models() -> Iterator[bytes]:
    for kind in ("tq2_0", "tq1_0", "i2_s"):
        spec = replace(TINY, layers=1, ffn=256, type=kind, untied=kind == "tq1_0", scale_tensors=kind == "i2_s")
        yield write(folder() / "seed.gguf", spec).read_bytes()


def _receipts() -> Iterator[bytes]:
    yield json.dumps(made_receipts.receipt("cpu", "wgpu")).encode()
    yield json.dumps(made_receipts.ops_receipt("cpu")).encode()


def _benchmarks() -> Iterator[bytes]:
    yield from _receipts()
    suite = {
        "machine_info": {"cpu": {"brand_raw": "x"}, "node": "n"}, "commit_info": {"id": "0" * 40, "dirty": False},
        "benchmarks": [{"name": "a", "fullname": "t::a", "stats": {"data": [0.1, 0.2]}, "extra_info": {}}],
    }  # fmt: skip
    yield json.dumps(suite).encode()


def _contracts() -> Iterator[bytes]:
    for path in sorted((ROOT / "kparity/contracts").glob("*.yaml")):
        yield path.read_bytes()


def _verdicts() -> Iterator[bytes]:
    for said in list(children.conversations())[:2]:
        row, files = children.heard(said), {sys.executable: fingerprint.state(sys.executable)}
        kept = Kept([0, 1], [], 512, [(0, 0)], [3, 7], b"\0\0\x80\x3f" * 4, 1e-9)
        yield msgspec.json.encode(verdicts.Entry(_keys().of("numpy"), row, kept, files))


TARGETS = {
    "gguf": Target(gguf, _models, gguf_fields.mutator),
    "receipt": Target(receipt, _receipts, json_values.mutator),
    "benchmark": Target(benchmark, _benchmarks, json_values.mutator),
    "contract": Target(contract, _contracts),
    "verdict": Target(verdict, _verdicts, json_values.mutator),
    "message": Target(message, children.conversations, json_values.mutator),
}
"""Name to target."""
