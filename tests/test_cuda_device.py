"""The cuda adapter on a device: what ``test_cuda_fake.py`` assumes about CUDA and CuPy, asked of the real ones.

    pytest -m gpu tests/test_cuda_device.py       skipped where there is no device
    KPARITY_REQUIRE=cuda pytest -m gpu …          fails there

Whatever leaves a device unusable runs in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends import _cupy
from kparity.backends.cuda import CudaBackend
from kparity.device.adapter import Buffer
from kparity.engine import Engine
from kparity.errors import DeviceFault
from kparity.model import load_model
from kparity.ops.spec import DTYPES
from tests.cli import python
from tests.conftest import needing
from tests.refusals import refused

pytestmark = pytest.mark.gpu

TOKENS = [0, 300, 17, 901, 44, 5, 1200, 33, 8, 77, 640, 2, 19, 4, 256, 700]


@pytest.fixture
def device() -> Iterator[CudaBackend]:
    with needing("cuda", "gpu"):
        found = CudaBackend.open()
    yield found
    found.close()


def logits(backend: CudaBackend, eager: bool) -> list[np.ndarray]:
    """Logits of steps, of a prefill and of scored rows, with every launch by itself or as the engine does it."""
    engine = Engine(load_model(None), backend, chunk=8)
    for key in ((1, False), (8, False), (8, True)):
        program: Any = engine.recorded(*key).program
        if eager:
            program.run = program.run_eager
    found = [engine.step(token) for token in TOKENS]
    engine.reset()
    found += [engine.prefill(TOKENS), np.array(list(engine.generate([7], 8)))]
    engine.reset()
    return [*found, engine.score(TOKENS)]


def adds(backend: CudaBackend, rows: int, count: int) -> tuple[Any, list[Buffer]]:
    """A program that adds 1 to a table of 1024 columns ``count`` times, to and fro between two buffers."""
    case = ops.get("add").case(M=rows, D=1024)
    kernel = backend.build(ops.get("add"), case)
    one = backend.upload(np.ones((rows, 1024), np.float32))
    a, b = (backend.upload(np.zeros((rows, 1024), np.float32)) for _ in range(2))
    pairs = [(a, b) if at % 2 == 0 else (b, a) for at in range(count)]
    return backend.record([kernel.bind(source, one, target) for source, target in pairs]), [a, b]


def test_replay_is_eager_bit_for_bit(device: CudaBackend) -> None:
    replayed, eager = logits(device, eager=False), logits(device, eager=True)
    assert device.graphs, device.info.detail
    assert all(np.isfinite(one).all() for one in replayed)
    assert [one.tobytes() for one in replayed] == [one.tobytes() for one in eager]
    assert [one.tobytes() for one in logits(device, eager=False)] == [one.tobytes() for one in eager]


def test_a_graph_knows_its_nodes(device: CudaBackend) -> None:
    program, _ = adds(device, 1, 7)
    program.run()
    assert program.replayed
    assert device.graph_nodes(program._graph) == 7, "the driver does not tell: a lost launch would not be seen"


def test_device_time_fits_the_wall(device: CudaBackend) -> None:
    program, _ = adds(device, 65536, 40)  # 768 MB a launch
    program.run_timed()
    started = time.perf_counter()
    program.run()
    device.sync()
    wall = time.perf_counter() - started
    seconds = min(program.run_timed() for _ in range(3))
    assert 0.5 * wall < seconds < 1.1 * wall, f"device {seconds * 1e3:.2f} ms, wall {wall * 1e3:.2f} ms"
    floor = 40 * 3 * 4 * 65536 * 1024 / 20e12  # no device moves 20 TB/s
    assert seconds > floor


def test_a_thousand_quick_writes_arrive_in_order(device: CudaBackend) -> None:
    slow, _ = adds(device, 65536, 20)  # keeps the device busy while the host runs ahead
    case = ops.get("add").case(M=1, D=1024)
    kernel = device.build(ops.get("add"), case)
    zero, source = (device.upload(np.zeros((1, 1024), np.float32)) for _ in range(2))
    targets = [device.empty((1, 1024), "f32") for _ in range(1000)]
    copies = [device.record([kernel.bind(source, zero, target)]) for target in targets]
    array = np.empty((1, 1024), np.float32)
    assert array.nbytes <= _cupy.SMALL[1]
    slow.run()
    for at, copy in enumerate(copies):
        array[:] = at
        device.write(source, array)
        array[:] = np.nan
        copy.run()
    found = np.stack([device.download(target)[0] for target in targets])
    assert (found == np.arange(1000, dtype=np.float32)[:, None]).all()


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 4097, (8 << 20) - 1, (8 << 20) + 1, 100_000_003])
def test_bytes_of_every_size_survive(device: CudaBackend, nbytes: int) -> None:
    array = np.random.default_rng(nbytes).integers(-128, 128, nbytes, dtype=np.int8)
    assert device.download(device.upload(array)).tobytes() == array.tobytes()


def test_out_of_memory_is_no_end(device: CudaBackend) -> None:
    for _ in range(2):
        with refused(DeviceFault, "KP-DEVICE-OOM"):
            device.empty((1 << 40,), "f32")
    program, buffers = adds(device, 2, 3)
    program.run()
    assert (device.download(buffers[1]) == 3).all()


def test_the_device_is_told_as_the_driver_tells_it(device: CudaBackend) -> None:
    info = device.info
    assert info.kind == "gpu" and info.subgroup == 32 and " 0 SMs" not in info.detail and " 0 MHz" not in info.detail
    if shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not installed")
    query = "--query-gpu=uuid,name,driver_version"
    done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=True)
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    row = next((row for row in rows if row[0] == info.uuid), None)
    assert row is not None, f"{info.uuid} is none of {rows}"
    assert row[1] == info.device and info.driver.endswith(f", release {row[2]}")


def child(code: str, **environment: str) -> dict[str, Any]:
    """What a fresh process prints as JSON in its last line."""
    answer: dict[str, Any] = json.loads(python(code, env=environment).splitlines()[-1])
    return answer


ILLEGAL = """
import json, numpy as np
from kparity import ops
from kparity.device.adapter import Buffer
from kparity.backends.cuda import CudaBackend
from kparity.errors import DeviceFault
backend = CudaBackend.open()
cupy = backend.cupy
nowhere = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(1 << 46, 4096, None, 0), 0)
wrong = Buffer(cupy.ndarray((1, 1024), np.float32, nowhere), "f32", (1, 1024))
add, glu = ops.get("add"), ops.get("glu")
a, b, c = (backend.upload(np.zeros((1, 1024), np.float32)) for _ in range(3))
good = backend.build(glu, glu.case(M=1, D=1024)).bind(a, b, c)
bad = backend.build(add, add.case(M=1, D=1024)).bind(a, b, wrong)
program = backend.record([good, bad, good])
seen = []
for what in (program.run, backend.sync, lambda: backend.download(c), lambda: backend.empty((9,), "f32")):
    try:
        what()
        seen.append(None)
    except DeviceFault as fault:
        seen.append([fault.code, str(fault)])
backend.close()
print(json.dumps({"seen": seen}))
"""


def test_an_illegal_address_is_a_fault_and_debug_mode_names_its_kernel(device: CudaBackend) -> None:
    seen = child(ILLEGAL, KPARITY_DEBUG="")["seen"]
    assert seen[0] is None, "a replay waits for the device"
    assert seen[1] is not None and seen[1][0] == "KP-DEVICE-FAULT" and "KPARITY_DEBUG=1" in seen[1][1]
    assert seen[2] is not None, "a broken device answers"
    assert device.download(device.upload(np.ones(3, np.float32))).sum() == 3  # this process is not concerned
    code, message = child(ILLEGAL, KPARITY_DEBUG="1")["seen"][0]
    assert code == "KP-DEVICE-FAULT" and "add_cuda_generic (add[D=1024,M=1]" in message and "grid" in message


def test_hidden_devices_are_not_there(device: CudaBackend) -> None:
    code = """
import json
from kparity.backends.cuda import CudaBackend
from kparity.errors import Unavailable
try:
    CudaBackend.open()
    print(json.dumps({"code": ""}))
except Unavailable as missing:
    print(json.dumps({"code": missing.code, "text": str(missing)}))
"""
    found = child(code, CUDA_VISIBLE_DEVICES="")
    assert found["code"] == "KP-CUDA-NODEVICE" and "CUDA_VISIBLE_DEVICES is empty" in found["text"]
    assert child(code, CUDA_VISIBLE_DEVICES=device.info.uuid)["code"] == ""  # the UUID is the one that CUDA knows


def test_a_second_process_compiles_nothing(device: CudaBackend) -> None:
    code = """
import json
from kparity.backends.cuda import CudaBackend
from kparity.engine import Engine
from kparity.model import load_model
backend = CudaBackend.open()
Engine(load_model(None), backend).step(0)
print(json.dumps({"compiled": backend.compiler.compiled}))
"""
    child(code)
    assert child(code)["compiled"] == 0


def test_all_ops_in_one_graph(device: CudaBackend) -> None:
    """What a kernel leaves behind (scratch, shared memory) must not reach the next one, in any order."""
    launches, outputs = [], []
    for op in ops.every():
        case = op.cases()[0]
        kernel, left = device.build(op, case), iter(op.inputs(case, np.random.default_rng(case.seed())))
        if any(arg.role == "inout" for arg in kernel.args):
            continue
        filled = [next(left) if arg.role == "in" else np.ones(arg.shape, DTYPES[arg.dtype]) for arg in kernel.args]
        buffers = [device.upload(array) for array in filled]
        launches.append(kernel.bind(*buffers))
        outputs += [buffer for arg, buffer in zip(kernel.args, buffers, strict=True) if arg.role == "out"]
    program = device.record([*launches, *reversed(launches)])
    program.run()
    replayed = [device.download(buffer).tobytes() for buffer in outputs]
    program.run_eager()
    assert replayed == [device.download(buffer).tobytes() for buffer in outputs]
