"""What each engine will do with a file: take it, take it for something else, or refuse it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kparity.doctor.patient import Patient
from kparity.doctor.record import Finding
from kparity.engines.hf_weights import FAMILIES
from kparity.model.gguf_file import Listed
from kparity.model.types import I2_S, Q2_0, Q2_0_128, READABLE

MAINLINE = (
    "bitnet",
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "llama4",
    "falcon",
    "falcon-h1",
    "gemma3",
    "phi3",
    "mamba",
    "rwkv7",
)
"""Architectures of this page that llama.cpp v0.5.0 runs; ``bitnet-25`` and ``bitnet-b1.58`` are bitnet.cpp's alone."""


def findings(patient: Patient, items: Mapping[str, Finding]) -> Iterator[Finding]:
    """One item for each engine, from what the other ``items`` found."""
    if patient.file is None:
        for name in ("kparity", "llama.cpp", "transformers"):
            yield Finding(name, "not applicable", "refuses it: its header cannot be read")
        return
    if patient.model is None:
        yield Finding("kparity", "not applicable", f"refuses it: {patient.refused}")
    elif items["spans"].verdict == "doubtful":
        yield Finding("kparity", "not applicable", f"refuses it: {items['spans'].evidence}")
    else:
        yield _misled("kparity", items, f"runs it as {patient.arch}")
    yield _llamacpp(patient, items)
    yield _transformers(patient, items)


def _misled(name: str, items: Mapping[str, Finding], told: str) -> Finding:
    """An engine that runs a file, and is right only as far as the file is."""
    wrong = _wrong(items, "activation", "rope", "pre", "scales", "norms")
    if wrong:
        return Finding(name, "doubtful", f"{told}, and computes something else than was trained: {', '.join(wrong)}")
    return Finding(name, "ok", told)


def _wrong(items: Mapping[str, Finding], *names: str) -> list[str]:
    """Which of some items are wrong."""
    return [name for name in names if name in items and items[name].verdict == "wrong"]


def _foreign(patient: Patient) -> str:
    """Why mainline's table of types does not have a tensor of the file; empty where it has all of them."""
    for each in patient.listed:
        kind = patient.placed.get(each.name)
        if kind is None or kind.type in (I2_S, Q2_0_128) or not _mainline(each):
            name = kind.type.name if kind else f"type {each.type_id}"
            return f"{each.name} is {name} (id {each.type_id}), which it does not have"
    return ""


def _mainline(each: Listed) -> bool:
    if each.type_id == Q2_0.id:
        return True
    from gguf import GGMLQuantizationType

    return any(kind.value == each.type_id for kind in GGMLQuantizationType)


def _llamacpp(patient: Patient, items: Mapping[str, Finding]) -> Finding:
    if patient.arch not in MAINLINE:
        known = "bitnet.cpp's own name" if patient.graph else "no architecture that it is known to have"
        return Finding("llama.cpp", "not applicable", f"refuses it: {patient.arch!r} is {known}")
    broken = _wrong(items, "header", "length", "tensors", "types")
    if why := _foreign(patient):
        return Finding("llama.cpp", "not applicable", f"refuses it: {why}")
    if broken:
        return Finding("llama.cpp", "not applicable", f"refuses it, or reads it wrongly: {', '.join(broken)}")
    act = "SiLU, whatever a key says" if patient.graph else "the activation of its graph"
    quantised = {each.type for each in patient.placed.values() if each.type.ternary}
    meets = "int8 by 32" if Q2_0 in quantised else "int8 by 256" if quantised else "f32 or int8"
    return _misled(
        "llama.cpp", items, f"runs it with {act}; activations that meet its weights are {meets} on a processor"
    )


def _transformers(patient: Patient, items: Mapping[str, Finding]) -> Finding:
    if patient.arch not in FAMILIES:
        return Finding("transformers", "not applicable", f"no model of it for {patient.arch!r} here")
    unread = [each.name for each in patient.placed.values() if each.type not in READABLE] + list(patient.strange)
    if unread:
        kind = patient.placed[unread[0]].type.name if unread[0] in patient.placed else "of no known type"
        return Finding(
            "transformers", "not applicable", f"kparity hands it no tensor like {unread[0]}, which is {kind}"
        )
    broken = _wrong(items, "header", "length", "tensors", "eps")
    if broken:
        return Finding("transformers", "not applicable", f"kparity hands it no such file: {', '.join(broken)}")
    act = patient.model.hparams.act if patient.model else FAMILIES[patient.arch].hidden_act
    return _misled(
        "transformers", items, f"runs it as {FAMILIES[patient.arch].model_type} with {act}, if exported by kparity"
    )
