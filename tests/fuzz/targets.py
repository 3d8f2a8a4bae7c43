"""What is fuzzed: each target takes bytes and may refuse them with one of kparity's own errors, and with no other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from kparity.bench import comparison
from kparity.check import worker
from kparity.contracts import files as contract_files
from kparity.errors import KparityError
from kparity.model import load_model
from kparity.probe import cache as verdicts
from kparity.probe import messages as probe_messages
from kparity.receipts import document, verify
from tests import made_receipts
from tests.gguf_files import TINY, write

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "kept"
"""Inputs that once did harm, a folder a target: ``tests/test_fuzz.py`` runs them all."""


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
    """A contract's YAML, without running the tests that it names."""
    with suppress(KparityError):
        contract_files.read(named(data, "some-contract-v1.yaml"))


def verdict(data: bytes) -> None:
    """A remembered verdict behind its signature."""
    with suppress(ValueError, msgspec.MsgspecError):
        entry = msgspec.json.decode(data, type=verdicts.Entry)
        np.frombuffer(entry.bos, np.float32)


def message(data: bytes) -> None:
    """A line of a child of the probe or of check."""
    for kind in (probe_messages.Said, worker.Said):
        with suppress(msgspec.MsgspecError, RecursionError):
            msgspec.json.decode(data, type=kind)


@dataclass(frozen=True)
class Target:
    """A function that takes bytes, and inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


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


def _messages() -> Iterator[bytes]:
    yield b'{"type":"stage","stage":"BOS","at_ms":1.5}'
    yield b'{"type":"gate","gate":"BOS","values":{"bos_cosine":1.0,"b":null},"code":"","reason":"","elapsed_ms":2}'
    yield b'{"type":"failed","status":"rejected","code":"KP-X","reason":"why"}'
    yield b'{"type":"proof","dispatches":{"a":1},"device_step_ms":0.5}'
    yield b'{"type":"record","unit":1,"record":{"op":"add"}}'


def _verdicts() -> Iterator[bytes]:
    yield b'{"key":{"host":"h"},"row":{"backend":"cpu","depth":"full","gates":[]},"bos":"AACAPw=="}'


TARGETS = {
    "gguf": Target(gguf, _models),
    "receipt": Target(receipt, _receipts),
    "benchmark": Target(benchmark, _benchmarks),
    "contract": Target(contract, _contracts),
    "verdict": Target(verdict, _verdicts),
    "message": Target(message, _messages),
}
"""Name to target."""
