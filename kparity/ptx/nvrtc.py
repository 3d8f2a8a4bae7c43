"""NVRTC, found and called by ctypes, behind the functions that ``cupy.cuda.nvrtc`` has. It needs no driver."""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class NVRTCError(RuntimeError):
    """NVRTC refused."""


def library() -> Any:
    """The first NVRTC that loads, of the system or of the wheel ``nvidia-cuda-nvrtc``; None where there is none."""
    for name in _candidates():
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _candidates() -> Iterator[str]:
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = sorted(wheels.glob("*/lib/libnvrtc.so.[0-9]*"), reverse=True)
    yield from (str(path) for path in found if ".alt." not in path.name)


class Nvrtc:
    """The compiler behind an opened library."""

    NVRTCError = NVRTCError

    def __init__(self, library: Any) -> None:
        self.library = library

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, f"nvrtc{name}")(*arguments)
        if status:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise NVRTCError(self.library.nvrtcGetErrorString(status).decode())

    def _text(self, name: str, program: Any) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value + 1)
        self._call(f"Get{name}", program, buffer)
        return buffer.value

    def getVersion(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def getSupportedArchs(self) -> list[int]:
        """Compute capabilities, times ten."""
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", known)
        return list(known)

    def createProgram(self, text: str, name: str, headers: Sequence[str], names: Sequence[str]) -> Any:
        """A program of one text; headers are not taken."""
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
        return program

    def compileProgram(self, program: Any, options: Sequence[str]) -> None:
        """Raises NVRTCError; the log says why."""
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        self._call("CompileProgram", program, len(options), given)

    def getPTX(self, program: Any) -> bytes:
        """The PTX of a compiled program."""
        return self._text("PTX", program)

    def getProgramLog(self, program: Any) -> str:
        """What the compiler said."""
        return self._text("ProgramLog", program).decode(errors="replace")

    def destroyProgram(self, program: Any) -> None:
        """Release it."""
        self._call("DestroyProgram", ctypes.byref(program))
