"""What ``kparity model inspect`` shows: the keys that decide results, the tensors, and whether the norms look sane."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from kparity.model import census, graph, soundness
from kparity.model.gguf_header import StringArray
from kparity.model.tensors import load_vector
from kparity.ops.spec import Array

if TYPE_CHECKING:
    from kparity.model.model import Model

LARGE, SMALL = 16.0, 1.0 / 64
"""A root mean square beyond these is SUSPECT. A rule of thumb: trained RMS norms have weights of about 0.03 to 5."""

_LISTED = 16  # elements of an array key that are shown


def inspect_model(model: Model) -> dict[str, Any]:
    """Plain values: file, hyper-parameters, keys, tensor types, norms, and faults of other tensors."""
    file = model.file
    weights = {name: load_vector(file, file.tensors[name]) for name in graph.norm_names(model.hparams)}
    wrong = [asdict(fault) for fault in soundness.faults(model) if fault.tensor not in weights]
    norms = [{"name": name, **norm_statistics(each, model.hparams.width)} for name, each in weights.items()]
    return {
        "path": str(model.path),
        "name": model.name,
        "sha256": model.sha256,
        "bytes": model.n_bytes,
        "version": file.version,
        "hparams": asdict(model.hparams),
        "head": "tied to token_embd.weight" if model.tied else graph.HEAD,
        "keys": {name: _plain(value) for name, value in file.keys.items()},
        "types": _types(model),
        "mixed": ["blk.{}.{}".format(*each) for each in model.mixed],
        "scale_tensors": sum(name.endswith("scale") for name in file.tensors),
        "tokenizer": _tokenizer(model),
        "norms": norms,
        "faults": wrong,
        "suspect": [str(norm["name"]) for norm in norms if norm["verdict"] != "OK"]
        + [each["tensor"] for each in wrong],
    }


def norm_statistics(weights: Array, width: int) -> dict[str, Any]:
    """Count, extremes, mean, standard deviation (n − 1) and root mean square of a norm's weights, with a verdict."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = weights.astype(np.float64)
    finite = values[np.isfinite(values)]
    known = finite if finite.size else np.zeros(1)
    statistics = {
        "count": values.size,
        "min": float(known.min()),
        "max": float(known.max()),
        "mean": float(known.mean()),
        "std": float(known.std(ddof=1)) if known.size > 1 else 0.0,
        "rms": float(np.sqrt(np.mean(known**2))),
        "not_finite": values.size - finite.size,
        "zeros": int(np.count_nonzero(finite == 0)),
    }
    verdict, reason = norm_verdict(statistics, width)
    return {**statistics, "verdict": verdict, "reason": reason}


def norm_verdict(s: dict[str, Any], width: int) -> tuple[str, str]:
    """``OK`` or ``SUSPECT`` with the reason.

    Weights of a trained RMS norm are of the order of one. A constant factor of about √width (or its inverse) is what a
    converter leaves that mixed up the mean and the sum of squares; a mean near zero beside its deviation is what one
    leaves that stores w − 1.
    """
    root = float(np.sqrt(width))
    if s["not_finite"]:
        return "SUSPECT", f"{s['not_finite']} weights are NaN or infinite"
    if s["zeros"] == s["count"]:
        return "SUSPECT", "all weights are zero: everything behind this norm is zero"
    for factor, name in ((root, "√width"), (1.0 / root, "1/√width")):
        if abs(s["rms"] / factor - 1.0) < 0.05 and s["std"] < 0.2 * s["rms"] and not 0.5 < factor < 2.0:
            return "SUSPECT", f"weights are about {name} = {factor:.4g}: a norm that lost or gained a factor"
    if s["rms"] > LARGE:
        return "SUSPECT", f"root mean square {s['rms']:.4g} is far above 1"
    if s["rms"] < SMALL:
        return "SUSPECT", f"root mean square {s['rms']:.4g} is far below 1"
    if abs(s["mean"]) < 0.1 * s["std"]:
        return "SUSPECT", f"mean {s['mean']:.4g} is near zero beside std {s['std']:.4g}: stored as w − 1?"
    return "OK", ""


def _types(model: Model) -> list[dict[str, Any]]:
    """Tensors, elements and bytes by type, the largest first; of ternary ones also what their codes are, and for how
    many weights a scale counts (``tensor``: for all).
    """
    rows: dict[str, dict[str, Any]] = {}
    for tensor in model.file.tensors.values():
        new = {"type": tensor.type.name, "tensors": 0, "elements": 0, "bytes": 0, "codes": None, "spans": []}
        row = rows.setdefault(tensor.type.name, new)
        if tensor.type.ternary:
            seen = census.seen(model.file, tensor)
            row["codes"] = (np.array(row["codes"] or [0] * 4) + seen.codes).tolist()
            row["spans"] = sorted({*row["spans"], str(seen.span or "tensor")})
        row["tensors"] += 1
        row["elements"] += tensor.rows * tensor.shape[0]
        row["bytes"] += tensor.n_bytes
    return sorted(rows.values(), key=lambda row: -row["bytes"])


def _tokenizer(model: Model) -> dict[str, Any]:
    keys = model.file.keys
    tokens, h = keys.get("tokenizer.ggml.tokens"), model.hparams
    spell = tokens if isinstance(tokens, StringArray) else []

    def text(token: int | None) -> str | None:
        return spell[token] if token is not None and token < len(spell) else None

    kind, pre = (_plain(keys.get(f"tokenizer.ggml.{name}")) for name in ("model", "pre"))
    return {
        "kind": kind, "pre": pre, "tokens": len(spell),
        "bos": h.bos, "bos_text": text(h.bos), "eos": h.eos, "eos_text": text(h.eos), "add_bos": h.add_bos,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """A value for JSON; long arrays as their length and first elements."""
    if not isinstance(value, (StringArray, np.ndarray)):
        return value
    first = np.asarray(value[:_LISTED]).tolist()
    return first if len(value) <= _LISTED else {"length": len(value), "first": first}
