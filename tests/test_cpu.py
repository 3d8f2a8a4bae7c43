"""The cpu backend: every instruction set of this machine and several numbers of threads over all cases of all ops."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from itertools import pairwise

import numpy as np
import pytest

from kparity import ops
from kparity.backends import cpu
from kparity.backends.cpu import CpuBackend, CpuProgram
from kparity.backends.numpy import NumpyBackend
from kparity.device.adapter import Buffer, launched
from kparity.engine import Engine
from kparity.errors import DeviceFault, Unavailable, WrongInput
from kparity.model import load_model
from kparity.ops import packing
from kparity.ops.spec import Arg, Array, Case, Op
from tests.refusals import refused

ISAS = list(cpu.isas())
THREADS = (1, 2, 3)
CASES = [(op, case) for op in ops.every() for case in op.cases()]


@pytest.fixture(scope="module")
def backends():
    """One backend per instruction set and number of threads."""
    opened = {(isa, threads): CpuBackend(isa, threads) for isa in ISAS for threads in THREADS}
    yield opened
    for backend in opened.values():
        backend.close()


@pytest.fixture
def own():
    """Opens backends of the test's own."""
    with ExitStack() as stack:
        yield lambda threads: stack.enter_context(closing(CpuBackend(threads=threads)))


def launch(backend: CpuBackend, op: Op, case: Case, inputs: list[Array]) -> list[Array]:
    """Run a case once on poisoned outputs. What lies around them is guarded by ``kparity.check`` in ``test_ops.py``."""
    return launched(backend, backend.build(op, case), inputs)


def exact(op: Op, arg: Arg) -> bool:
    """Whether every set gives the same bits: norm_quant's integers follow a sum of squares, which each adds in its own
    order.
    """
    whole = arg.dtype in ("i8", "i32") and op.name != "norm_quant"
    return whole or op.name in ("act_quant", "kv_store", "embed", "add")


@pytest.mark.parametrize(("op", "case"), CASES, ids=[case.id for _, case in CASES])
def test_threads_change_no_bit_and_sets_no_integer(backends, op, case):
    """That each set is within the bounds is in ``test_ops.py``."""
    inputs = op.inputs(case, np.random.default_rng(case.seed()))
    found = {at: [y.tobytes() for y in launch(backend, op, case, inputs)] for at, backend in backends.items()}
    first = found[ISAS[0], THREADS[0]]
    for (isa, threads), outputs in found.items():
        assert outputs == found[isa, THREADS[0]], f"{isa} depends on the number of threads: {threads}"
        for arg, got, want in zip(op.outputs_of(case), outputs, first, strict=True):
            if exact(op, arg):
                assert got == want, f"{arg.name} differs between {ISAS[0]} and {isa}"


def alone(backend: CpuBackend, name: str, inputs: list[Array], **params: int | float | str) -> list[Array]:
    """One op by itself."""
    op = ops.get(name)
    return launch(backend, op, op.case(**params), [np.ascontiguousarray(array) for array in inputs])


def norm_quant_in_steps(backend: CpuBackend, case: Case, inputs: list[Array]) -> list[Array]:
    shape = {"M": case["M"], "D": case["D"]}
    h = inputs[:1]
    if case["pre"] == "add":
        h = alone(backend, "add", inputs[:2], **shape)
    elif case["pre"] != "none":
        halves = np.split(inputs[0], 2, axis=1)
        h = alone(backend, "glu", halves, **shape, act=case["pre"], clamp=case["clamp"])
    y = alone(backend, "rmsnorm", [h[0], inputs[-1]], **shape, eps=case["eps"])
    quantised = alone(backend, "act_quant", y, M=case["M"], K=case["D"], mode=case["mode"])
    return quantised if case["pre"] == "none" else [h[0], *quantised]


def rope_store_in_steps(backend: CpuBackend, case: Case, inputs: list[Array]) -> list[Array]:
    m, h, g, d = (case[name] for name in "MHGD")
    qkv, pos, freq, kcache, vcache = inputs
    q, k, v = np.split(qkv.reshape(m, h + 2 * g, d), [h, h + g], axis=1)
    turn = {"M": m, "D": d, "R": case["R"], "mode": case["mode"]}
    turned = [alone(backend, "rope", [x, pos, freq], **turn, H=x.shape[1])[0] for x in (q, k)]
    rows = [x.reshape(m, g * d) for x in (turned[1], v)]
    caches = alone(backend, "kv_store", [*rows, pos, kcache, vcache], M=m, L=case["L"], D=g * d, dtype=case["dtype"])
    return [turned[0], *caches]


FUSED = {"norm_quant": norm_quant_in_steps, "rope_store": rope_store_in_steps}


@pytest.mark.parametrize("case", [case for name in FUSED for case in ops.get(name).cases()], ids=lambda case: case.id)
def test_a_fused_op_has_the_bits_of_its_ops_one_by_one(backends, case):
    op = ops.get(case.op)
    for kind in op.kinds(case):
        inputs = op.inputs(case, np.random.default_rng([case.seed(), len(kind)]), kind)
        for (isa, threads), backend in backends.items():
            found, wanted = launch(backend, op, case, inputs), FUSED[op.name](backend, case, inputs)
            for arg, got, want in zip(op.outputs_of(case), found, wanted, strict=True):
                assert got.tobytes() == want.tobytes(), f"{kind}, {isa}, {threads} threads: {arg.name}"


def test_of_two_rows_with_one_position_the_later_is_stored(backends):
    op = ops.get("rope_store")
    case = op.case(M=33, H=4, G=2, D=64, L=9)
    inputs = op.inputs(case, np.random.default_rng(2))
    inputs[1][:] = np.resize([5, 7], 33)
    last = op.case(M=2, H=4, G=2, D=64, L=9)
    for backend in backends.values():
        found = launch(backend, op, case, inputs)
        ends = [inputs[0][-2:], inputs[1][-2:], *inputs[2:]]
        for got, want in zip(found[1:], launch(backend, op, last, ends)[1:], strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [256, 2560, 4096, 6912, 16384])
@pytest.mark.parametrize(("weight", "value"), [(1, 127), (1, -128), (-1, 127), (-1, -128), (0, -128)])
def test_extreme_inputs_are_exact(backends, isa, k, weight, value):
    op = ops.get("tgemv")
    case = op.case(M=3, N=5, K=k, out="i32")
    words = packing.pack(np.full((5, k), weight, np.int8))
    q = np.full((3, k), value, np.int8)
    inputs = [words, np.ones(1, np.float32), q, np.ones((3, 1), np.float32), q.sum(axis=1, dtype=np.int32)[:, None]]
    assert (launch(backends[isa, 2], op, case, inputs)[0] == weight * value * k).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("wscale", ["tensor", "row", "block256", "block128", "block64"])
@pytest.mark.parametrize("ascale", ["token", "block256"])
def test_a_row_of_activations_has_the_same_bits_in_every_batch(backends, isa, wscale, ascale):
    """200 rows of 4096 are more than a thread holds in tiles at a time."""
    op, rows = ops.get("tgemv"), 200
    spans = {"wscale": wscale, "ascale": ascale}
    words, scales, *of_rows = op.inputs(op.case(M=rows, N=35, K=4096, **spans), np.random.default_rng(11))
    backend = backends[isa, 2]
    whole = alone(backend, "tgemv", [words, scales, *of_rows], M=rows, N=35, K=4096, **spans)[0]
    for begin, count in ((0, 1), (127, 1), (128, 3), (150, 17), (rows - 1, 1)):
        part = [array[begin : begin + count] for array in of_rows]
        found = alone(backend, "tgemv", [words, scales, *part], M=count, N=35, K=4096, **spans)[0]
        assert found.tobytes() == whole[begin : begin + count].tobytes(), f"{count} rows from {begin}"


@pytest.mark.parametrize("isa", ISAS)
def test_every_half_converts_both_ways(backends, isa):
    """All 65536 bit patterns through embed, and every value back through kv_store; ties go to even."""
    backend = backends[isa, 2]
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256)
    embed = ops.get("embed")
    ids = np.arange(256, dtype=np.int32)
    wide = launch(backend, embed, embed.case(M=256, V=256, D=256), [halves, ids])[0]
    assert np.array_equal(wide, halves.astype(np.float32), equal_nan=True)
    step = np.nextafter(wide, np.float32(np.inf))
    with np.errstate(over="ignore", invalid="ignore"):
        between = ((wide + np.roll(wide, -1)) / 2).astype(np.float32)  # mostly ties between neighbours
        values = np.concatenate([wide, step, between, np.full((1, 256), 65519.996, np.float32)])
        wanted = values.astype(np.float16)
    kv_store, rows = ops.get("kv_store"), len(values)
    empty = np.zeros((rows, 256), np.float16)
    pos = np.arange(rows, dtype=np.int32)
    case = kv_store.case(M=rows, L=rows, D=256)
    found = launch(backend, kv_store, case, [values, -values, pos, empty, empty])
    assert np.array_equal(found[0], wanted, equal_nan=True)
    assert np.array_equal(found[1], -wanted, equal_nan=True)


def test_weights_at_any_address(backends):
    """They need not begin on a boundary."""
    op = ops.get("tgemv")
    case = op.case(M=2, N=9, K=512)
    inputs = op.inputs(case, np.random.default_rng(5))
    wanted = launch(backends[ISAS[0], 1], op, case, inputs)[0]
    raw = np.zeros(inputs[0].nbytes + 3, np.uint8)
    raw[3:] = inputs[0].view(np.uint8).reshape(-1)
    shifted = raw[3:].view(np.uint32).reshape(inputs[0].shape)
    for backend in backends.values():
        buffers = [Buffer(shifted, "u32", shifted.shape), *(backend.upload(array) for array in inputs[1:])]
        y = backend.empty((2, 9), "f32")
        backend.record([backend.build(op, case).bind(*buffers, y)]).run()
        assert backend.download(y).tobytes() == wanted.tobytes()


def test_a_program_of_dependent_launches_is_ordered(own):
    """Small launches of one thread and large ones of all threads, each reading what the one before wrote."""
    backend, add = own(3), ops.get("add")
    rng = np.random.default_rng(7)
    launches, checks = [], []
    for width in (64, 40000):
        case = add.case(M=1, D=width)
        step = rng.integers(-9, 9, (1, width)).astype(np.float32)
        kernel, one = backend.build(add, case), backend.upload(step)
        ring = [backend.upload(np.zeros((1, width), np.float32)), backend.empty((1, width), "f32")]
        launches.append([kernel.bind(ring[i % 2], one, ring[(i + 1) % 2]) for i in range(100)])
        checks.append((ring[0], 100 * step))
    program = backend.record([bound for pair in zip(*launches, strict=True) for bound in pair])
    program.run()
    for buffer, wanted in checks:
        assert np.array_equal(backend.download(buffer), wanted)
    assert backend.dispatches.counts == {"add_" + backend.isa + "_generic": 200}


def twos(backend: CpuBackend) -> tuple[CpuProgram, Buffer]:
    """A program for all threads that adds 1 to 1, and where the sums are."""
    kernel = backend.build(ops.get("add"), ops.get("add").case(M=1, D=40000))
    ones, out = backend.upload(np.ones((1, 40000), np.float32)), backend.empty((1, 40000), "f32")
    return backend.record([kernel.bind(ones, ones, out)]), out


def test_programs_of_two_threads_share_a_pool(own):
    backend = own(2)
    programs, outs = zip(*(twos(backend) for _ in range(4)), strict=True)
    workers = [threading.Thread(target=lambda p=p: [p.native.run() for _ in range(200)]) for p in programs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((backend.download(out) == 2).all() for out in outs)


@pytest.mark.alone
def test_threads_cost_little_where_they_do_not_pay(own):
    """On a busy machine every barrier waits for the scheduler: a step took ten times as long on two as on one."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        with closing(load_model(None)) as model:
            engines = [Engine(model, own(threads)) for threads in (1, 2)]
            took = [[stepped(engine) for engine in engines] for _ in range(6)]
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    one, two = (float(np.median(each)) for each in zip(*took[1:], strict=True))
    assert two < 4 * one, took


def stepped(engine: Engine) -> float:
    """Seconds of some steps."""
    engine.reset()
    began = time.perf_counter()
    for token in range(64):
        engine.step(token)
    return time.perf_counter() - began


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_starts_its_own_threads(own):
    program, out = twos(own(2))
    program.run()
    child = os.fork()
    if child == 0:
        out.handle[...] = 0
        program.run()
        os._exit(0 if (out.handle == 2).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    program.run()


WRONG = {
    r"KPARITY_CPU_ISA is .*expected one of scalar, avx2": ["sse9", "AVX2", "avx512", "cuda"],
    "KPARITY_CPU_ISA is .*which this machine does not have": [next(name for name in cpu.ISAS if name not in ISAS)],
    r"KPARITY_THREADS is .*expected a number from 1": ["0", "-1", "two", "1.5", "9999999", "²"],
}


@pytest.mark.parametrize(("refusal", "value"), [(refusal, value) for refusal in WRONG for value in WRONG[refusal]])
def test_a_wrong_instruction_set_or_number_of_threads_is_refused(monkeypatch, refusal, value):
    monkeypatch.setenv(refusal.split()[0], value)
    with pytest.raises(WrongInput, match=refusal):
        CpuBackend.open()


@pytest.mark.parametrize("isa", ISAS)
def test_the_knobs_choose(monkeypatch, isa):
    monkeypatch.setenv("KPARITY_CPU_ISA", isa)
    for threads, label in (("2", "2 threads"), ("1", "1 thread")):
        monkeypatch.setenv("KPARITY_THREADS", threads)
        with closing(CpuBackend.open()) as backend:
            assert backend.info.label == f"cpu ({cpu.isas()[isa]}, {label})" and backend.info.kind == "cpu"
            op = ops.get("rope")
            assert backend.build(op, op.case(M=1, H=1, D=2)).id == f"rope_{isa}_neox"


def test_only_device_zero_exists_and_none_without_the_native_module(monkeypatch):
    for backend, code in ((CpuBackend, "KP-CPU-NODEVICE"), (NumpyBackend, "KP-NUMPY-NODEVICE")):
        with refused(Unavailable, code):
            backend.open(1)
    monkeypatch.setattr(cpu, "_native", None)
    monkeypatch.setattr(cpu, "_missing", "No module named 'kparity._native'", raising=False)
    with refused(Unavailable, "KP-CPU-NONATIVE"):
        CpuBackend.open()


def test_upload_copies_every_array_to_a_cache_line(own):
    backend = own(1)
    array = np.arange(1 << 19, dtype=np.float32)[None]
    array.flags.writeable = False
    buffers = [backend.upload(array[:, :width]) for width in (1 << 19, (1 << 19) - 1, 3, 0)] + [backend.upload(array)]
    for buffer in buffers:
        assert not np.shares_memory(buffer.handle, array)
        assert buffer.handle.ctypes.data % 64 == 0 or buffer.handle.size == 0
        assert np.array_equal(buffer.handle, array[:, : buffer.shape[1]])
    assert not any(np.shares_memory(a.handle, b.handle) for a, b in pairwise(buffers))
    backend.write(buffers[0], np.zeros((1, 1 << 19), np.float32))
    assert np.array_equal(buffers[-1].handle, array)


def test_large_arrays_share_chunks_and_outlive_their_backend():
    backend, count = CpuBackend(threads=1), 40
    rows = [np.full((1, 1 << 20), value, np.float32) for value in range(count)]  # 160 MiB: three chunks
    buffers = [backend.upload(row) for row in rows]
    chunks = {id(base(buffer.handle)) for buffer in buffers}
    assert 1 < len(chunks) < count
    assert backend.empty((1, 1 << 25), "f32").handle.nbytes == 128 << 20  # larger than a chunk
    backend.close()
    del backend
    assert all((buffer.handle == value).all() for value, buffer in enumerate(buffers))


def base(array: np.ndarray) -> object:
    """The allocation that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_a_closed_backend_says_so():
    backend = CpuBackend(threads=2)
    program, _ = twos(backend)
    backend.close()
    backend.close()
    with pytest.raises(DeviceFault, match="closed"):
        program.run()
