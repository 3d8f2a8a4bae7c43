"""Verdicts that are kept: what one depends on, which device it is of, and what the serving process repeats of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from kparity import contracts
from kparity.backends.cpu import CpuBackend
from kparity.device import fingerprint
from kparity.device.registry import open_backend
from kparity.engine import Engine
from kparity.errors import WrongInput
from kparity.gates import reference
from kparity.gates.filled import Filled
from kparity.gates.judge import judged
from kparity.gates.table import GATES
from kparity.gates.verdict import Gate, Row
from kparity.model import load_model
from kparity.model.writer import TINY, write
from kparity.plain import Span
from kparity.probe import cache, dispatcher
from kparity.probe.messages import Request
from kparity.probe.repeat import ENTRIES, Kept, differs, repeated
from kparity.probe.runner import Found
from tests.test_judge import CONTRACT, good

OTHER: dict[str, Any] = {
    "depth": "bos", "positions": 73, "require_gpu": True, "act": "block256", "kv": "f32", "index": 1,
    "issues": ("an issue",), "trust_claims": True, "nonce": "n", "context": 100, "repeat": 6, "soak": 1.0,
}  # fmt: skip
LOADED = {__file__: fingerprint.state(__file__)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def entry(request: Request, backend: str = "cpu") -> str:
    return cache.Keys(request).path(backend).name


def test_a_verdict_depends_on_everything_that_was_asked_for(home: Path) -> None:
    assert {*OTHER, "model", "timeout"} == {each.name for each in fields(Request)}
    here = entry(Request())
    assert here == entry(Request()) == entry(Request(timeout=9.0)), "how long it may take changes nothing"
    others = {name: entry(replace(Request(), **{name: value})) for name, value in OTHER.items()}
    assert len({here, *others.values()}) == len(OTHER) + 1, others
    write(home / "tiny.gguf", replace(TINY, seed=TINY.seed + 1))
    assert entry(Request(model=str(home / "tiny.gguf"))) != here and entry(Request(), "numpy") != here


@pytest.mark.parametrize("name", ["kernels", "host"])
def test_and_on_kernels_and_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = entry(Request())
    monkeypatch.setattr(fingerprint, name, lambda: "another")
    assert entry(Request()) != here


def test_and_on_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    here, told = entry(Request()), contracts.load(contracts.PROBE)
    for version, document in (("98.0.0", told.document), (told.version, {**told.document, "thresholds": {}})):
        other = SimpleNamespace(id=told.id, version=version, document=document)
        monkeypatch.setattr(contracts, "load", lambda name, other=other: other)
        assert entry(Request()) != here


def whole() -> Row:
    gates = [judged(gate, CONTRACT, good(gate.name).values, "", "", 0.0) for gate in GATES]
    return Row("cpu", "accepted", gates=gates, device=CpuBackend().info.as_dict(), dispatches={"a": 1})


def refused(gate: str = "reset") -> Row:
    gates = whole().gates[: [each.name for each in GATES].index(gate) + 1]
    gates[-1] = Gate(gate, "FAIL", gates[-1].measures, f"KP-{gate.upper()}", "differs")
    return replace(whole(), status="rejected", code=gates[-1].code, reason="differs", gates=gates)


CHANGES: dict[str, tuple[Callable[[Row], Row], bool]] = {
    "whole": (lambda row: row, True),
    "rejected, and why": (lambda row: refused(), True),
    "of the moment": (lambda row: replace(refused(), code="KP-PROBE-HANG"), False),
    "not there": (lambda row: replace(refused(), status="unavailable"), False),
    "not opened": (lambda row: replace(refused("open"), code="KP-NOT-GPU"), False),
    "accepted without its last gate": (lambda row: replace(row, gates=row.gates[:-1]), False),
    "rejected with all gates": (lambda row: replace(row, status="rejected", code="KP-RESET", reason="x"), False),
    "rejected without a reason": (lambda row: replace(refused(), reason=""), False),
    "of another depth": (lambda row: replace(row, depth="bos"), False),
    "gates in another order": (lambda row: replace(row, gates=[row.gates[0], *row.gates[:0:-1]]), False),
    "a device that is none": (lambda row: replace(row, device={"backend": 1}), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_entry_is_whole_or_a_miss(name: str) -> None:
    change, remembered = CHANGES[name]
    keys = cache.Keys(Request())
    row = change(whole())
    cache.put(keys, Found(row, None, LOADED))
    found = cache.get(keys, "cpu")
    assert (found is not None) is remembered
    if found:
        assert found.row.cached and found.loaded == LOADED and found.row.gates == row.gates


def test_an_entry_of_another_key_or_backend_is_a_miss() -> None:
    keys, others = cache.Keys(Request()), cache.Keys(Request(kv="f32"))
    cache.put(keys, Found(whole(), None, LOADED))
    keys.path("cpu").rename(others.path("cpu"))
    assert cache.get(others, "cpu") is None
    others.path("cpu").rename(keys.path("numpy"))
    assert cache.get(keys, "numpy") is None
    keys.path("numpy").rename(keys.path("cpu"))
    assert cache.get(keys, "cpu") is not None
    path = keys.path("cpu").parent / "key"
    path.write_bytes(path.read_bytes()[:31])
    assert cache.get(keys, "cpu") is None


def test_the_device_of_now_is_that_of_the_verdict() -> None:
    opened = Gate("open", "PASS", note="of now")

    def holds(loaded: dict[str, str] = LOADED, known: dict[str, Any] | None = None, **now: Any) -> bool:
        row = replace(whole(), device={**CpuBackend().info.as_dict(), **(known or {})})
        status = now.pop("status", "accepted")
        seen = replace(row, status=status, gates=[opened], device={**(row.device or {}), **now})
        kept = Found(row, None, {**LOADED, "/a": "1"})
        held = cache.confirmed(kept, Found(seen, None, loaded))
        assert (row.gates[0] is opened) is held or loaded != LOADED
        return held

    gpu = {"kind": "gpu", "uuid": "GPU-1"}
    assert holds() and holds(known=gpu)
    assert not holds(status="rejected") and not holds(uuid="GPU-2", known=gpu) and not holds(driver="another")
    assert not holds(known={"kind": "gpu", "uuid": ""}), "a GPU that tells no identity is never the same"
    assert not holds(loaded={**LOADED, "/b": "1"}) and not holds(loaded={**LOADED, "/a": "2"})
    nobody = Found(replace(whole(), device=None), None, LOADED)
    assert not cache.confirmed(nobody, nobody)


@pytest.mark.parametrize("code", cache.FLEETING)
def test_what_says_more_of_the_moment_is_a_miss(code: str) -> None:
    keys = cache.Keys(Request())
    cache.put(keys, Found(replace(refused(), code=code), None, LOADED))
    assert not keys.path("cpu").exists()


def test_an_entry_is_of_files_that_are_the_same_still(tmp_path: Path) -> None:
    keys, path = cache.Keys(Request()), tmp_path / "library.so"
    path.write_text("x")
    for loaded, remembered in (({}, False), ({str(path): fingerprint.state(path)}, True), ({str(path): "1:2"}, False),
                               ({**LOADED, str(path): fingerprint.state(path)}, True)):  # fmt: skip
        cache.put(keys, Found(whole(), None, loaded))
        assert (cache.get(keys, "cpu") is not None) is remembered
    path.unlink()
    assert cache.get(keys, "cpu") is None


def test_an_entry_that_somebody_wrote_is_a_miss() -> None:
    keys = cache.Keys(Request())
    cache.put(keys, Found(whole(), None, LOADED))
    path = keys.path("cpu")
    written = path.read_bytes()
    signature, _, body = written.partition(b"\n")
    forged = signature.translate(bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0"))
    for content in (body, b"\n" + body, signature + b"\n" + body + b" ", forged + b"\n" + body, b"", signature):
        path.write_bytes(content)
        assert cache.get(keys, "cpu") is None
    path.write_bytes(written)
    assert cache.get(keys, "cpu") is not None and len((path.parent / "key").read_bytes()) == 32
    (path.parent / "key").write_bytes(bytes(32))
    assert cache.get(keys, "cpu") is None, "signed with another key"


def test_a_backend_of_another_package_depends_on_its_files_and_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"adapter", "drivers"}.isdisjoint(cache.Keys(Request()).of("cpu"))
    names: list[str] = []
    for name in ("distribution", "drivers"):
        monkeypatch.setattr(fingerprint, name, lambda *given, name=name: f"{name} {len(names)}")
    here = cache.Keys(Request()).of("theirs")
    assert (here["adapter"], here["drivers"]) == ("distribution 0", "drivers 0")
    names.append("changed")
    assert cache.Keys(Request()).of("theirs") != here


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    keys = cache.Keys(Request())
    monkeypatch.setattr("kparity.host.cachedir.write", full)
    cache.put(keys, Found(whole(), None, LOADED))
    assert cache.get(keys, "cpu") is None


# --- the serving process ---


@pytest.fixture(scope="module")
def kept() -> Kept:
    model = load_model(None)
    return Kept.of(reference.compute(model, reference.probe_tokens(model, 9), act="token", kv="f16", context=256))


def served(row: Row, kept: Kept | None) -> Engine | None:
    return dispatcher._serve(row, kept, load_model(None), Request(context=256), lambda note: None)


def test_the_second_device_of_a_backend_serves_where_it_was_probed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[tuple[str, int]]()
    monkeypatch.setattr(dispatcher, "open_backend", lambda *given: opened.append(given) or open_backend("cpu"))
    engine = dispatcher._serve(whole(), kept, load_model(None), Request(index=1, context=256), lambda note: None)
    assert engine is not None and opened == [("cpu", 1)]
    engine.close()


def test_the_device_that_serves_is_the_probed_one(kept: Kept) -> None:
    row = whole()
    engine = served(row, kept)
    assert engine is not None and row.accepted and row.timings_ms["repeat"] > 0
    engine.close()
    for changed, wanted, said in (
        (
            replace(whole(), device={**(row.device or {}), "uuid": "GPU-2"}),
            kept,
            "another device than the probe: uuid none for GPU-2",
        ),
        (whole(), None, "the probe left no reference logits"),
    ):
        assert served(changed, wanted) is None
        assert (changed.status, changed.code) == ("rejected", "KP-CHANGED") and said in changed.reason


class Replayed:
    """An engine that gives what was kept, but for a change."""

    position = 0
    chunk, context = 16, 256
    options = SimpleNamespace(kv="f16")
    model = SimpleNamespace(hparams=SimpleNamespace(kv_dim=4))

    def __init__(self, kept: Kept, vocab: int, change: Callable[[str, int, np.ndarray], np.ndarray]) -> None:
        self.rows = np.zeros((len(kept.wanted), vocab))
        self.rows[:, kept.entries] = kept.wanted
        self.kept, self.change, self.calls, self.cache = kept, change, list[tuple[str, int]](), list[Any]()

    def _row(self, kind: str) -> np.ndarray:
        at = self.position - 1
        late = {span.end - 1: len(self.kept.tokens) + index for index, span in enumerate(self.kept.spans)}
        self.calls.append((kind, at))
        return self.change(kind, at, self.rows[at if at < len(self.kept.tokens) else late[at]].copy())

    def reset(self) -> None:
        self.position = 0

    def step(self, token: int, eager: bool = False) -> np.ndarray:
        self.position += 1
        return self._row("step")

    def prefill(self, tokens: list[int], eager: bool = False) -> np.ndarray:
        self.position += len(tokens)
        return self._row("prefill")

    def score(self, tokens: list[int]) -> np.ndarray:
        return np.stack([self.change("score", at, self.rows[at].copy()) for at in range(len(tokens))])


def said(kept: Kept, change: Callable[[str, int, np.ndarray], np.ndarray]) -> str:
    engine: Any = Replayed(kept, kept.entries[-1] + 1, change)
    return differs(engine, kept, contracts.load(contracts.PROBE))


@pytest.mark.parametrize(("kind", "at", "place"), [
    ("score", 3, "at position 3"), ("prefill", 4, "after a prefill of 5"), ("step", 5, "of a step at position 5"),
    ("step", 8, "of a step at position 8"), ("step", 255, "at position 255"),
])  # fmt: skip
def test_every_repeated_row_is_held_against_what_was_kept(kind: str, at: int, place: str, kept: Kept) -> None:
    assert len(kept.entries) <= ENTRIES and len(kept.tokens) == 9 and kept.spans[0].start == 255
    assert said(kept, lambda *given: given[2]) == ""

    def changed(change: Callable[[np.ndarray], np.ndarray]) -> str:
        return said(kept, lambda what, where, row: change(row) if (what, where) == (kind, at) else row)

    assert f"positions_cosine = -1 ≥ 0.99 does not hold, first {place}" in changed(lambda row: -row)
    assert "positions_norm" in changed(lambda row: row * 2) and changed(lambda row: row * 2).endswith(f"first {place}")
    assert changed(lambda row: row * np.nan).endswith(f"logits {place} are not finite")


def test_a_factor_and_noise_in_every_row_are_seen(kept: Kept) -> None:
    assert "positions_factor" in said(kept, lambda kind, at, row: row * 1.02)
    loud = msgspec.structs.replace(kept, noise=1.0)
    rough: Any = np.random.default_rng(1).normal(0, 1, kept.entries[-1] + 1)

    def noisy(kind: str, at: int, row: np.ndarray) -> np.ndarray:
        other = row + 0.1 * row.std() * rough * (row != 0)
        return other * np.linalg.norm(row) / np.linalg.norm(other)

    assert "positions_noise" in said(kept, noisy) and "positions_noise" not in said(loud, noisy)
    times = float(re.findall(r"positions_noise = (\S+)", said(msgspec.structs.replace(kept, noise=1e-4), noisy))[0])
    for share, seen in ((9.9, False), (10.1, True), (10.9, True)):
        assert ("positions_noise" in said(msgspec.structs.replace(kept, noise=1e-4 * times / share), noisy)) is seen


def of_table(count: int, vocab: int, spans: int) -> reference.Reference:
    """A reference of drawn logits, whose twin lies a little beside it."""
    logits = np.random.default_rng(1).normal(0, 3, (count + spans, vocab))
    rounded = logits + np.random.default_rng(2).normal(0, 1e-2, logits.shape)
    deep = reference.Deep([Span(200 - at, [at]) for at in range(spans)], Filled(1, 256, [(0, 1)]),
                          logits[count:], rounded[count:])  # fmt: skip
    facts: Any = None
    return reference.Reference("x", [*range(count)], logits[:count], rounded[:count], facts, deep if spans else None)


@pytest.mark.parametrize(("count", "vocab", "spans"), [(72, 600, 3), (64, 512, 2), (9, 40, 1), (1, 40, 0)])
def test_what_is_kept_of_a_reference(count: int, vocab: int, spans: int) -> None:
    whole_ = of_table(count, vocab, spans)
    found = Kept.of(whole_)
    positions, late, entries = min(count, 64), min(spans, 2), min(vocab, 512)
    assert found.tokens == [*range(positions)] and len(found.spans) == late and len({*found.entries}) == entries
    assert found.entries == sorted(found.entries) and found.entries[0] >= 0 and found.entries[-1] < vocab
    rows = whole_.logits[:positions]
    if whole_.deep:
        rows = np.concatenate([rows, whole_.deep.logits[:late]])
        assert (found.context, found.exponents, found.spans) == (256, [(0, 1)], whole_.deep.spans[:late])
    else:
        assert (found.context, found.exponents) == (0, [])
    assert (found.wanted == rows[:, found.entries].astype(np.float32)).all() and 1e-7 < found.noise < 1e-4


@pytest.mark.parametrize("count", [1, 2, 9, 64])
@pytest.mark.parametrize("head", [True, False])
def test_every_position_a_prompt_and_steps_are_repeated(count: int, head: bool) -> None:
    given = Kept.of(of_table(count, 40, 0))
    engine: Any = Replayed(given, 40, lambda kind, at, row: row)
    if not head:

        def none(tokens: list[int]) -> np.ndarray:
            engine.position = 5
            raise WrongInput("no head for several rows")

        engine.score = none
    found, rows, names = repeated(engine, given)
    length = count // 2 + 1
    steps = [*range(length, min(length + 8, count))] if count > 1 else [0]
    assert rows == ([*range(count), length - 1] if count > 1 else []) + steps and len(found) == len(names) == len(rows)
    assert all((each == given.wanted[row]).all() for each, row in zip(found, rows, strict=True))
    assert differs(engine, given, contracts.load(contracts.PROBE)) == "" and engine.position == 0
    if count == 1:  # too few rows for a median
        scaled: Any = Replayed(given, 40, lambda kind, at, row: row * 1.05)
        assert differs(scaled, given, contracts.load(contracts.PROBE)) == ""
    if count == 2:
        scaled = Replayed(given, 40, lambda kind, at, row: row * 1.05)
        assert "positions_factor" in differs(scaled, given, contracts.load(contracts.PROBE))
