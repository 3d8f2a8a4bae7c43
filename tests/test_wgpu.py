"""What only the wgpu adapter does: naming its device, refusing, mapping compiler and device errors, its clock."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends import wgpu as adapter
from kparity.device.adapter import Buffer
from kparity.errors import CompileFailed, DeviceFault, Unavailable, WrongInput
from kparity.kernels.add import Add
from kparity.ops import assemble
from kparity.ops.assemble import Source, wgsl_source
from kparity.ops.spec import Arg, Case, Grid, Stage
from tests.conftest import needing


def opened() -> adapter.WgpuBackend:
    with needing("wgpu"):
        return adapter.WgpuBackend.open()


@pytest.fixture(scope="module")
def shared() -> Iterator[adapter.WgpuBackend]:
    backend = opened()
    yield backend
    backend.close()


@pytest.fixture
def own() -> Iterator[adapter.WgpuBackend]:
    """A device that the test may break."""
    backend = opened()
    yield backend
    backend.close()


def add_case(width: int = 8) -> Case:
    return ops.get("add").case(M=1, D=width)


def add_buffers(backend: adapter.WgpuBackend, width: int = 8) -> list[Buffer]:
    values = np.arange(width, dtype=np.float32)[None]
    return [backend.upload(values), backend.upload(2 * values), backend.empty((1, width), "f32")]


@pytest.mark.parametrize(
    ("adapter_type", "device", "kind"),
    [
        ("DiscreteGPU", "NVIDIA H200", "gpu"),
        ("IntegratedGPU", "Intel(R) Iris(R) Xe", "gpu"),
        ("VirtualGPU", "Virtio-GPU Venus (NVIDIA L4)", "gpu"),
        ("CPU", "llvmpipe (LLVM 15.0.6, 256 bits)", "software"),
        ("DiscreteGPU", "llvmpipe (LLVM 15.0.6, 256 bits)", "software"),
        ("VirtualGPU", "Virtio-GPU Venus (llvmpipe)", "software"),
        ("IntegratedGPU", "SwiftShader Device (Subzero)", "software"),
        ("Unknown", "NVIDIA H200", "software"),
        ("CPU", "NVIDIA H200", "software"),
    ],
)
def test_kind_is_never_guessed_upwards(adapter_type: str, device: str, kind: str) -> None:
    assert adapter.kind_of(adapter_type, device) == kind


def test_device_info(shared: adapter.WgpuBackend) -> None:
    info = shared.info
    assert info.api in adapter.APIS and info.driver and info.uuid.startswith("pci:")
    assert info.library.startswith("wgpu ") and "wgpu-native" in info.library
    assert info.max_binding >= 128 << 20 and info.max_threads >= 256
    if "llvmpipe" in info.device:
        assert info.kind == "software" and "Mesa" in info.driver and info.label.endswith("software)")


def test_opening_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    opened().close()
    assert capfd.readouterr() == ("", "")


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wgpu", None)
    with pytest.raises(Unavailable, match="cannot be imported") as caught:
        adapter.WgpuBackend.open()
    assert caught.value.code == "KP-WGPU-NOLIB"
    assert "kparity[vulkan]" in caught.value.remedy


def test_no_such_adapter(shared: adapter.WgpuBackend) -> None:
    with pytest.raises(Unavailable, match="no Vulkan adapter 99") as caught:
        adapter.WgpuBackend.open(99)
    assert caught.value.code == "KP-WGPU-NODEVICE"
    assert shared.info.device in caught.value.reason
    assert "mesa-vulkan-drivers" in caught.value.remedy


def test_no_adapter_at_all() -> None:
    pytest.importorskip("wgpu")
    code = (
        "import os; os.environ['VK_DRIVER_FILES'] = os.environ['VK_ICD_FILENAMES'] = '/nonexistent.json'\n"
        "from kparity.backends.wgpu import WgpuBackend\n"
        "try: WgpuBackend.open()\n"
        "except Exception as error: print(error.code)"
    )
    if sys.platform != "linux":
        pytest.skip("the Vulkan loader of other systems has other ways")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "KP-WGPU-NODEVICE\n"


def test_too_small_a_device(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adapter.NEEDED, "max-compute-workgroup-size-x", 1 << 30)
    with pytest.raises(Unavailable, match="max-compute-workgroup-size-x is") as caught:
        adapter.WgpuBackend.open()
    assert caught.value.code == "KP-WGPU-LIMITS"


def test_supports_names_the_reason_looking_at_every_stage_and_at_scratch(
    shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemv = ops.get("tgemv")
    assert shared.supports(gemv, gemv.case(M=1, N=2560, K=2560)) is None
    wide = gemv.case(M=1, N=1 << 17, K=8192)
    assert "grid of (131072, 1, 1)" in str(shared.supports(gemv, wide))
    head = ops.get("dense_gemv")
    rows = shared.info.max_binding // 5120 + 1
    assert "one binding of this device holds" in str(shared.supports(head, head.case(M=1, N=rows, K=2560)))
    assert "grid of (70000, 1, 1)" in str(shared.supports(Twice(groups=70_000), add_case()))
    large = shared.info.max_binding // 4 + 1
    assert str(shared.supports(Twice(size=large), add_case())).startswith(f"t has {4 * large} bytes")
    monkeypatch.setitem(shared.limits, "max-storage-buffers-per-shader-stage", 2)
    assert shared.supports(ops.get("add"), add_case()) == "3 storage buffers"
    assert shared.supports(Twice(), add_case()) == "4 storage buffers"


def test_compile_error_points_into_the_op(shared: adapter.WgpuBackend) -> None:
    text = "const M: u32 = 1u;\nconst D: u32 = 8u;\n// the op\nfn broken( {\n"
    with pytest.raises(CompileFailed) as caught:
        shared._compile(Source("add", "kernels/add/add.wgsl", text, 2), (True, True, False), ["add"])
    assert (caught.value.path, caught.value.line) == ("kernels/add/add.wgsl", 2)
    assert "expected identifier" in str(caught.value)
    shared.sync()  # the compiler's log is no fault of the device


def test_layout_error_is_a_compile_error(shared: adapter.WgpuBackend) -> None:
    text = (
        "@group(0) @binding(7) var<storage, read_write> y: array<f32>;\n"
        "@compute @workgroup_size(64)\nfn main() { y[0] = 1.0; }\n"
    )
    with pytest.raises(CompileFailed) as caught:
        shared._compile(Source("add", "kernels/add/add.wgsl", text, 0), (True, True, False), ["main"])
    assert "binding: 7 } is not available in the pipeline layout" in caught.value.log


def test_pipelines_are_built_once(shared: adapter.WgpuBackend) -> None:
    op = ops.get("add")
    first, second = shared.build(op, add_case()), shared.build(op, add_case())
    assert first.dispatches[0][0] is second.dispatches[0][0]
    assert first.id == "add_wgsl_generic"
    assert shared.build(op, add_case(9)).dispatches[0][0] is not first.dispatches[0][0]


def test_lost_device(own: adapter.WgpuBackend) -> None:
    program = own.record([own.build(ops.get("add"), add_case()).bind(*add_buffers(own))])
    own.device.destroy()
    calls: list[Any] = [own.sync, program.run, lambda: add_buffers(own), lambda: own.build(ops.get("add"), add_case(9))]
    for call in calls:
        with pytest.raises(DeviceFault, match="lost") as caught:
            call()
        assert caught.value.code == "KP-DEVICE-LOST"


def test_out_of_memory(own: adapter.WgpuBackend) -> None:
    with pytest.raises(DeviceFault) as caught:
        own.empty((own.limits["max-buffer-size"] // 4 + 1,), "f32")
    assert caught.value.code == "KP-DEVICE-OOM"


def test_logged_errors_are_faults_but_for_the_loss_of_another_device(shared: adapter.WgpuBackend) -> None:
    logging.getLogger("wgpu").error("an error that no call raises")
    with pytest.raises(DeviceFault, match="no call raises") as caught:
        shared.sync()
    assert caught.value.code == "KP-DEVICE-FAULT"
    shared.sync()
    logging.getLogger("wgpu").error("DEVICE LOST!")
    shared.sync()


def assembled(monkeypatch: pytest.MonkeyPatch, text: str, **preludes: str) -> str:
    """``text`` as if it were add.wgsl (where M is 1 and D is 8), without the declarations of constants before it."""
    files: Mapping[str, str] = {f"prelude/{name}.wgsl": each for name, each in preludes.items()}
    monkeypatch.setattr(assemble, "kernel_text", {**files, "add/add.wgsl": text}.__getitem__)
    source = wgsl_source(ops.get("add"), add_case())
    assert source.text.count("\n") == source.first_line + text.count("\n")  # lines of errors are lines of the file
    return "\n".join(line for line in source.text.splitlines() if line and not line.startswith("const "))


def test_directives_choose_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\n//#if D == 8\nb\n//#else\nc\n//#endif\n  //#if D > 8\nd\n  //#else\ne\n  //#endif\nf // #if\n"
    assert assembled(monkeypatch, text) == "a\nb\ne\nf // #if"
    for condition, kept in (("D != 8", ""), ("D < 9", "a"), ("D < 8", ""), ("D % 3 == 2", "a"), ("D % 4 > 0", "")):
        assert assembled(monkeypatch, f"//#if {condition}\na\n//#endif\n") == kept
    assert assembled(monkeypatch, "//#use two\n//#use one\nc\n", one="a\n", two="b\n") == "b\na\nc"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("//#if D == 8\na\n", 1),
        ("a\n//#endif\n", 2),
        ("//#else\n//#endif\n", 1),
        ("//#if D == 8\n//#else\n//#else\n//#endif\n", 3),
        ("//#if D == 8\n//#else\n", 1),
        ("//#if D == 8\n//#if M == 1\n//#endif\n//#endif\n", 2),
        ("a\n//#if NOTHING == 1\n//#endif\n", 2),
        ("//#if D\n//#endif\n", 1),
        ("//#if D % 0 == 0\n//#endif\n", 1),
        ("//#if D == 8 \n//#endif // D\n", 2),
        ("//#use one two\n", 1),
        ("//#elif D == 8\n", 1),
    ],
)
def test_strange_directives_are_refused(monkeypatch: pytest.MonkeyPatch, text: str, line: int) -> None:
    with pytest.raises(CompileFailed) as caught:
        assembled(monkeypatch, text)
    assert (caught.value.path, caught.value.line) == ("kernels/add/add.wgsl", line)


@pytest.mark.parametrize("name", ops.NAMES)
def test_every_argument_is_bound(name: str) -> None:
    op = ops.get(name)
    for case in op.cases():
        text = wgsl_source(op, case).text
        for at, arg in enumerate((*op.args(case), *op.scratch(case, "wgsl"))):
            access = "read" if arg.role == "in" and at < len(op.args(case)) else "read_write"
            assert f"@binding({at}) var<storage, {access}> {arg.name}: " in text, f"{case.id}: {arg.name}"
        assert text.count("@binding(") == at + 1
        for stage in op.stages(case, "wgsl"):
            assert f"fn {stage.entry}(" in text


class Twice(Add):
    """add in two launches: t = a + b into scratch, then y = t + b."""

    def __init__(self, size: int = 256, groups: int = 1) -> None:
        self.size, self.groups = size, groups

    def stages(self, case: Case, dialect: str) -> tuple[Stage, ...]:
        assert dialect == "wgsl"
        return Stage("sum", Grid((1, 1, 1), 64)), Stage("again", Grid((self.groups, 1, 1), 64))

    def scratch(self, case: Case, dialect: str) -> tuple[Arg, ...]:
        return (Arg("t", "f32", (self.size,)),)


TWICE = """
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> t: array<f32>;
@compute @workgroup_size(64)
fn sum(@builtin(local_invocation_id) local: vec3<u32>) {
    t[local.x] = a[local.x] + b[local.x];
}
@compute @workgroup_size(64)
fn again(@builtin(local_invocation_id) local: vec3<u32>) {
    let turned = 63u - local.x; // what another lane of the stage before has written
    y[turned] = t[turned] + b[turned];
}
"""


def test_stages_follow_each_other_and_share_scratch(
    shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "kernel_text", {"add/add.wgsl": TWICE}.__getitem__)
    op = Twice()
    assert shared.supports(op, add_case(64)) is None
    kernel = shared.build(op, add_case(64))
    a, b, y = add_buffers(shared, 64)
    launches: Sequence[Any] = [kernel.bind(a, b, y), kernel.bind(y, b, a)]
    before = shared.dispatches.counts.get(kernel.id, 0)
    shared.record(launches).run()
    assert np.array_equal(shared.download(a)[0], 9 * np.arange(64, dtype=np.float32))
    assert shared.dispatches.counts[kernel.id] == before + 2  # a run is one dispatch, however many stages it has


def test_a_program_is_one_pass(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    add = shared.build(ops.get("add"), add_case(64))
    monkeypatch.setattr(assemble, "kernel_text", {"add/add.wgsl": TWICE}.__getitem__)
    twice = shared.build(Twice(), add_case(64))
    a, b, y = add_buffers(shared, 64)
    program = shared.record([add.bind(a, b, y), twice.bind(y, b, a), add.bind(a, b, y)] * 5)
    passes: list[Any] = []
    create = shared.device.create_command_encoder

    def watched() -> Any:
        encoder = create()
        begin = encoder.begin_compute_pass
        encoder.begin_compute_pass = lambda **options: passes.append(begin(**options)) or passes[-1]
        return encoder

    monkeypatch.setattr(shared.device, "create_command_encoder", watched)
    program.run()
    assert len(passes) == 1
    assert np.array_equal(shared.download(y)[0], 33 * np.arange(64, dtype=np.float32))  # a grows by 3b each time


def test_what_is_written_is_bound_once(shared: adapter.WgpuBackend) -> None:
    kernel = shared.build(ops.get("add"), add_case())
    a, _, y = add_buffers(shared)
    with pytest.raises(WrongInput, match="bound twice"):
        kernel.bind(a, y, y)
    kernel.bind(a, a, y)  # reading one buffer twice is no aliasing


def test_large_upload_in_pieces(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "STAGING", 4096)
    values = np.arange(10_000, dtype=np.uint32)
    assert np.array_equal(shared.download(shared.upload(values)), values)


def test_device_seconds(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    op = ops.get("tgemv")
    case = op.case(M=1, N=512, K=2560)
    inputs = iter(op.inputs(case, np.random.default_rng(case.seed())))
    buffers = [
        shared.empty(arg.shape, arg.dtype) if arg.role == "out" else shared.upload(next(inputs))
        for arg in op.args(case)
    ]
    program = shared.record([shared.build(op, case).bind(*buffers)] * 10)
    program.run_timed()  # compiles
    before = shared.dispatches.total
    assert 0 < program.run_timed() < 10 and shared.dispatches.total == before + 10
    monkeypatch.setattr(shared, "clock", None)
    assert 0 < program.run_timed() < 10  # of the wall
