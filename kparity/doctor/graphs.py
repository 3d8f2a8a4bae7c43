"""What of the graph a file may say wrongly though it loads: activation, RoPE, constants; and whether it predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from kparity.doctor.patient import Patient
from kparity.doctor.record import Change, Finding
from kparity.doctor.trial import Trials, better, ppl
from kparity.model.architectures import ACTIVATIONS, ARCHITECTURES

ACTS = {"silu": "SiLU", "relu2": "relu²"}
ROPES = {"neox": "split halves (NEOX)", "interleaved": "neighbours in pairs"}
EPS, THETA = (1e-8, 1e-3), (1e3, 1e8)
"""What published models have lies well within these: 1e-6 to 1e-5, and 10,000 to 10,000,000."""
SQUARED = {"block_count": 30, "embedding_length": 2560, "feed_forward_length": 6912}
"""Sizes of BitNet b1.58 2B-4T, whose activation is relu² under whatever name of an architecture."""
TWIN = {"bitnet": "bitnet-b1.58", "bitnet-b1.58": "bitnet", "bitnet-25": "bitnet"}
"""The architecture of the same graph with the other activation."""


def findings(patient: Patient, trials: Trials) -> Iterator[Finding]:
    """Of the graph of a file."""
    if patient.file is None:
        return
    yield _language(trials)
    yield _activation(patient, trials)
    yield _rope(patient, trials)
    yield _eps(patient)
    yield _theta(patient)


def _language(trials: Trials) -> Finding:
    """A wrong layout of the weights under the right type gives finite garbage: only what is predicted shows it."""
    item, found = "language", trials.score()
    if found is None:
        return Finding(item, "not applicable", f"it is not run here: {trials.refused}")
    told = f"perplexity {ppl(found)} on {len(found.nll)} tokens of the built-in text, of a vocabulary of {found.vocab}"
    if trials.knows(found):
        return Finding(item, "ok", told)
    return Finding(
        item, "doubtful", f"{told}: it predicts nothing: random weights, another layout, or another tokenizer"
    )


def _activation(patient: Patient, trials: Trials) -> Finding:
    item, graph, key = "activation", patient.graph, f"{patient.arch}.hidden_activation"
    if graph is None:
        return Finding(item, "not applicable", f"the graph of {patient.arch!r} is not known here")
    stored = patient.text(key)
    if stored and stored.lower() not in ACTIVATIONS:
        return Finding(item, "wrong", f"{key} is {stored!r}, and the graph has one of {', '.join(ACTIVATIONS)}")
    mine = ACTIVATIONS[stored.lower()] if stored else graph.act
    other = "relu2" if mine == "silu" else "silu"
    says_other, alike = mine != graph.act, False
    told, fix = f"{ACTS[mine]} by the architecture {patient.arch!r}", tuple[Change, ...]()
    if says_other:
        told = f"{ACTS[mine]} by {key}, {ACTS[graph.act]} by the architecture {patient.arch!r}: readers differ"
    elif stored:
        told += f", {key} is {stored!r}"
    elif mine == "relu2":
        told += f"; {key} is missing: a reader that takes SiLU for granted computes something else"
        fix = (Change("set", key, mine),)
    elif all(patient.keys.get(f"{patient.arch}.{name}") == size for name, size in SQUARED.items()):
        told += f"; {key} is missing, and the sizes are those of BitNet b1.58 2B-4T, which has relu²"
        alike = True
    tried = _decided(
        trials, {"act": mine, "clamp": int(mine == "relu2")}, {"act": other, "clamp": int(other == "relu2")}
    )
    if tried is None:
        verdict: Any = "doubtful" if says_other or alike or fix else "ok"
        return Finding(item, verdict, f"{told}; not tried: {trials.refused}", fix)
    which, scores = tried
    told += f"; perplexity {scores[0]} with {ACTS[mine]}, {scores[1]} with {ACTS[other]}"
    if which > 0 and stored:
        return Finding(item, "wrong", f"{told}: the key is wrong", (Change("set", key, other),))
    if which > 0:
        return Finding(item, "wrong", f"{told}: it was trained with {ACTS[other]}", _renamed(patient, other))
    if which == 0:
        return Finding(item, "doubtful", f"{told}: the text does not decide", fix)
    if says_other:
        return Finding(item, "doubtful", f"{told}: the key is right", _renamed(patient, mine))
    return Finding(item, "doubtful" if fix else "ok", told, fix)


def _decided(trials: Trials, mine: dict[str, Any], other: dict[str, Any]) -> tuple[int, tuple[str, str]] | None:
    """Which of two readings predicts the text better (-1 the first, 0 neither), and both perplexities; None untried."""
    one, two = trials.score(**mine), trials.score(**other)
    if one is None or two is None:
        return None
    known = trials.knows(one) or trials.knows(two)
    return (better(one, two) if known else 0), (ppl(one), ppl(two))


def _renamed(patient: Patient, act: str) -> tuple[Change, ...]:
    """The architecture with the other activation, and every key under its name."""
    old, new = patient.arch, TWIN.get(patient.arch, "")
    if not new or ARCHITECTURES[new].act != act:
        return ()
    under = [key for key in patient.keys if key.startswith(f"{old}.") and key != f"{old}.hidden_activation"]
    stored = [Change("drop", f"{old}.hidden_activation")] if f"{old}.hidden_activation" in patient.keys else []
    renamed = [Change("rename", key, new + key.removeprefix(old)) for key in under]
    return (
        Change("set", "general.architecture", new),
        *renamed,
        *stored,
        Change("set", f"{new}.hidden_activation", act),
    )


def _rope(patient: Patient, trials: Trials) -> Finding:
    item, graph = "rope", patient.graph
    if graph is None:
        return Finding(item, "not applicable", f"the graph of {patient.arch!r} is not known here")
    mine = graph.rope
    other = "interleaved" if mine == "neox" else "neox"
    told = f"{ROPES[mine]} by the architecture {patient.arch!r}"
    tried = _decided(trials, {"rope_mode": mine}, {"rope_mode": other})
    if tried is None:
        return Finding(
            item, "not applicable", f"{told}; whether the rows of Q and K are so is not tried: {trials.refused}"
        )
    which, scores = tried
    told += f"; perplexity {scores[0]} so, {scores[1]} by {ROPES[other]}"
    if which > 0:
        told += (
            ": the rows of Q and K stand in the other order; no key says so, convert it again without that permutation"
        )
        return Finding(item, "wrong", told)
    return Finding(item, "ok" if which else "doubtful", told if which else f"{told}: the text does not decide")


def _eps(patient: Patient) -> Finding:
    key = f"{patient.arch}.attention.layer_norm_rms_epsilon"
    value = patient.keys.get(key)
    if not isinstance(value, float) or not 0 <= value <= 0.1:
        return Finding("eps", "wrong", f"{key} is {'missing' if value is None else value}: every engine needs it")
    if EPS[0] <= value <= EPS[1]:
        return Finding("eps", "ok", f"{value:g}")
    return Finding("eps", "doubtful", f"{value:g}, and models have {EPS[0]:g} to {EPS[1]:g}")


def _theta(patient: Patient) -> Finding:
    key = f"{patient.arch}.rope.freq_base"
    value = patient.keys.get(key)
    if value is None:
        llama3 = "<|begin_of_text|>" in patient.tokens[-4096:]
        more = ", and a vocabulary of Llama 3 goes with 500000" if llama3 else ""
        return Finding("theta", "doubtful", f"{key} is missing: engines take 10000{more}")
    if not isinstance(value, float) or not 1 <= value < math.inf:
        return Finding("theta", "wrong", f"{key} is {value}, expected a number of at least 1")
    if THETA[0] <= value <= THETA[1]:
        return Finding("theta", "ok", f"{value:g}")
    return Finding("theta", "doubtful", f"{value:g}, and models have {THETA[0]:g} to {THETA[1]:g}")
