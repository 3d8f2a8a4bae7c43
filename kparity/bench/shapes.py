"""Models of random weights by shape: ``2b-4t``, ``2b-4t:6`` (layers), ``2b-4t:6:32000`` (layers, vocabulary);
``llama3-8b`` and ``bonsai-8b`` are Llama3-8B-1.58 and Ternary-Bonsai 8B.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from kparity.errors import UnknownName, WrongInput
from kparity.host import cachedir
from kparity.model import writer
from kparity.model.writer import Spec

ARCH = "bitnet"
"""The name under which llama.cpp reads the graph, so that both can be given the same file: SiLU in place of the relu²
of the 2B-4T model, which costs the same."""
EIGHT = Spec(width=4096, heads=32, kv_heads=8, key_length=128, context=8192, untied=True)
"""What models of 8 billion weights have in common."""
SHAPES: Mapping[str, Spec] = {
    "2b-4t": Spec(arch=ARCH, layers=30),
    "llama3-8b": dataclasses.replace(EIGHT, arch="llama", layers=32, ffn=14336),
    "bonsai-8b": dataclasses.replace(
        EIGHT, arch="qwen3", layers=36, ffn=12288, theta=1e6, eps=1e-6, vocab=151936, type="q2_0", embedding="q2_0"
    ),
    "tiny": dataclasses.replace(writer.TINY, arch=ARCH),
}
FORM = re.compile(r"([\w.-]+)(?::([1-9]\d{0,2}))?(?::([1-9]\d{2,6}))?")
SPARE = 1 << 30
"""Bytes that stay free on the disk of the cache."""


def parse(text: str, seed: int = 0) -> Spec:
    """The shape that a text names; raises UnknownName or WrongInput."""
    found = FORM.fullmatch(text)
    if found is None:
        raise WrongInput(f"shape is {text!r}, expected NAME[:LAYERS[:VOCAB]], for example 2b-4t:6:32000")
    name, layers, vocab = found.groups()
    if name not in SHAPES:
        raise UnknownName("shape", name, SHAPES)
    spec = dataclasses.replace(SHAPES[name], seed=seed)
    spec = dataclasses.replace(spec, layers=int(layers)) if layers else spec
    return dataclasses.replace(spec, vocab=int(vocab)) if vocab else spec


def model_file(text: str, seed: int = 0, cache: Path | None = None, kind: str = "") -> Path:
    """The file of a shape, written unless it is there unchanged; raises WrongInput where it cannot be written.

    ``kind`` is the type of the linear layers; empty for that of the shape. The same shape, seed and type give the same
    bytes. A file appears under its name only when it is whole.
    """
    spec = parse(text, seed)
    spec = dataclasses.replace(spec, type=kind) if kind else spec
    entries = list(writer.tensors(spec))
    need = sum(entry.n_bytes for entry in entries)
    name = f"{text.partition(':')[0]}-{spec.layers}-{spec.vocab}-{spec.type}-{spec.arch}-{spec.seed}.gguf"
    try:
        cache = cache or cachedir.folder("shapes")
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / name
        if cachedir.intact(path):
            return path
        free = shutil.disk_usage(cache).free
        if free < need + SPARE:
            raise WrongInput(
                f"{cache} has {free >> 20} MiB free, a model of shape {text} needs {need >> 20} MiB and "
                f"{SPARE >> 20} MiB to spare; choose fewer layers, or another folder by XDG_CACHE_HOME"
            )
        with cachedir.scratch(cache) as partial:
            cachedir.seal(writer.write_file(partial / name, writer.keys(spec), entries), path)
    except OSError as error:
        raise WrongInput(
            f"{cache or 'the cache'} cannot hold a model of shape {text}: {error.strerror or error}"
        ) from error
    return path
