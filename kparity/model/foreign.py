"""What a file is that was given for a GGUF file and is none, and what to do about it."""

from __future__ import annotations

import re

SEEN = 4096
"""Bytes of the file's beginning that are looked at."""

_CONVERT = "convert the model with convert_hf_to_gguf.py of llama.cpp"
_UNPACK = "unpack it first"

_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` where it lies"),
    (rb"\s*(\xef\xbb\xbf)?<(!doctype|html|\?xml|head|body)",
     "a web page: fetch the file behind the page's download link, which may need a login"),
    (rb"PK\x03\x04.*(data\.pkl|archive/)", f"a PyTorch checkpoint: {_CONVERT}"),
    (rb"\x80[\x02-\x05].*(torch|ctorch)", f"a PyTorch checkpoint: {_CONVERT}"),
    (rb"PK\x03\x04", f"a ZIP archive: {_UNPACK}"),
    (rb"\x1f\x8b", f"compressed by gzip: {_UNPACK}"),
    (rb"\x28\xb5\x2f\xfd", f"compressed by zstd: {_UNPACK}"),
    (rb"\xfd7zXZ\0", f"compressed by xz: {_UNPACK}"),
    (rb"BZh", f"compressed by bzip2: {_UNPACK}"),
    (rb"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_UNPACK}"),
    (rb".{257}ustar", f"a tar archive: {_UNPACK}"),
    (rb".{5}\0\0\0\{", f"a safetensors file: {_CONVERT}"),
    (rb"(lmgg|tjgg|fmgg|algg)", "a file of llama.cpp from before GGUF: convert the original model again"),
    (rb"\s*[\[{]\s*[\"\]}]", "JSON: a configuration or a server's error, name the model's file"),
    (rb"\0+\Z", "nothing but zeros: it was not written, fetch it again"),
)  # fmt: skip
"""How a file begins, and what that says."""


def described(head: bytes) -> str:
    """One sentence about a file that begins so."""
    for pattern, kind in _KINDS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f"not a GGUF file but {kind}"
    return f"not a GGUF file: it starts with {head[:4]!r} instead of b'GGUF'; name a GGUF file"
