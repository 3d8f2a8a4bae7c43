"""The writer of bench/write_gguf.py, for tests: small models, and files that are wrong in one respect."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "write_gguf.py"
_SPEC = importlib.util.spec_from_file_location("write_gguf", _SCRIPT)
assert _SPEC is not None and _SPEC.loader is not None
writer = importlib.util.module_from_spec(_SPEC)
sys.modules["write_gguf"] = writer
_SPEC.loader.exec_module(writer)

ENCODERS, TINY, Entry, Spec = writer.ENCODERS, writer.TINY, writer.Entry, writer.Spec
write, write_file, keys, tensors, header = writer.write, writer.write_file, writer.keys, writer.tensors, writer.header
