"""Where fields stand in the structures that llama.cpp passes by value: found by the library's own defaults, or told by
a C compiler that reads the ``llama.h`` of that build (docs/engines.md).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kparity.errors import Unavailable, WrongInput
from kparity.host.text import printable

WORDS = 128
"""32-bit words kept of a structure that is passed by value; what lies behind its end is not read."""
DEFAULTS = (512, 2048, 512)
"""n_ctx, n_batch and n_ubatch, the first fields of ``llama_context_params``."""
F16 = 1
CACHE = {"f32": 0, "f16": F16}
"""Element types of the KV cache that engines of this package have in common, as ``ggml_type``."""
NULL, MINUS, MINUS_ONE = 0, 0xFFFFFFFF, 0xBF800000
"""Words of a null pointer's half, of the integer -1 and of the float -1."""
PLACES = ("", "include", "ggml/include")
"""Where headers lie in what people name: an installation's folder, its root, or a checkout."""
COMPILE_S = 60
SOURCE = """\
#include <stddef.h>
#include <stdio.h>
#include "llama.h"
#define AS_KNOWN(what) _Static_assert(what, "kparity knows no llama.cpp without " #what)
AS_KNOWN(sizeof(struct llama_context_params) <= ROOM && sizeof(struct llama_model_params) <= ROOM);
AS_KNOWN(sizeof(struct llama_batch) == 56 && offsetof(struct llama_batch, logits) == 48);
AS_KNOWN(offsetof(struct llama_batch, token) == 8 && offsetof(struct llama_batch, seq_id) == 40);
AS_KNOWN(offsetof(struct ggml_tensor, buffer) == 8 && offsetof(struct ggml_tensor, ne) == 16);
AS_KNOWN(offsetof(struct ggml_tensor, nb) == 48 && sizeof(((struct ggml_tensor *)0)->nb) == 32);
AS_KNOWN(GGML_TYPE_F32 == 0 && GGML_TYPE_F16 == 1 && GGML_TYPE_I32 == 26 && GGML_TYPE_I64 == 27);
typedef bool (*ggml_backend_sched_eval_callback)(struct ggml_tensor *, bool, void *);
int32_t llama_decode(struct llama_context *, struct llama_batch);
float *llama_get_logits_ith(struct llama_context *, int32_t);
void llama_memory_clear(llama_memory_t, bool);
llama_pos llama_memory_seq_pos_max(llama_memory_t, llama_seq_id);
int32_t llama_tokenize(const struct llama_vocab *, const char *, int32_t, llama_token *, int32_t, bool, bool);
#define MODEL(field) (int)(offsetof(struct llama_model_params, field) / 4)
#define CONTEXT(field) (int)(offsetof(struct llama_context_params, field) / 4)
int main(void) {
    printf("%d %d %d %d %d %d %d %d %d", CONTEXT(cb_eval), CONTEXT(type_k), CONTEXT(type_v), MODEL(devices),
           MODEL(n_gpu_layers), CONTEXT(n_ctx), CONTEXT(n_batch), CONTEXT(n_ubatch), CONTEXT(n_seq_max));
    return 0;
}
"""
"""Prints a ``Layout``. What kparity holds to be so in every release does not compile where it is not: structures by
assertion, functions since a second declaration must be the same as the first.
"""


@dataclass(frozen=True)
class Layout:
    """Words at which fields of ``llama_context_params`` and ``llama_model_params`` (``devices``, ``n_gpu_layers``)
    begin; those at the front are where they were in every release so far.
    """

    cb_eval: int
    type_k: int
    type_v: int
    devices: int = 0
    n_gpu_layers: int = 4
    n_ctx: int = 0
    n_batch: int = 1
    n_ubatch: int = 2
    n_seq_max: int = 3


def refused(reason: str) -> Unavailable:
    """What a library of another interface gives."""
    remedy = "add ?headers=DIR with the folder of that build's own llama.h, or use another release of llama.cpp"
    return Unavailable(reason, remedy, "KP-LLAMACPP-ABI")


def by_defaults(model: Sequence[int], context: Sequence[int]) -> Layout:
    """Of a library with these default parameters. ``cb_eval`` stands behind a threshold of -1, before its own data and
    the element types of the cache, both f16 (1). The flags of the end stand two or three pointers later, and begin with
    ``embeddings`` (false) and ``offload_kqv`` (true). Raises Unavailable where they are not there.
    """
    if any(model[:4]) or model[4] not in (NULL, 999, MINUS) or model[5] not in (0, 1):
        raise refused(f"this llama.cpp begins its model parameters with {list(model[:6])}")
    if tuple(context[:3]) != DEFAULTS:
        raise refused(f"this llama.cpp begins its context parameters with {list(context[:3])}, not {list(DEFAULTS)}")
    for at in range(8, len(context) - 14, 2):
        flags = next((each for each in context[at + 6 : at + 14] if each), 0).to_bytes(4, "little")
        empty = not any((*context[at : at + 4], *context[at + 6 : at + 10]))
        types = tuple(context[at + 4 : at + 6])
        if context[at - 1] == MINUS_ONE and empty and types == (F16, F16) and flags[:2] == b"\0\1" and max(flags) == 1:
            return Layout(at, at + 4, at + 5)
    raise refused("this llama.cpp has context parameters of another form: its defaults are not where they were")


def by_headers(folder: str, model: Sequence[int], context: Sequence[int]) -> Layout:
    """Of the ``llama.h`` in a folder. Raises WrongInput for want of it or of a compiler and where it does not compile,
    Unavailable where those of the library's defaults that no release has changed are not at these places.
    """
    found = _compiled(folder)
    pointers = (*model[found.devices :][:2], *context[found.cb_eval :][:2])
    if any(pointers) or {context[found.type_k], context[found.type_v]} != {F16}:
        raise refused(f"the llama.h in {folder} is not that of this llama.cpp: defaults are not where it has them")
    return found


def _compiled(folder: str) -> Layout:
    if not any(Path(folder, each, "llama.h").is_file() for each in PLACES):
        raise WrongInput(f"headers={folder} has no llama.h; name the include folder of that build, or its checkout")
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    tool = next((found for name in names if name and (found := shutil.which(name))), None)
    if tool is None:
        raise WrongInput("headers= needs a C compiler, and there is no cc, gcc or clang; install one, or set CC")
    with TemporaryDirectory() as scratch:
        program = str(Path(scratch, "layout"))
        options = [f"-DROOM={4 * WORDS}", "-std=c11", *(f"-I{Path(folder, each)}" for each in PLACES), "-o", program]
        try:
            _ran([tool, "-x", "c", *options, "-"], SOURCE)
            return Layout(*map(int, _ran([program]).split()))
        except (OSError, subprocess.SubprocessError) as error:
            words = re.search("error: (.*)", str(getattr(error, "stderr", "")))
            reason = printable(words[1] if words else str(error))[:300]
            raise WrongInput(f"the llama.h in {folder} cannot be used ({reason}); give that build's own") from None


def _ran(command: Sequence[str], given: str = "") -> str:
    """What a program says; raises OSError or SubprocessError where it does not succeed."""
    done = subprocess.run(
        command, input=given, capture_output=True, check=True, encoding="utf-8", errors="replace", timeout=COMPILE_S,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    return done.stdout
