"""The container: what is there twice, overlaps, is missing, is too much, is cut off; and which types tensors have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from kparity.doctor.patient import Patient
from kparity.doctor.record import Change, Finding
from kparity.errors import BadModel
from kparity.model import types
from kparity.model.architectures import refusal
from kparity.model.gguf_file import MAX_TAIL, GgufFile, refuse_unfinished
from kparity.model.graph import EMBEDDING, FACTORS, HEAD, LINEARS, OUTPUT_NORM, scale_names
from kparity.model.hparams import MAX_LAYERS

_LINEAR = re.compile(rf"blk\.\d+\.({'|'.join(LINEARS)})\.weight")
SHOWN = 3
"""Names of tensors that a sentence has."""


def findings(patient: Patient) -> Iterator[Finding]:
    """Of the container; the first alone where its header cannot be read."""
    if patient.file is None:
        yield Finding("header", "wrong", patient.damage)
        return
    yield _header(patient, patient.file)
    yield _end(patient, patient.file)
    yield _tensors(patient)
    yield _types(patient)
    yield _architecture(patient)


def some(names: list[str]) -> str:
    """The first of them, and how many there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _header(patient: Patient, file: GgufFile) -> Finding:
    size = f"GGUF {file.version}, {len(file.keys)} keys, {len(file.listed)} tensors"
    parts = file.keys.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        return Finding("header", "wrong", f"one of {parts} parts of a model: join them with llama-gguf-split")
    if file.twice:
        fix = tuple(Change("once", key) for key in dict.fromkeys(file.twice))
        told = f"{some(file.twice)}: there twice; engines refuse it, or differ in which one they take"
        return Finding("header", "wrong", told, fix)
    if not file.listed:
        return Finding("header", "wrong", f"{size}: a vocabulary or metadata alone, and no model")
    return Finding("header", "ok", size)


def _end(patient: Patient, file: GgufFile) -> Finding:
    """Whether the file is as long as its tensors say."""
    item, last = "length", max(patient.placed.values(), key=lambda each: each.end, default=None)
    cut = [each.name for each, room, _ in file.rooms() if room <= 0]
    try:
        refuse_unfinished(file.path.stat())
    except BadModel as error:
        return Finding(item, "wrong", str(error))
    if cut or (last and last.end > file.n_bytes):
        told = (
            f"the file has {file.n_bytes} bytes, and {some(cut or [last.name if last else ''])} lies beyond: fetch it"
        )
        return Finding(item, "wrong", f"{told} again")
    strange = [each.name for each, _, at_end in file.rooms() if at_end and each.name in patient.strange]
    if strange:
        return Finding(item, "wrong", f"the last tensor, {strange[0]}: {patient.strange[strange[0]]}; cut off?")
    if last and file.n_bytes - last.end > MAX_TAIL:
        return Finding(item, "wrong", f"{file.n_bytes - last.end} bytes follow the last tensor: no part of a model")
    return Finding(item, "ok", f"{file.n_bytes} bytes, the last tensor ends at {last.end if last else 0}")


def expected(patient: Patient) -> tuple[set[str], set[str]]:
    """Tensors that the graph of a file must have and may have; nothing where the graph is not known."""
    graph, layers = patient.graph, patient.keys.get(f"{patient.arch}.block_count")
    if graph is None or not isinstance(layers, int) or not 0 < layers <= MAX_LAYERS:
        return set(), set()
    stems = [*LINEARS, "attn_norm", "ffn_norm", *graph.norms]
    needed = {EMBEDDING, OUTPUT_NORM} | {f"blk.{at}.{stem}.weight" for at in range(layers) for stem in stems}
    scales = {name for at in range(layers) for stem in LINEARS for name in scale_names(f"blk.{at}.{stem}")}
    return needed, {HEAD, *scales, *([FACTORS] if graph.factors else ())}


def _tensors(patient: Patient) -> Finding:
    item, counts = "tensors", Counter(each.name for each in patient.listed)
    if twice := [name for name, count in counts.items() if count > 1]:
        return Finding(
            item, "wrong", f"{some(twice)}: there twice; engines refuse it, or differ in which one they take"
        )
    places = sorted(patient.placed.values(), key=lambda each: each.offset)
    if over := [f"{a.name} and {b.name}" for a, b in pairwise(places) if a.end > b.offset]:
        return Finding(item, "wrong", f"{some(over)} overlap")
    needed, allowed = expected(patient)
    if not needed:
        return Finding(
            item, "not applicable", f"{len(counts)} tensors; the graph of {patient.arch!r} is not known here"
        )
    missing, extra = sorted(needed - set(counts)), sorted(set(counts) - needed - allowed)
    if missing:
        return Finding(item, "wrong", f"{some(missing)} missing, of {len(needed)} that {patient.arch} needs")
    if extra:
        told = f"{some(extra)}: no part of the graph of {patient.arch}; leaving them out would change the results"
        return Finding(item, "wrong", told)
    tied = "the head is the embedding" if HEAD not in counts else f"a head of its own ({HEAD})"
    return Finding(item, "ok", f"{len(counts)}, all of the graph of {patient.arch} and no other; {tied}")


def _types(patient: Patient) -> Finding:
    """The type of every tensor, decided by its size."""
    item, kinds = "types", Counter(each.type for each in patient.placed.values())
    if patient.strange:
        name, why = next(iter(patient.strange.items()))
        return Finding(item, "wrong", f"{len(patient.strange)} tensors of no known type and size, {name}: {why}")
    told = ", ".join(f"{count} {kind.name} (id {kind.id})" for kind, count in kinds.most_common())
    shared = [kind for kind in kinds if len(types.claimants(kind.id)) > 1 and kind.name != "I2_S"]
    unread = [kind for kind in kinds if kind not in types.READABLE]
    notes = [f"id {kind.id} has several claimants, and the size says {kind.name}" for kind in shared]
    notes += [f"{kind.name} cannot be read here" + (f": {kind.why}" if kind.why else "") for kind in unread]
    if len({kind for kind in kinds if kind.ternary}) > 1:
        notes.append("several ternary types in one file")
    dense = mixed(patient)
    if dense:
        notes.append(f"a mixed file: {some(dense)} are not ternary, and activations are not quantised for them here")
    doubts = types.Q2_0_128 in kinds or unread
    return Finding(item, "doubtful" if doubts else "ok", "; ".join([told, *notes]))


def mixed(patient: Patient) -> list[str]:
    """Linear layers of an ordinary type, where others are ternary."""
    linear = [each for each in patient.placed.values() if _LINEAR.fullmatch(each.name)]
    ternary = sum(each.type.ternary for each in linear)
    return [f"{each.name} ({each.type.name})" for each in linear if not each.type.ternary] if ternary else []


def _architecture(patient: Patient) -> Finding:
    item, arch = "architecture", patient.arch
    if not arch:
        return Finding(item, "wrong", "general.architecture is missing, or no string")
    if patient.graph is None:
        return Finding(item, "not applicable", f"{refusal(arch)}; what needs a run is not tried")
    if patient.model is None:
        ours = all(each.type in types.READABLE for each in patient.placed.values())
        limits = patient.strange or mixed(patient) or not ours  # of the engine, and not the file's fault
        return Finding(item, "doubtful" if limits else "wrong", f"the engine refuses it: {patient.refused}")
    h = patient.model.hparams
    shape = f"{h.n_layer} layers, width {h.width}, {h.n_head} and {h.n_kv} heads of {h.head_dim}, feed-forward {h.ffn}"
    return Finding(item, "ok", f"{arch}: {shape}")
