"""The cuda and hip adapters on a stand-in for CuPy: order, arguments, graphs, staging, faults, limits, identity.

``fake_cupy`` runs what is enqueued only when somebody waits, and computes the reference in place of a kernel. So this
proves what surrounds the kernels, on any machine; what a device computes is tested by ``test_ops.py`` and
``test_cuda_device.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends import _cupy, cuda, hip
from kparity.backends.cuda import CudaBackend
from kparity.backends.hip import HipBackend
from kparity.backends.numpy import NumpyBackend
from kparity.device.adapter import Backend
from kparity.device.codes import explain
from kparity.engine import Engine
from kparity.errors import CompileFailed, DeviceFault, Unavailable, WrongInput
from kparity.kernels.add import Add
from kparity.model import load_model
from kparity.ops.spec import Arg, Case, Grid, Stage
from tests import fake_cupy, gguf_files
from tests.fake_cupy import Library, Machine
from tests.refusals import refused

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]
Opener = Callable[..., Any]


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def opened(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Opener]:
    """Opens an adapter on the machine; compiled texts are kept in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(hip, "KFD", tmp_path / "kfd")
    true_source = cuda.gpu_source

    def source(op: Any, case: Case, *rest: Any, **more: Any) -> Any:
        found = true_source(op, case, *rest, **more)
        if isinstance(op, Split):
            found = replace(found, text=f"{found.text}KERNEL add_merge() {{}}\n")
        machine.known[found.text] = (op, case)
        return found

    def open_(adapter: type[CudaBackend] = CudaBackend, index: int = 0, debug: str = "", **properties: Any) -> Any:
        monkeypatch.setenv("KPARITY_DEBUG", debug)
        for module in (cuda, hip):
            monkeypatch.setattr(module, "cdll", lambda names: Library(machine, properties.get("devices", 1)))
        module = fake_cupy.cupy(machine, is_hip=adapter is HipBackend, **properties)
        monkeypatch.setattr(cuda, "import_module", lambda name: module)
        monkeypatch.setattr(cuda, "gpu_source", source)
        return adapter.open(index)

    yield open_
    assert not machine.current, "a stream was left current"


class Split(Add):
    """add in two stages with scratch memory between them, on a grid of three dimensions."""

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        assert dialect == "gpu"
        return (Stage("add", Grid((5, 2, 3), 64)), Stage("add_merge", Grid((7, 1, 1), 128)))

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        return (Arg("partial", "f32", (3, 5)), Arg("counts", "i32", (2,)))


def adding(backend: Any, op: Any = None, count: int = 1) -> tuple[Any, list[Any]]:
    """A program that adds 1 to a vector ``count`` times, and its buffers."""
    op = op or ops.get("add")
    case = op.case(M=2, D=8)
    kernel = backend.build(op, case)
    ones = backend.upload(np.ones((2, 8), np.float32))
    chain = [backend.upload(np.zeros((2, 8), np.float32)) for _ in range(count + 1)]
    return backend.record([kernel.bind(a, ones, b) for a, b in pairwise(chain)]), chain


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = gguf_files.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", replace(gguf_files.TINY, untied=True))
    return load_model(str(path))


def logits(model: Any, backend: Backend, **options: Any) -> list[np.ndarray]:
    engine = Engine(model, backend, context=64, chunk=4, **options)
    found = [engine.step(token) for token in TOKENS]
    engine.reset()
    found.append(engine.prefill(TOKENS))
    found.append(np.array(list(engine.generate([7], 3))))
    engine.reset()
    return [*found, engine.score(TOKENS, rows=3)]


@pytest.mark.parametrize("adapter", [CudaBackend, HipBackend])
@pytest.mark.parametrize("options", [{}, {"act": "block256", "kv": "f32"}])
def test_a_whole_engine_gives_the_logits_of_numpy(opened, machine, tiny, adapter, options: dict[str, str]) -> None:
    backend = opened(adapter)
    got, want = logits(tiny, backend, **options), logits(tiny, NumpyBackend(), **options)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True))
    assert backend.graphs and sum(name.startswith("graph of") for name in machine.log) >= len(TOKENS) + 3
    assert backend.dispatches.total > 300


def test_debug_mode_gives_the_same_without_graphs_and_names_a_kernel(opened: Opener, machine: Machine, tiny) -> None:
    backend = opened(debug="1")
    assert backend.debug and "debug" in backend.info.detail
    got, want = logits(tiny, backend), logits(tiny, NumpyBackend())
    assert all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True))
    assert not any(name.startswith("graph") for name in machine.log)
    program, _ = adding(backend, Split(), count=2)
    machine.fails["add_merge"] = "cudaErrorIllegalAddress: an illegal memory access was encountered"
    where = "running add_cuda_generic add_merge (add[D=8,M=2], grid (7, 1, 1), block 128)"
    with refused(DeviceFault, "KP-DEVICE-FAULT", where):
        program.run()


def test_one_launch_is_eager_and_several_are_a_graph_timed_by_the_device(opened: Opener, machine: Machine) -> None:
    backend = opened()
    one, _ = adding(backend)
    one.run()
    assert not one.replayed and machine.log[-1] == "launch add"
    several, chain = adding(backend, count=3)
    several.run()
    several.run()
    assert several.replayed and machine.log[-2:] == ["graph of 3"] * 2
    assert backend.dispatches.counts == {"add_cuda_generic": 7}
    assert (backend.download(chain[-1]) == 3).all()
    timed, _ = adding(backend, count=2)
    assert timed.run_timed() == 1.5e-3
    assert machine.log[-3:] == ["event", "graph of 2", "event"]  # the capture is outside


def test_stages_share_scratch_and_run_in_order(opened: Opener, machine: Machine) -> None:
    backend = opened()
    program, chain = adding(backend, Split(), count=2)
    for run in (program.run, program.run, program.run_eager):
        backend.write(chain[-1], np.zeros((2, 8), np.float32))
        machine.launched.clear()
        run()
        assert (backend.download(chain[-1]) == 2).all()
        assert machine.launched == [("add", (5, 2, 3), (64, 1, 1)), ("add_merge", (7, 1, 1), (128, 1, 1))] * 2
    assert backend.dispatches.total == 6  # a stage is no dispatch of its own
    assert machine.log.count("fill 60") == machine.log.count("fill 8") == 1  # scratch: once per kernel, never zero


def test_eager_and_replay_differ_where_a_launch_is_lost(opened: Opener, machine: Machine) -> None:
    machine.capture_drops, machine.tells_nodes = 1, False
    backend = opened()
    program, chain = adding(backend, count=3)
    for each in chain[1:]:
        backend.write(each, np.full((2, 8), np.nan, np.float32))
    program.run()
    assert np.isnan(backend.download(chain[-1])).all()
    program.run_eager()
    assert (backend.download(chain[-1]) == 3).all()


@pytest.mark.parametrize("how", ["begin", "end", "lost"])
def test_a_failing_capture_is_seen_and_survived(opened: Opener, machine: Machine, how: str, capsys) -> None:
    machine.capture_fails, machine.capture_drops = ("", 1) if how == "lost" else (how, 0)
    backend = opened()
    assert "no graph" not in backend.info.detail
    for _ in range(2):
        program, chain = adding(backend, count=3)
        program.run()
        assert not program.replayed and (backend.download(chain[-1]) == 3).all()
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("cuda: no graph, kernels are launched one by one: ")
    wanted = {"begin": "not supported", "end": "StreamCaptureInvalidated", "lost": "2 nodes for 3 launches"}
    assert wanted[how] in line and backend.info.detail.endswith(", no graph")


def test_a_launch_that_fails_while_capturing_is_reported_with_its_kernel(opened: Opener, machine: Machine) -> None:
    machine.launch_fails["add"] = "CUDA_ERROR_INVALID_VALUE: invalid argument"
    backend = opened()
    program, _ = adding(backend, count=3)
    with pytest.raises(DeviceFault, match=r"INVALID_VALUE.*running add_cuda_generic \(add\[.*grid \(1, 1, 1\), block"):
        program.run()
    machine.launch_fails.clear()
    program.run()  # the stream is an ordinary one again
    backend.sync()


def test_writes_are_ordered_with_replays(opened: Opener, machine: Machine) -> None:
    backend = opened()
    program, (source, _, target) = adding(backend, count=2)
    array, slots = np.zeros((2, 8), np.float32), _cupy.SMALL[0]
    copies = [backend.empty((2, 8), "f32") for _ in range(3 * slots)]
    kernel = backend.build(ops.get("add"), ops.get("add").case(M=2, D=8))
    zeros = backend.upload(np.zeros((2, 8), np.float32))
    keep = [backend.record([kernel.bind(target, zeros, copy)]) for copy in copies]
    for step, one in enumerate(keep):  # nothing waits, until the ring is used up
        array[:] = step
        backend.write(source, array)
        array[:] = -1  # the caller's array is free again
        program.run()
        one.run()
    found = [backend.download(copy)[0, 0] for copy in copies]
    assert found == [step + 2 for step in range(3 * slots)]


def test_large_transfers_use_two_slots(opened: Opener, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cupy, "LARGE", (2, 4096))
    backend = opened()
    array = np.arange(40_001, dtype=np.uint32)
    buffer = backend.upload(array)
    assert backend.download(buffer).tobytes() == array.tobytes()
    assert machine.log.count("to device 4096") == machine.log.count("to host 4096") == 39
    empty = backend.upload(np.zeros((0, 3), np.float16))
    assert backend.download(empty).shape == (0, 3)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("cudaErrorIllegalAddress: an illegal memory access was encountered", "KP-DEVICE-FAULT"),
        ("cudaErrorLaunchFailure: unspecified launch failure", "KP-DEVICE-FAULT"),
        ("cudaErrorECCUncorrectable: uncorrectable ECC error encountered", "KP-DEVICE-LOST"),
        ("CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered", "KP-DEVICE-LOST"),
        ("cudaErrorDevicesUnavailable: busy or unavailable", "KP-DEVICE-LOST"),
        ("hipErrorECCNotCorrectable: uncorrectable ECC error encountered", "KP-DEVICE-LOST"),
        ("cudaErrorMemoryAllocation: out of memory", "KP-DEVICE-OOM"),
        ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", "KP-DEVICE-OOM"),
        ("cudaErrorLaunchOutOfResources: too many resources requested for launch", "KP-DEVICE-FAULT"),
    ],
)
def test_faults_have_codes(opened: Opener, machine: Machine, error: str, code: str) -> None:
    backend = opened()
    program, chain = adding(backend, count=2)
    machine.fails["add"] = error
    program.run()  # asynchronous: nothing is seen here
    with refused(DeviceFault, code, error) as caught:
        backend.download(chain[-1])
    assert ("KPARITY_DEBUG=1" in str(caught.value)) == (code == "KP-DEVICE-FAULT")
    with pytest.raises(DeviceFault):
        backend.sync()
    backend.close()  # raises nothing on a broken device


def test_memory_that_is_refused_is_no_end(opened: Opener, machine: Machine) -> None:
    backend = opened()
    with refused(DeviceFault, "KP-DEVICE-OOM", "f32[1073741824]"):
        backend.empty((1 << 30,), "f32")
    program, chain = adding(backend, count=2)
    program.run()
    assert (backend.download(chain[-1]) == 2).all()


@pytest.mark.parametrize("adapter", [CudaBackend, HipBackend])
def test_a_copy_stays_on_the_device_and_is_timed_by_it(opened: Opener, machine: Machine, adapter: Any) -> None:
    backend = opened(adapter)
    source, target = backend.upload(np.arange(6, dtype=np.float32)), backend.empty((6,), "f32")
    machine.log.clear()
    assert backend.copy_timed(source, target) == 1.5e-3
    assert machine.log == ["event", "on device 24", "event"]
    assert list(backend.download(target)) == [0, 1, 2, 3, 4, 5]


def test_wrong_arguments_are_refused(opened: Opener, machine: Machine) -> None:
    backend = opened()
    op = ops.get("add")
    kernel = backend.build(op, op.case(M=2, D=8))
    a, b = (backend.upload(np.zeros((2, 8), np.float32)) for _ in range(2))
    with pytest.raises(WrongInput, match="bound twice"):
        kernel.bind(a, b, a)
    shifted = backend.empty((2, 8), "f32")
    shifted.handle.data.ptr = a.handle.data.ptr + 60  # overlaps in its last element
    with pytest.raises(WrongInput, match="bound twice"):
        kernel.bind(a, b, shifted)
    other = opened()
    with pytest.raises(WrongInput, match="of this device only"):
        other.record([kernel.bind(a, a, b)])


def test_limits(opened: Opener, machine: Machine) -> None:
    op = ops.get("add")
    case = op.case(M=2, D=8)
    assert opened().supports(op, case) is None
    assert "work-items" in (opened(maxThreadsPerBlock=32).supports(op, case) or "")
    assert "grid of (5, 2, 3)" in (opened(maxGridSize=(9, 9, 2)).supports(Split(), case) or "")
    assert "partial has 60 bytes" in (opened(totalGlobalMem=59).supports(Split(), case) or "")
    assert "one binding" in (opened(totalGlobalMem=63).supports(Split(), case) or "")
    wide = opened(HipBackend)
    monkeyed = type("Wide", (Split,), {"stages": lambda *_: (Stage("add", Grid((1 << 26, 1, 1), 64)),)})()
    assert "work-items in a row" in (wide.supports(monkeyed, case) or "")
    assert opened().supports(monkeyed, case) is None


def test_the_device_is_told_in_full(opened: Opener) -> None:
    info = opened().info
    assert info.uuid == "GPU-00020406-080a-0c0e-1012-1416181a1c1e"
    assert info.detail == "sm_90, 132 SMs, 128 GiB, 1980 MHz, memory 3201 MHz, pci 0000:19:00.0"
    assert (info.driver, info.library) == ("CUDA 13.0", "cupy 14.2.0, runtime 13.0, NVRTC 13.0")
    assert (info.subgroup, info.max_threads, info.max_binding, info.kind) == (32, 1024, 1 << 37, "gpu")
    newer = opened(major=13, minor=5).info
    assert newer.detail.startswith("sm_135 by PTX of compute_120, which this NVRTC knows last")
    amd = opened(HipBackend, warpSize=64).info
    assert (amd.subgroup, amd.uuid, amd.driver) == (64, "pci 0000:19:00.0", "HIP 6.3")
    assert amd.detail.startswith("gfx90a:sramecc+:xnack-, 132 CUs")


@pytest.mark.parametrize(
    ("adapter", "wave", "target", "device"),
    [
        (CudaBackend, 32, "--gpu-architecture=sm_90", {}),
        (CudaBackend, 32, "--gpu-architecture=sm_75", {"major": 7, "minor": 5}),
        (CudaBackend, 32, "--gpu-architecture=compute_90", {"major": 10, "minor": 3}),
        (CudaBackend, 32, "--gpu-architecture=compute_120", {"major": 13}),
        (HipBackend, 32, "--offload-arch=gfx90a:sramecc+:xnack-", {}),
        (HipBackend, 64, "--offload-arch=gfx90a:sramecc+:xnack-", {}),
    ],
)
def test_what_is_compiled(opened, machine, adapter, wave: int, target: str, device: dict[str, int]) -> None:
    backend = opened(adapter, warpSize=wave, **device)
    adding(backend)
    text, options = machine.compiled[-1]
    assert len(machine.compiled) == 2 and f"#define WAVE {wave}\n" in text
    assert options[0] == target and not any("fast" in option for option in options)
    adding(opened(adapter, warpSize=wave, **device))  # another process: everything comes from the disk
    assert len(machine.compiled) == 2
    adding(opened(adapter, warpSize=96 - wave, **device))  # other constants: another text
    assert len(machine.compiled) == 4


def test_a_damaged_cache_is_compiled_anew(opened: Opener, machine: Machine, tmp_path: Path) -> None:
    adding(opened())
    kept = list((tmp_path / "kparity" / "cuda").glob("add-*.bin"))
    assert len(kept) == 1
    good = kept[0].read_bytes()
    kept[0].write_bytes(good[:100])
    machine.refuses = lambda binary: len(binary) == 100
    program, _ = adding(opened())
    program.run()
    assert kept[0].read_bytes() == good and len(machine.compiled) == 3


def test_compile_errors_count_lines_of_the_file_they_are_in(opened: Opener, machine: Machine) -> None:
    backend = opened()
    true = cuda.gpu_source
    for first_line, path, line in ((1, "kernels/add/add.cu", 2), (40, "kernels/prelude/cuda.h", 2)):

        def wrong(*args: Any, first_line: int = first_line, **more: Any) -> Any:
            text, before = "#define A 1\nWRONG\n" + "\n" * first_line, (("kernels/prelude/cuda.h", first_line - 1),)
            return replace(true(*args, **more), text=text, first_line=first_line, before=before)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "gpu_source", wrong)
            with pytest.raises(CompileFailed) as caught:
                adding(backend)
        assert (caught.value.path, caught.value.line) == (path, line) and "WRONG is wrong" in caught.value.log


@pytest.mark.parametrize("adapter", [CudaBackend, HipBackend])
def test_a_target_without_code_has_a_code_of_its_own(opened: Opener, machine: Machine, adapter: Any) -> None:
    machine.refuses = lambda binary: True
    with refused(Unavailable, f"{adapter.tag}-NOARCH", "INVALID_IMAGE") as caught:
        opened(adapter)
    assert explain(caught.value.code).remedy
    machine.refuses = lambda binary: False
    with refused(Unavailable, "KP-CUDA-NOARCH", "no code for sm_61"):
        opened(major=6, minor=1)


def test_hidden_devices_are_named(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    opened()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(Unavailable, match=r"no CUDA device 1 \(1 visible, CUDA_VISIBLE_DEVICES is 1\)"):
        CudaBackend.open(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(cuda, "cdll", lambda names: Library(Machine(), devices=0))
    with pytest.raises(Unavailable, match="CUDA_VISIBLE_DEVICES is empty"):
        CudaBackend.open()
