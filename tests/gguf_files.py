"""The GGUF writer, for tests: small models, and files that are wrong in one respect."""

from __future__ import annotations

from kparity.model import writer

ENCODERS, TINY, Entry, Spec = writer.ENCODERS, writer.TINY, writer.Entry, writer.Spec
write, write_file, keys, tensors, header = writer.write, writer.write_file, writer.keys, writer.tensors, writer.header
