"""The metadata note of an AMD code object: an ELF file with a MessagePack map in a note named ``AMDGPU``."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from kparity.errors import WrongInput

_PT_NOTE, _NT_AMDGPU_METADATA = 4, 32


class _Unpacker:
    """The part of MessagePack that code objects use: no floats, no binaries, no extensions."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def _text(self, length: int) -> str:
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self) -> Any:
        """The value at the present place."""
        tag = self._number("B")
        if tag < 0x80:
            return tag
        if tag < 0x90:
            return {self.value(): self.value() for _ in range(tag & 0x0F)}
        if tag < 0xA0:
            return [self.value() for _ in range(tag & 0x0F)]
        if tag < 0xC0:
            return self._text(tag & 0x1F)
        if tag >= 0xE0:
            return tag - 0x100
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if 0xCC <= tag <= 0xD3:
            return self._number(">" + "BHIQbhiq"[tag - 0xCC])
        if 0xD9 <= tag <= 0xDF:
            length = self._number(">" + "BHIHIHI"[tag - 0xD9])
            if tag < 0xDC:
                return self._text(length)
            if tag < 0xDE:
                return [self.value() for _ in range(length)]
            return {self.value(): self.value() for _ in range(length)}
        raise WrongInput(f"code object: MessagePack type {tag:#x} in its metadata")


def metadata(code: bytes) -> Mapping[str, Any]:
    """The metadata of a code object; raises WrongInput for what is none."""
    try:
        if code[:6] != b"\x7fELF\x02\x01":
            raise WrongInput("code object: not a 64-bit little-endian ELF file")
        start, size, count = struct.unpack_from("<Q", code, 32)[0], *struct.unpack_from("<HH", code, 54)
        for header in range(start, start + size * count, size):
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", code, header)
            at = offset
            while kind == _PT_NOTE and at < offset + length:
                name, payload, note = struct.unpack_from("<III", code, at)
                body = at + 12 + (name + 3) // 4 * 4
                if note == _NT_AMDGPU_METADATA and code[at + 12 : at + 18] == b"AMDGPU":
                    found = _Unpacker(code[body : body + payload]).value()
                    return found if isinstance(found, dict) else {}
                at = body + (payload + 3) // 4 * 4
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise WrongInput(f"code object: cut off or damaged ({error})") from None
    raise WrongInput("code object: no AMDGPU metadata note")
