"""What only the wgpu adapter does: naming its device, refusing, mapping compiler and device errors, its clock."""

from __future__ import annotations

import ctypes
import logging
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kparity import ops
from kparity.backends import wgpu as adapter
from kparity.device import vulkan
from kparity.device.adapter import Buffer
from kparity.errors import CompileFailed, DeviceFault, Unavailable, WrongInput
from kparity.kernels.add import Add
from kparity.ops import assemble
from kparity.ops.assemble import Source, wgsl_source
from kparity.ops.spec import Arg, Case, Grid, Stage
from tests.cli import python
from tests.conftest import needing
from tests.refusals import refused

ADD = ops.get("add")


@contextmanager
def opened() -> Iterator[adapter.WgpuBackend]:
    with needing("wgpu"):
        backend = adapter.WgpuBackend.open()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[adapter.WgpuBackend]:
    with opened() as backend:
        yield backend


def add_case(width: int = 8) -> Case:
    return ADD.case(M=1, D=width)


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


def test_device_info_and_a_silent_opening(shared: adapter.WgpuBackend, capfd: pytest.CaptureFixture[str]) -> None:
    with opened() as another:
        info = another.info
    assert capfd.readouterr() == ("", "")
    assert info.api in adapter.APIS and info.driver
    assert re.fullmatch(r"pci:[0-9a-f:.]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", info.uuid)
    assert info.library.startswith("wgpu ") and "wgpu-native" in info.library
    assert info.max_binding >= 128 << 20 and info.max_threads >= 256
    if "llvmpipe" in info.device:
        assert info.kind == "software" and "Mesa" in info.driver and info.label.endswith("software)")


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wgpu", None)
    with refused(Unavailable, "KP-WGPU-NOLIB", "cannot be imported", "[vulkan]"):
        adapter.WgpuBackend.open()


def test_no_such_adapter_and_too_small_a_one(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "no Vulkan adapter 99", shared.info.device, "mesa-vulkan-drivers"
    with refused(Unavailable, "KP-WGPU-NODEVICE", *words):
        adapter.WgpuBackend.open(99)
    monkeypatch.setitem(adapter.NEEDED, "max-compute-workgroup-size-x", 1 << 30)
    with refused(Unavailable, "KP-WGPU-LIMITS", "max-compute-workgroup-size-x is"):
        adapter.WgpuBackend.open()


@pytest.mark.skipif(sys.platform != "linux", reason="the Vulkan loader of other systems has other ways")
def test_no_adapter_at_all() -> None:
    pytest.importorskip("wgpu")
    code = (
        "from kparity.backends.wgpu import WgpuBackend\n"
        "try: WgpuBackend.open()\n"
        "except Exception as error: print(error.code)"
    )
    nothing = dict.fromkeys(("VK_DRIVER_FILES", "VK_ICD_FILENAMES"), "/nonexistent.json")
    assert python(code, env=nothing) == "KP-WGPU-NODEVICE\n"


def test_supports_names_the_reason_looking_at_every_stage_and_at_scratch(shared, monkeypatch) -> None:
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
    assert shared.supports(ADD, add_case()) == "3 storage buffers"
    assert shared.supports(Twice(), add_case()) == "4 storage buffers"


LAYOUT = """@group(0) @binding(7) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main() { y[0] = 1.0; }
"""


def test_compile_and_layout_errors_point_into_the_op(shared: adapter.WgpuBackend) -> None:
    text = "const M: u32 = 1u;\nconst D: u32 = 8u;\n// the op\nfn broken( {\n"
    with pytest.raises(CompileFailed, match="expected identifier") as caught:
        shared._compile(Source("add", "kernels/add/add.wgsl", text, 2), (True, True, False), ["add"])
    assert (caught.value.path, caught.value.line) == ("kernels/add/add.wgsl", 2)
    with pytest.raises(CompileFailed) as caught:
        shared._compile(Source("add", "kernels/add/add.wgsl", LAYOUT, 0), (True, True, False), ["main"])
    assert "binding: 7 } is not available in the pipeline layout" in caught.value.log
    shared.sync()  # the compiler's log is no fault of the device


def test_pipelines_are_built_once_and_what_is_written_is_bound_once(shared: adapter.WgpuBackend) -> None:
    first, second = shared.build(ADD, add_case()), shared.build(ADD, add_case())
    assert first.dispatches[0][0] is second.dispatches[0][0]
    assert first.id == "add_wgsl_generic"
    assert shared.build(ADD, add_case(9)).dispatches[0][0] is not first.dispatches[0][0]
    a, _, y = add_buffers(shared)
    with pytest.raises(WrongInput, match="bound twice"):
        first.bind(a, y, y)
    first.bind(a, a, y)  # reading one buffer twice is no aliasing


def test_a_device_without_memory_and_a_lost_one() -> None:
    with opened() as own:
        with refused(DeviceFault, "KP-DEVICE-OOM"):
            own.empty((own.limits["max-buffer-size"] // 4 + 1,), "f32")
        program = own.record([own.build(ADD, add_case()).bind(*add_buffers(own))])
        own.device.destroy()
        calls: list[Any] = [own.sync, program.run, lambda: add_buffers(own), lambda: own.build(ADD, add_case(9))]
        for call in calls:
            with refused(DeviceFault, "KP-DEVICE-LOST", "lost"):
                call()


def test_logged_errors_are_faults_of_the_device_that_was_called(shared: adapter.WgpuBackend) -> None:
    log = logging.getLogger("wgpu")
    with opened() as other:
        with refused(DeviceFault, "KP-DEVICE-FAULT", "no call raises"), other.guarded():
            log.error("an error that no call raises")
        shared.sync()
        other.sync()
        shared.faults.emit(log.makeRecord("wgpu", logging.ERROR, "", 0, "of a thread of wgpu's own", (), None))
        log.error("DEVICE LOST!")
        other.sync()
        with refused(DeviceFault, "KP-DEVICE-FAULT", "of a thread"):  # and not lost: it answers
            shared.sync()
        shared.sync()
        other.device.destroy()
        with refused(DeviceFault, "KP-DEVICE-LOST", "lost"):
            other.sync()
        shared.sync()


def assembled(monkeypatch: pytest.MonkeyPatch, text: str, **preludes: str) -> str:
    """``text`` as if it were add.wgsl (where M is 1 and D is 8), without the declarations of constants before it."""
    files: Mapping[str, str] = {f"prelude/{name}.wgsl": each for name, each in preludes.items()}
    monkeypatch.setattr(assemble, "kernel_text", {**files, "add/add.wgsl": text}.__getitem__)
    source = wgsl_source(ADD, add_case())
    assert source.text.count("\n") == source.first_line + text.count("\n")  # lines of errors are lines of the file
    return "\n".join(line for line in source.text.splitlines() if line and not line.startswith("const "))


def test_directives_choose_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\n//#if D == 8\nb\n//#else\nc\n//#endif\n  //#if D > 8\nd\n  //#else\ne\n  //#endif\nf // #if\n"
    assert assembled(monkeypatch, text) == "a\nb\ne\nf // #if"
    for condition, kept in (("D != 8", ""), ("D < 9", "a"), ("D < 8", ""), ("D % 3 == 2", "a"), ("D % 4 > 0", "")):
        assert assembled(monkeypatch, f"//#if {condition}\na\n//#endif\n") == kept
    assert assembled(monkeypatch, "//#use two\n//#use one\nc\n", one="a\n", two="b\n") == "b\na\nc"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        *((1, text) for text in ("//#if D == 8\na\n", "//#else\n//#endif\n", "//#if D == 8\n//#else\n")),
        *((1, text) for text in ("//#if D\n//#endif\n", "//#if D % 0 == 0\n//#endif\n")),
        *((1, text) for text in ("//#use one two\n", "//#elif D == 8\n")),
        *((2, text) for text in ("a\n//#endif\n", "a\n//#if NOTHING == 1\n//#endif\n")),
        *((2, text) for text in ("//#if D == 8 \n//#endif // D\n", "//#if D == 8\n//#if M == 1\n//#endif\n//#endif\n")),
        (3, "//#if D == 8\n//#else\n//#else\n//#endif\n"),
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


def test_a_program_is_one_pass_whose_stages_follow_each_other_and_share_scratch(shared, monkeypatch) -> None:
    add = shared.build(ADD, add_case(64))
    monkeypatch.setattr(assemble, "kernel_text", {"add/add.wgsl": TWICE}.__getitem__)
    assert shared.supports(Twice(), add_case(64)) is None
    twice = shared.build(Twice(), add_case(64))
    a, b, y = add_buffers(shared, 64)
    shared.record([twice.bind(a, b, y), twice.bind(y, b, a)]).run()
    assert np.array_equal(shared.download(a)[0], 9 * np.arange(64, dtype=np.float32))
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
    before = shared.dispatches.total
    program.run()
    assert len(passes) == 1
    assert shared.dispatches.total == before + 15  # a run is one dispatch, however many stages it has
    assert np.array_equal(shared.download(y)[0], 33 * np.arange(64, dtype=np.float32))  # a grows by 3b each time


def test_large_upload_in_pieces(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "STAGING", 4096)
    values = np.arange(10_000, dtype=np.uint32)
    assert np.array_equal(shared.download(shared.upload(values)), values)


def test_device_seconds(shared: adapter.WgpuBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    op = ops.get("tgemv")
    case = op.case(M=1, N=512, K=2560)
    inputs = [shared.upload(array) for array in op.inputs(case, np.random.default_rng(case.seed()))]
    program = shared.record([shared.build(op, case).bind(*inputs, shared.empty((1, 512), "f32"))] * 10)
    program.run_timed()  # compiles
    before = shared.dispatches.total
    assert 0 < program.run_timed() < 10 and shared.dispatches.total == before + 10
    monkeypatch.setattr(shared, "clock", None)
    assert 0 < program.run_timed() < 10  # of the wall


CARD = "NVIDIA GeForce RTX 4090"
UUIDS = {"": bytes(16), "A": bytes(range(16)), "B": bytes(range(1, 17))}


def loader(*cards: tuple[str, str, int | None]) -> Any:
    """A Vulkan loader whose cards have a name, a UUID, and a bus where the driver tells it; written byte by byte, where
    the specification has each field on a 64-bit system.
    """

    def told(handle: Any, properties: Any) -> None:
        name, uuid, bus = cards[handle.value - 1]
        at = ctypes.addressof(properties._obj)
        ctypes.memmove(at + 24, struct.pack("<III", 0x10DE, 0x2684, 2) + name.encode(), 12 + len(name))
        while at := ctypes.c_void_p.from_address(at + 8).value or 0:
            kind = ctypes.c_uint32.from_address(at).value
            if kind == 1000071004:
                ctypes.memmove(at + 16, UUIDS[uuid], 16)
            elif kind == 1000212000 and bus is not None:
                ctypes.memmove(at + 16, struct.pack("<IIII", 0, bus, 0, 0), 16)

    def listed(_instance: Any, count: Any, handles: Any) -> int:
        for at in range(len(cards)):
            handles[at] = at + 1
        count._obj.value = len(cards)
        return 0

    return SimpleNamespace(
        vkCreateInstance=lambda *_: 0, vkDestroyInstance=lambda *_: None, vkEnumeratePhysicalDevices=listed,
        vkGetPhysicalDeviceProperties2=told,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cards", "wanted"),
    [
        ([(CARD, "A", 0x41)], "pci 0000:41:00.0"),
        ([(CARD, "A", None)], "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ([(CARD, "", None)], ""),
        ([("another", "A", 0x41)], ""),
        ([(CARD, "A", 0x41), ("another", "B", 0x42)], "pci 0000:41:00.0"),
        ([(CARD, "A", 0x41), (CARD, "B", 0x42)], ""),
        ([(CARD, "A", None), (CARD, "A", None)], ""),
        ([(CARD, "A", None), (CARD, "B", None)], ""),
        ([(CARD, "A", 0x41), (CARD, "B", 0x41)], "pci 0000:41:00.0"),
    ],
    ids=["bus", "UUID", "neither", "another one", "beside another one", "two of a kind", "two of one UUID", "two UUIDs",
         "two drivers of one card"],
)  # fmt: skip
def test_a_card_is_known_by_what_the_loader_says_unless_two_are_alike(
    cards: list[tuple[str, str, int | None]], wanted: str
) -> None:
    assert vulkan.identity(vulkan.adapters(loader(*cards)), 0x10DE, 0x2684, CARD) == wanted


def test_a_loader_that_lacks_or_refuses_knows_nothing() -> None:
    assert vulkan.adapters(None) == vulkan.adapters(SimpleNamespace()) == []
    assert vulkan.adapters(SimpleNamespace(vkCreateInstance=lambda *_: -9)) == []


def test_this_device_has_the_identity_that_its_loader_tells(shared: adapter.WgpuBackend) -> None:
    info = shared.info
    found = [each for each in vulkan.adapters(vulkan.loader()) if each.name == info.device]
    assert len(found) == 1 and info.uuid == (found[0].place or found[0].uuid) != ""
