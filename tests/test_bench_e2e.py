"""Speed end to end: what is counted, what is verified, and every way in which a number must not count."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kparity.bench import machine, shapes
from kparity.bench.endtoend import Contender, EndToEndRun, Found, Request, Samples
from kparity.bench.endtoend_worker import EndToEnd
from kparity.bench.receipt import exit_code, failures, measurement, models_predicate
from kparity.bench.subject import BLOCK, Point, digest, points, sequence
from kparity.bench.timing import Sample
from kparity.device.adapter import DeviceInfo
from kparity.engines import llama_layout
from kparity.errors import Unavailable, UnknownName, WrongInput
from kparity.model import load_model
from kparity.process.worker import WorkerFailed
from kparity.receipts.derived import bytes_per_token
from kparity.receipts.probe import of_model
from kparity.receipts.record import Bandwidth, Predicate, Programs, Ratio, Skipped
from kparity.receipts.statement import statement
from tests.gguf_files import TINY, Spec, write

PP, TG = Point("prefill", 32), Point("decode", 16)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("models") / "tiny.gguf", Spec(**{**vars(TINY), "arch": "bitnet"})))


def engine(model: str, **more: Any) -> EndToEnd:
    return EndToEnd(**{"backend": "cpu", "model": model, "seed": 0, "length": 64, "context": 64, **more})


# --- the plan ---


def test_points_and_tokens_are_in_order_and_seeded(tiny: str) -> None:
    chosen = points((128, 32), (512, 0))
    assert [point.name for point in chosen] == ["pp32", "pp128", "tg@0", "tg@512"]
    assert [point.prefix for point in chosen] == [32, 128, BLOCK, 512 + BLOCK]
    assert [point.tokens for point in chosen] == [32, 128, 1, 1]
    with closing(load_model(tiny)) as model:
        assert sequence(model, 1, 20) == sequence(model, 1, 40)[:20] != sequence(model, 2, 20)
        assert sequence(model, 1, 1) == [0], "the model's own first token"
    run = EndToEndRun(Request(tiny, (), (TINY.context - 1,), ()), print)
    assert run.options["context"] == TINY.context, "not more than the model has"


def test_bytes_per_token_count_every_weight_once(tiny: str) -> None:
    told, h = of_model(tiny), TINY
    q, kv = h.width, h.kv_heads * h.head_dim
    linears = [(q, h.width), (kv, h.width), (kv, h.width), (h.width, q), (h.ffn, h.width), (h.ffn, h.width),
               (h.width, h.ffn)]  # fmt: skip
    ternary = h.layers * sum(n * k // 4 for n, k in linears)
    norms = 4 * (h.layers * (3 * h.width + h.ffn) + h.width)
    weights = ternary + norms + 2 * h.vocab * h.width
    row, position = 2 * h.width, 2 * 2 * kv * h.layers
    assert bytes_per_token(told, "decode", 16, "f16") == weights + row + 17 * position
    assert bytes_per_token(told, "decode", 16, "f32") == weights + row + 17 * 2 * position
    assert bytes_per_token(told, "prefill", 32, "f16") == weights // 32 + row + position


# --- one engine ---


def test_every_repetition_gives_the_same_bits_and_every_launch_is_counted(tiny: str, tmp_path: Path) -> None:
    worker = engine(tiny)
    about = worker.about()
    worker.start_counting()
    prefills = [worker.prefill(32)["digest"] for _ in range(2)]
    worker.fill(16)
    for depth in (0, 16):
        worker.decode(depth)
    blocks = [[worker.decode(depth)["digest"] for depth in (16, 0)] for _ in range(2)]
    assert prefills[0] == prefills[1] and blocks[0] == blocks[1] and blocks[0][0] != blocks[0][1]
    for phase, length in (("decode", 0), ("prefill", 32), ("prefill", 35), ("prefill", 60)):
        both = worker.device(phase, length)
        assert 0 < both.device_s <= both.wall_s
    timed = worker.backend.download(worker.engine.recorded(32).graph.logits)[0]
    assert digest(timed) == worker.prefill(60)["digest"], "the device's clock sees the same work"
    worker.prefill(35)  # a chunk and three steps
    found = worker.conclude(reference(tiny, tmp_path, [32, 35, 60, BLOCK, 16 + BLOCK]))
    for kernel in found["kernels"]:
        launched = Programs(**found["replays"]).times(Programs(**kernel["launches"]))
        assert found["dispatches"][kernel["id"]] == launched > 0
        assert (kernel["device_ns"] or 0) > 0 or kernel["launches"]["step"] == 0
    assert min(found["replays"].values()) > 0, "every kind of piece was there"
    for unit, launches in about["launches"].items():
        assert sum(each["launches"][unit] for each in found["kernels"]) == launches
        assert about["launches"].get(f"headless_{unit}", 0) < launches
    assert not about["device_clock"], "the cpu backend has no clock but the wall's"
    worker.close()


def reference(tiny: str, folder: Path, prefixes: list[int], **more: Any) -> str:
    """The logits of another instruction set after so many tokens."""
    path, made = str(folder / "reference.npz"), engine(tiny, isa="scalar", fused=False, **more)
    made.write_outputs(prefixes, path)
    made.close()
    return path


def test_the_timed_output_is_held_against_another_instruction_set(tiny: str, tmp_path: Path) -> None:
    path, cosines = reference(tiny, tmp_path, [32, BLOCK, 16 + BLOCK]), []
    for seed in (0, 1):
        worker = engine(tiny, seed=seed)
        worker.prefill(32)
        worker.fill(16)
        worker.decode(0)
        worker.decode(16)
        cosines.append(worker.conclude(path)["cosines"])
        worker.close()
    assert set(cosines[0]) == {"pp32", "tg@0", "tg@16"} and all(value > 0.999 for value in cosines[0].values())
    assert all(value < 0.9 for value in cosines[1].values()), "other tokens"


# --- numbers ---


def ceiling(rate: float, cache: int) -> Bandwidth:
    return Bandwidth(what="device copy", bytes=1, bytes_per_s=rate, samples_s=[1.0], cache_bytes=cache)


def test_numbers_follow_from_the_samples() -> None:
    found = measurement(TG, Samples([0.1, 0.2, 0.3], [], [6.0, 2.4], ["a", "a"]), 10**9, ceiling(2e10, 0))
    assert found.unit_s == 0.2 and found.ms_per_token and found.ms_per_token.p50 == 200.0
    assert found.floor_s == 0.05 and found.of_bandwidth == 0.25 and found.gb_per_s == 5.0
    assert found.limit == "±50.0 % after 3 samples" and found.errors == []
    assert found.energy_j_per_token == pytest.approx(4.2 / 1.5)
    prompt = measurement(PP, Samples([0.64] * 5), 10**6, ceiling(1e9, 0))
    assert prompt.unit_s == 0.02 and prompt.floor_s == 0.001 and prompt.limit == ""
    assert prompt.ms_per_token and prompt.ms_per_token.p99 == 20.0 and prompt.energy_j_per_token is None
    early = measurement(TG, Samples([0.1] * 5, [Sample(0.2, 0.1), Sample(0.1, 0.1)]), 1)
    assert early.errors == ["the device's clock is ahead of the wall's in 1 samples"] and early.device_s == [0.2, 0.1]
    with pytest.raises(ValueError, match="no samples"):
        measurement(TG, Samples(), 1)


def test_faster_than_memory_is_an_error_unless_a_cache_may_hold_it() -> None:
    read = ceiling(1e10, 10**8)
    assert "faster than the roofline floor" in measurement(TG, Samples([0.01] * 5), 2 * 10**8, read).errors[0]
    assert measurement(TG, Samples([0.018] * 5), 2 * 10**8, read).errors == [], "a measured ceiling has slack"
    cached = measurement(TG, Samples([0.001] * 5), 10**8, read)
    assert cached.errors == [] and cached.floor_s is None and (cached.of_bandwidth or 0) > 1


# --- the document ---


def programs(*numbers: int) -> dict[str, int]:
    return dict(zip(("step", "chunk", "headless_step", "headless_chunk"), numbers, strict=True))


LAUNCHES = programs(2, 3, 1, 2)


def concluded(dispatches: int = 2 * 10 + 3 * 4 + 1 * 5 + 2 * 6, **cosines: float | None) -> dict[str, Any]:
    """So many dispatches of one kernel, in replays of every kind; cosines by point, with _ for @."""
    return {
        "cosines": {name.replace("_", "@"): value for name, value in cosines.items()},
        "dispatches": {"add_avx2_generic": dispatches}, "replays": programs(10, 4, 5, 6),
        "kernels": [{"id": "add_avx2_generic", "device_ns": 5.0, "launches": LAUNCHES}],
    }  # fmt: skip


def made(**more: Any) -> Contender:
    """An engine that did everything right, or what ``more`` says."""
    fields: dict[str, Any] = {
        "name": "cpu", "worker": None,
        "about": {
            "device": DeviceInfo("cpu", "x", "cpu", "native", "", "").as_dict(), "device_clock": False, "options": {},
            "cache_bytes": 0, "chunk": 32, "launches": LAUNCHES,
            "energy": {"source": None, "reason": "none"},
        },
        "samples": {PP: Samples([0.1] * 3, digests=["a"] * 3), TG: Samples([0.1] * 16, digests=["b", "b"])},
        "bandwidth": [{"what": "streaming read", "bytes": 10**6, "seconds": 1e-3}],
        "concluded": concluded(pp32=0.9999, tg_16=0.9998),
    }  # fmt: skip
    return Contender(**{**fields, **more})


def predicate(tiny: str, engines: list[Contender], **more: Any) -> Predicate:
    found = Found(engines, more.pop("unopened", {}), "cpu avx2", {"before": {}, "after": {}})
    return told(Request(tiny, ("cpu",), **more), found)


def told(request: Request, found: Found) -> Predicate:
    return models_predicate(request, ["cpu"], [], found, ["kparity"], "2026-01-01T00:00:00Z", {})


def test_a_right_run_passes_and_says_that_parity_was_not_checked(tiny: str) -> None:
    made_of = predicate(tiny, [made()])
    assert failures(made_of) == [] and exit_code(made_of) == 0
    assert json.loads(json.dumps(statement(made_of), allow_nan=False))["predicate"]["runs"][0]["measurements"]
    run = made_of.runs[0]
    assert run.parity.verdict == "INVALID-CORRECTNESS" and made_of.serving is None
    assert made_of.fallback[0].code == "KP-BENCH-UNCHECKED"
    assert run.timed_output.cosine == 0.9998 and "tg@16" in run.timed_output.what
    assert (run.determinism.repeats, run.determinism.identical) == (5, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concluded": concluded(pp32=0.5, tg_16=0.9998)}, "the timed output is wrong: cosine = 0.500000 (< 0.99)"),
        ({"concluded": concluded(pp32=None)}, "the timed output is wrong: cosine = no number"),
        ({"concluded": concluded()}, "the timed output is wrong"),
        ({"samples": {PP: Samples([0.1] * 3, digests=["a", "b", "a"])}}, "gave other bits"),
        ({"samples": {}}, "nothing was timed"),
        ({"concluded": concluded(48)}, "add_avx2_generic was launched 48 times, the graphs launch it 49 times"),
        ({"errors": ["crashed (SIGSEGV) in decode"]}, "crashed (SIGSEGV)"),
        ({"samples": {TG: Samples([1e-9] * 16, digests=["b"])}}, "faster than the roofline floor"),
    ],
)  # fmt: skip
def test_what_makes_a_run_fail(tiny: str, change: dict[str, Any], words: str) -> None:
    made_of = predicate(tiny, [made(**change)])
    assert any(words in error for error in failures(made_of)), failures(made_of)
    assert exit_code(made_of) == 1


def test_nothing_measured_and_a_missing_baseline_are_inconclusive(tiny: str) -> None:
    skipped = made(samples={}, skipped=[Skipped(name="pp32", reason="too long")])
    assert exit_code(predicate(tiny, [skipped])) == 3
    lost = {"llama.cpp": WorkerFailed("unavailable", "KP-LLAMACPP-NOLIB", "not there")}
    made_of = predicate(tiny, [made()], unopened=lost)
    assert made_of.baselines[0].errors == ["[KP-LLAMACPP-NOLIB] not there"]
    assert exit_code(made_of) == 3 and failures(made_of) == []
    about = {"name": "llama.cpp", "version": "1", "library_sha256": None, "options": {}}
    theirs = made(name="llama.cpp", baseline=True, about=about, samples={TG: Samples([0.25] * 8, digests=["c"])})
    baseline = predicate(tiny, [made(), theirs]).baselines[0]
    (ratio,) = baseline.ratios
    assert msgspec.structs.replace(ratio, doubt="") == Ratio(backend="cpu", name="tg@16", ratio=2.5, low=2.5, high=2.5)
    assert baseline.measurements[0].gb_per_s is None, "another program moves what it likes"


# --- shapes ---


def test_a_shape_is_read_or_refused() -> None:
    assert shapes.parse("2b-4t").layers == 30 and shapes.parse("2b-4t").width == 2560
    assert (shapes.parse("2b-4t:6:32000").layers, shapes.parse("2b-4t:6:32000").vocab) == (6, 32000)
    for text in ("2b-4t:0", "2b-4t:6:7", "2b-4t:6:32000:1", "tiny:", ":3", ""):
        with pytest.raises(WrongInput, match=r"NAME\[:LAYERS\[:VOCAB\]\]"):
            shapes.parse(text)
    with pytest.raises(UnknownName, match="did you mean '2b-4t'"):
        shapes.parse("2b-4")


def test_a_shape_is_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shapes.model_file("tiny:1", 3, tmp_path)
    stamp = first.stat().st_mtime_ns
    assert shapes.model_file("tiny:1", 3, tmp_path) == first and first.stat().st_mtime_ns == stamp
    other = shapes.model_file("tiny:1", 4, tmp_path)
    assert other != first and other.read_bytes() != first.read_bytes()
    again = shapes.model_file("tiny:1", 3, tmp_path / "again")
    assert again.read_bytes() == first.read_bytes(), "the same shape and seed are the same bytes"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes.writer, "write_file", full)
    with pytest.raises(WrongInput, match="No space left"):
        shapes.model_file("tiny:2", 0, tmp_path)
    whole = {f"{path.name}{ending}" for path in (first, other) for ending in ("", ".sha256")}
    assert {path.name for path in tmp_path.glob("*")} == {*whole, "again"}, "nothing half written"
    monkeypatch.undo()
    first.write_bytes(b"GGUF")
    assert shapes.model_file("tiny:1", 3, tmp_path).read_bytes() == again.read_bytes(), "what was changed is made anew"
    monkeypatch.setattr(shapes, "SPARE", 1 << 62)
    with pytest.raises(WrongInput, match="MiB free"):
        shapes.model_file("tiny:2", 0, tmp_path)


# --- energy ---


def test_energy_is_summed_over_packages_or_said_to_be_missing(tmp_path: Path) -> None:
    info = DeviceInfo("cpu", "x", "cpu", "native", "", "")
    none = machine.meter(info, tmp_path)
    assert none.read() is None and "no RAPL counter" in str(none.reason)
    for name, value in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 2_000_000), ("intel-rapl:0:0", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    found = machine.meter(info, tmp_path)
    assert found.read() == 7.0 and found.source == "RAPL package" and found.reason is None
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("x")
    assert found.read() is None and "cannot be read" in str(machine.meter(info, tmp_path).reason)
    assert machine.spent(1.0, 3.5) == 2.5
    assert machine.spent(3.5, 1.0) is None, "the counter began anew"
    assert machine.spent(None, 1.0) is machine.spent(1.0, None) is None


class Nvml:
    """NVML as far as the meter calls it; ``fails`` names a call that returns an error."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.millijoules = fails, 1500

    def nvmlInit_v2(self) -> int:
        return int(self.fails == "init")

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, device: Any) -> int:
        return int(self.fails == "handle" or uuid != b"GPU-1")

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, value: Any) -> int:
        value._obj.value = self.millijoules
        return int(self.fails == "energy")


def test_energy_of_a_gpu_is_nvml_s_or_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    info = DeviceInfo("cuda", "x", "gpu", "CUDA", "", "", "GPU-1")
    library = Nvml()
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: library)
    found = machine.meter(info)
    assert found.read() == 1.5 and found.source == "NVML"
    library.millijoules = 4000
    assert machine.spent(1.5, found.read()) == 2.5
    for call, words in (("init", "initialised"), ("handle", "knows no device GPU-1"), ("energy", "no energy counter")):
        library = Nvml(call)
        assert machine.meter(info).source is None and words in str(machine.meter(info).reason)

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert "no NVML" in str(machine.meter(info).reason) and machine.meter(info).read() is None


# --- llama.cpp ---


def test_llama_cpp_computes_the_same_on_the_same_tokens(
    llamacpp: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPARITY_THREADS", "1")
    path = reference(tiny, tmp_path, [32, BLOCK, 16 + BLOCK], act="block256")
    theirs = llamacpp.LlamaCpp(model=tiny, seed=0, length=64, context=256)
    about = theirs.about()
    assert about["options"]["n_ctx"] == 256 and about["options"]["n_threads"] == 1
    assert about["options"]["flash_attention"] == "auto: enabled"
    first = theirs.prefill(32)["digest"]
    assert theirs.prefill(32)["digest"] == first
    theirs.fill(16)
    found = theirs.decode(0)
    assert len(found["seconds"]) == BLOCK and min(found["seconds"]) > 0
    theirs.decode(16)
    cosines = theirs.conclude(path)["cosines"]
    assert set(cosines) == {"pp32", "tg@0", "tg@16"} and all(value and value > 0.99 for value in cosines.values())
    theirs.close()


def test_another_file_of_the_same_model_is_another_baseline(llamacpp: Any, tmp_path: Path) -> None:
    shape = "tiny:1"
    model, f16 = (str(shapes.model_file(shape, 3, tmp_path, kind)) for kind in ("tq2_0", "f16"))
    assert Path(f16).stat().st_size > Path(model).stat().st_size
    request = Request(model, ("cpu",), (32,), (), 0.2, llamacpp_files=("", f16, str(tmp_path / "none")))
    found = EndToEndRun(request, lambda line: None).run()
    document_of = told(request, found)
    names = ["llama.cpp", f"llama.cpp on {Path(f16).name}", "llama.cpp on none"]
    assert [each.name for each in document_of.baselines] == names
    for each in document_of.baselines[:2]:
        assert each.agreement is not None and (each.agreement.cosine["pp32"] or 0.0) > 0.99
        assert len(each.ratios) == 1 and not each.errors
    assert "does not read" in document_of.baselines[2].errors[0]


def test_another_c_interface_and_another_model_are_refused(
    llamacpp: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "b158.gguf", Spec(**{**vars(TINY), "arch": "bitnet-b1.58"}))
    with pytest.raises(WrongInput, match=r"llama.cpp does not read .*unknown model architecture"):
        llamacpp.LlamaCpp(model=str(other), seed=0, length=8, context=64)
    monkeypatch.setattr(llama_layout, "DEFAULTS", (512, 2048, 511))
    with pytest.raises(Unavailable, match="begins its context parameters with"):
        llamacpp.LlamaCpp(model=tiny, seed=0, length=8, context=64)
