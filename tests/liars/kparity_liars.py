"""Backends that lie, each in one way, on top of the CPU backend; registered like anybody's backend, by entry point."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from kparity.backends.cpu import CpuBackend
from kparity.device.adapter import Buffer, Kernel, Launch, Program
from kparity.errors import DeviceFault
from kparity.ops.spec import Array, Case, Op


class Tampered(Kernel):
    """A kernel whose buffers are exchanged just before they are bound."""

    def __init__(self, inner: Kernel, change) -> None:
        super().__init__(inner.backend, inner.op, inner.case)
        self.inner, self.change = inner, change

    def bind(self, *buffers: Buffer) -> Launch:
        return self.inner.bind(*self.change(list(buffers)))


class Honest(CpuBackend):
    """Another name for the CPU backend: it must be accepted."""

    name = "liar-honest"
    told: ClassVar[dict[str, str]] = {}
    """What it says of its device beside the truth."""

    @classmethod
    def open(cls, index: int = 0):
        backend = super().open(index)
        backend.info = msgspec.structs.replace(backend.info, backend=cls.name, **cls.told)
        return backend

    def altered(self, buffer: Buffer, change) -> Buffer:
        """A buffer with changed content."""
        return self.upload(np.ascontiguousarray(change(self.download(buffer))))


class Tampering(Honest):
    """Gives other buffers to the kernels of ``op``: argument ``at`` with ``change`` made to its content."""

    op, at = "", 0
    rows: ClassVar = range(1, 1000)
    """Of the cases that are concerned."""

    def concerns(self, op: Op, case: Case) -> bool:
        """Whether a kernel is one of them."""
        return op.name == self.op and case["M"] in self.rows

    def build(self, op: Op, case: Case) -> Kernel:
        kernel = super().build(op, case)
        return Tampered(kernel, lambda b: self.given(case, b)) if self.concerns(op, case) else kernel

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        return [*b[: self.at], self.altered(b[self.at], lambda array: self.change(case, array)), *b[self.at + 1 :]]

    def change(self, case: Case, array: Array) -> Array:
        raise NotImplementedError


class Interleaved(Honest):
    name = "liar-interleaved"

    def build(self, op: Op, case: Case) -> Kernel:
        if op.name in ("rope", "rope_store"):
            other = {"neox": "interleaved", "interleaved": "neox"}[case["mode"]]
            case = op.case(**{**dict(case.params), "mode": other})
        return super().build(op, case)


class NoScale(Tampering):
    """Every weight scale is 1."""

    name, op, at = "liar-noscale", "tgemv", 1

    def change(self, case: Case, array: Array) -> Array:
        return np.ones_like(array)


class UpScaleMissing(NoScale):
    """One scale is forgotten where a norm hides it from the logits: only the exact gate can see it."""

    name = "liar-halfscale"

    def concerns(self, op: Op, case: Case) -> bool:
        return super().concerns(op, case) and case["N"] > case["K"]


class NanLogits(Tampering):
    name, op = "liar-nan", "dense_gemv"

    def change(self, case: Case, array: Array) -> Array:
        return np.full_like(array, np.nan)


class DroppedColumn(Tampering):
    """The last column of every ternary weight is ignored."""

    name, op = "liar-column", "tgemv"

    def change(self, case: Case, array: Array) -> Array:
        last = case["K"] - 1
        bit, words = 8 * (last % 4) + 2 * (last % 16 // 4), array.copy()
        words[:, last // 16] = (words[:, last // 16] & np.uint32(~(3 << bit) & 0xFFFFFFFF)) | np.uint32(1 << bit)
        return words


class SwappedColumns(Tampering):
    """Two words of every row change places: a layout of another architecture."""

    name, op = "liar-swapped", "tgemv"

    def change(self, case: Case, array: Array) -> Array:
        words = array.copy()
        words[:, [2, 5]] = words[:, [5, 2]]
        return words


class StaleAfterReset(Tampering):
    """Attention reads as many keys as ever were stored: right until the first reset."""

    name, op, rows = "liar-stale", "attention", range(1, 2)

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        if not hasattr(self, "stale"):
            self.pos_handle = b[3].handle
            self.stale = self.upload(np.zeros(1, np.int32))
        return [*b[:3], self.stale, *b[4:]]

    def write(self, buffer: Buffer, array: Array) -> None:
        super().write(buffer, array)
        if hasattr(self, "stale") and buffer.handle is self.pos_handle:
            super().write(self.stale, np.maximum(self.download(self.stale), array))


class OtherReplay(Honest):
    """A recording of several launches has the gain of its norms off by 1e-4: too little for any cosine to see."""

    name = "liar-replay"
    gain, honest = 1.0001, 1
    """What norms are off by, and in recordings of how many launches they are not."""

    def build(self, op: Op, case: Case) -> Kernel:
        kernel = super().build(op, case)
        if op.name not in ("rmsnorm", "norm_quant"):
            return kernel
        right = kernel.bind

        def bind(*buffers: Buffer) -> Launch:
            launch = right(*buffers)
            self.twins = {**getattr(self, "twins", {}), launch: right(*self.louder(list(buffers)))}
            return launch

        kernel.bind = bind
        return kernel

    def louder(self, buffers: list[Buffer]) -> list[Buffer]:
        at = next(index for index, buffer in enumerate(buffers) if len(buffer.shape) == 1 and buffer.dtype == "f32")
        return [*buffers[:at], self.altered(buffers[at], lambda w: w * np.float32(self.gain)), *buffers[at + 1 :]]

    def record(self, launches: Sequence[Launch]) -> Program:
        if len(launches) == self.honest:
            return super().record(launches)
        program = super().record([self.twins.get(launch, launch) for launch in launches])
        program.launches = list(launches)  # whoever looks sees what was asked for
        return program


class HiddenGain(OtherReplay):
    """The gain of every norm is off by 1e-3, whatever weights lie on the device: less than noise in every logit."""

    name, gain, honest = "liar-hidden", 1.001, 0


class LoudHead(Tampering):
    """The head is too loud by 5 %: cosine cannot see a factor."""

    name, op = "liar-loud", "dense_gemv"

    def change(self, case: Case, array: Array) -> Array:
        return array * array.dtype.type(1.05)


class LateNan(Honest):
    """Right for some 40 positions, NaN from then on."""

    name = "liar-late"
    seen = 0

    def download(self, buffer: Buffer) -> Array:
        got = super().download(buffer)
        if buffer.dtype == "f32" and got.ndim == 2 and got.shape[1] > 1000:
            self.seen += 1
            if self.seen > 40:
                got[:] = np.nan
        return got


class WrongBatch(Tampering):
    """Rows of a chunk see one key too few: right step by step, wrong in a prefill."""

    name, op, rows = "liar-batch", "attention", range(2, 1000)

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        if not hasattr(self, "batch_pos"):
            self.batch_pos = self.empty((case["M"],), "i32")
        self.pos_handle = b[3].handle
        return [*b[:3], self.batch_pos, *b[4:]]

    def write(self, buffer: Buffer, array: Array) -> None:
        super().write(buffer, array)
        if getattr(self, "pos_handle", None) is buffer.handle:
            super().write(self.batch_pos, np.maximum(array - 1, -1).astype(np.int32))


class HighestTie(Tampering):
    """Right logits, and the last of the largest where several are equal."""

    name, op = "liar-tie", "argmax"

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        self.chosen = {**getattr(self, "chosen", {}), id(b[1].handle): b[0]}
        return b

    def download(self, buffer: Buffer) -> Array:
        got = super().download(buffer)
        if id(buffer.handle) in getattr(self, "chosen", {}) and (got >= 0).all():
            logits = super().download(self.chosen[id(buffer.handle)])
            got[:] = logits.shape[1] - 1 - logits[:, ::-1].argmax(axis=1)
        return got


class SecondTurn(Tampering):
    """A prefill begins where its chunk begins: right as long as every prompt starts on an empty cache."""

    name, op, rows = "liar-second", "rope_store", range(2, 1000)

    def given(self, case: Case, b: list[Buffer]) -> list[Buffer]:
        self.pos_handle = getattr(self, "pos_handle", b[1].handle)
        return b

    def write(self, buffer: Buffer, array: Array) -> None:
        if getattr(self, "pos_handle", None) is buffer.handle:
            array = np.where(array < 0, array, array - array[0] % 32).astype(np.int32)
        super().write(buffer, array)


class NeverLaunched(Honest):
    """The GEMV is never started: whatever was in the output stays there."""

    name = "liar-unwritten"

    def record(self, launches: Sequence[Launch]) -> Program:
        return super().record([launch for launch in launches if not launch.kernel_id.startswith("tgemv")])


class Poser(Honest):
    """A software rasteriser that says it is a GPU."""

    name = "liar-poser"
    told: ClassVar = {"kind": "gpu", "device": "llvmpipe (LLVM 15.0.6, 256 bits)", "api": "Vulkan"}


class RenamedPoser(Honest):
    """A CPU that says it is a well-known GPU, on a host that has none."""

    name = "liar-renamed"
    told: ClassVar = {"kind": "gpu", "device": "NVIDIA H200", "api": "CUDA", "uuid": "GPU-0000"}


class NamelessPoser(RenamedPoser):
    """The same, and its API tells neither UUID nor bus."""

    name = "liar-nameless"
    told: ClassVar = {**RenamedPoser.told, "uuid": ""}


class Harmful(Honest):
    """Does ``harm`` while it builds one of the cases ``chosen``."""

    @staticmethod
    def chosen(case: Case) -> bool:
        return True

    @staticmethod
    def harm() -> None:
        raise NotImplementedError

    def build(self, op: Op, case: Case) -> Kernel:
        if self.chosen(case):
            self.harm()
        return super().build(op, case)


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    while True:
        time.sleep(1)


def give_up() -> None:
    print("vendor library: giving up", flush=True)
    os._exit(0)


def fail(error: Exception) -> None:
    raise error


class Crash(Harmful):
    name, harm = "liar-crash", staticmethod(crash)


class Exit(Harmful):
    name, harm = "liar-exit", staticmethod(give_up)


class Broken(Harmful):
    name, harm = "liar-error", staticmethod(lambda: fail(ZeroDivisionError("division by zero")))


class Hang(Honest):
    name = "liar-hang"

    def download(self, buffer: Buffer) -> Array:
        hang()


class OutOfMemory(Honest):
    name = "liar-oom"

    def upload(self, array: Array) -> Buffer:
        np.empty(1 << 60, np.uint8)
        raise AssertionError("unreachable")


class Lost(Honest):
    name = "liar-lost"

    def download(self, buffer: Buffer) -> Array:
        raise DeviceFault("the device was removed", "KP-DEVICE-LOST")


def pipes() -> list[int]:
    """The descriptors of this process that are pipes and that it was not born with."""
    return [int(path.name) for path in Path("/proc/self/fd").iterdir() if path.is_fifo() and int(path.name) > 2]


def told(text: bytes) -> None:
    """Write to every pipe, as a library does that takes a number for its own log."""
    for each in pipes():
        with contextlib.suppress(OSError):
            os.write(each, text)


class Garbles(Harmful):
    """Writes its log to the pipe on which its process reports."""

    name, harm = "liar-garbles", staticmethod(lambda: told(b"[INFO] \x1b[2Jtuning kernel\n"))


class Floods(Harmful):
    """Writes to that pipe without ever ending a line."""

    name, harm = "liar-floods", staticmethod(lambda: [told(b"x" * 60_000) for _ in range(10_000)])


class Shortcut(Honest):
    """Reports its end after the first gate: two gates of all."""

    name = "liar-shortcut"

    def download(self, buffer: Buffer) -> Array:
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == 3:
            told(b'{"type":"done"}\n')
            os._exit(0)
        return super().download(buffer)


class Markup(Honest):
    """The name of its device looks like markup of a terminal, and moves the cursor."""

    name = "liar-markup"
    told: ClassVar = {"device": "[/]\x1b[2J[bold]Card\nBackend: cuda", "detail": ""}


class Slow(Harmful):
    """Compiles for longer than a whole probe of others takes, and works all the while."""

    name, harm = "liar-slow", staticmethod(lambda: time.sleep(0.4))


class Leaves(Honest):
    """Starts a daemon in a session of its own and leaves it behind."""

    name = "liar-leaves"

    @classmethod
    def open(cls, index: int = 0):
        daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(os.environ["KPARITY_TEST_PID"]).write_text(str(daemon.pid))
        return super().open(index)


class Corrupt(Honest):
    """When everything is on the device, ``harm`` is done to the bytes of one buffer: number ``which`` of ``dtype``."""

    dtype, which = "u32", -1

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        made = super().empty(shape, dtype)
        self.filled = [*getattr(self, "filled", []), *([made] if dtype == self.dtype else [])]
        return made

    def build(self, op: Op, case: Case) -> Kernel:
        if self.filled and op.name == "argmax":  # the last one: every weight is there
            self.harm(self.filled[self.which].handle)
            self.filled = []
        return super().build(op, case)

    def harm(self, array: Array) -> None:
        raise NotImplementedError


class Flipped(Corrupt):
    """Four words of the last ternary matrix have other weights."""

    name = "liar-flipped"

    def harm(self, array: Array) -> None:
        array.reshape(-1)[1000:1004] ^= np.uint32(0x02000200)


class CutShort(Corrupt):
    """The last 2 KB of the embedding never arrived."""

    name, dtype, which = "liar-cut", "f16", 0

    def harm(self, array: Array) -> None:
        array.reshape(-1)[-1024:] = 0


class OtherRow(Corrupt):
    """A row of the embedding that no token of the probe reads is another one's."""

    name, dtype, which = "liar-row", "f16", 0

    def harm(self, array: Array) -> None:
        array[-1] = array[-2]


class GivenRow(Tampering):
    """The same, where the kernel is bound: what was uploaded is right."""

    name, op = "liar-given", "embed"

    def concerns(self, op: Op, case: Case) -> bool:
        return super().concerns(op, case) and case["V"] > 1000

    def change(self, case: Case, array: Array) -> Array:
        array[-1] = array[-2]
        return array


class BentGain(Corrupt):
    """One weight of the first norm is off by a thousandth."""

    name, dtype, which = "liar-gain", "f32", 4  # behind the scales of the layer's four matrices

    def harm(self, array: Array) -> None:
        array[7] *= np.float32(1.001)


class Changed(Honest):
    """Right in the probe's process, wrong in the one that serves."""

    name = "liar-changed"

    def download(self, buffer: Buffer) -> Array:
        got = super().download(buffer)
        probing = bool(os.environ.get("KPARITY_PROBE_CHILD"))
        return got if probing or buffer.dtype != "f32" else -got
