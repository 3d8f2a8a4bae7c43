"""Whether command line, request, options and what came of them are one story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from kparity.engine.engine import served_context
from kparity.gates.table import WHOLE
from kparity.host.text import seconds
from kparity.probe.messages import DEFAULT_POSITIONS
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.kernel_ids import dialect_of
from kparity.receipts.record import BLOCK, Model, Predicate, Run
from kparity.receipts.rules.device import NATIVE, enumerated

COMMANDS = {"bench": "bench", "probe": "probe", "run": "probe", "serve": "probe"}
"""Command → kind of its receipts."""
REQUIRED = ("--require", "--backend")
"""Two names of one option, which nobody may give twice; of the others that take one value the last counts."""
BACKENDS = ("-b", "--backends", *REQUIRED)
DEFAULTS: dict[str, tuple[str, Any]] = {
    "act": ("act", "token"), "kv": ("kv", "f16"), "depth": ("depth", "full"), "index": ("index", 0),
    "seed": ("seed", 0), "isa": ("isa", None), "shape": ("shape", None), "threads": ("threads", None),
    "pp": ("prompts", [32, 128, 512]), "tg": ("depths", [0, 512, 2048]), "positions": ("positions", ...),
    "context": ("context", 0), "repeat": ("repeat", 1), "soak": ("soak", 0.0),
}  # fmt: skip
"""Option of the command line → its name in the request, and its value where it is not given (…: the model's)."""
FLAGS = ("require_gpu", "trust_claims", "no_parity")
NEEDED = {
    "probe": ("depth", "positions", "require_gpu", "act", "kv", "index", "context"),
    "bench": ("prompts", "depths", "act", "kv", "index", "seed", "isa", "no_parity", "require_gpu", "baselines",
              "ops_expression"),
}  # fmt: skip
"""Kind → the options that its request always tells."""
EMBEDDED = "embedded.gguf"
"""What runs where no model is named."""


def given(command: Sequence[str], *names: str) -> list[str]:
    """The values of an option in a command line, in order; joined short forms (``-bcpu``) among them."""
    found = []
    for word, following in zip(command, [*command[1:], ""], strict=True):
        head, equals, tail = word.partition("=")
        if head in names:
            found.append(tail if equals else following)
        elif not word.startswith("--") and word[:2] in names:
            found.append(word[2:].removeprefix("="))
    return found


def _last(command: Sequence[str], name: str) -> str | None:
    return next(reversed(given(command, f"--{name}")), None)


def command(predicate: Predicate) -> Findings:
    """What the command line names is what was requested, and what it does not name has its default."""
    for why in _contradictions(predicate):
        yield Finding("RCPT-REQUEST", "/predicate/request/command", why)


def _contradictions(predicate: Predicate) -> Iterator[str]:
    words, asked = predicate.request.command, predicate.request.options
    ours = PurePath(words[0].replace("\\", "/")).name.removesuffix(".exe") in ("kparity", "__main__.py")
    named = next((word for word in words[1:] if not word.startswith("-")), "")
    if ours and COMMANDS.get(named) != predicate.kind:
        yield f"kparity {named} writes no receipt of the kind {predicate.kind}"
    if ours and len(given(words, *REQUIRED)) > 1:
        yield f"{REQUIRED[0]} twice, which kparity refuses"
    backends = given(words, *BACKENDS)
    wanted = [*dict.fromkeys(each.strip() for each in ",".join(backends).split(",") if each.strip())]
    if backends and "--no-gpu" not in words and wanted != predicate.request.backends:
        yield f"the command names {', '.join(wanted)}, the request {', '.join(predicate.request.backends)}"
    for name, (option, default) in DEFAULTS.items():
        value: Any = _last(words, name)
        if name == "soak" and value is not None:
            value = seconds(value)
        elif name == "depth" and value in (None, "full") and _last(words, "soak") is not None:
            value = "soak"
        value = default if value is None and ours else value
        if option in asked and value not in (None, ...) and not _same(value, asked[option]):
            yield f"--{name} {value}, the options say {asked[option]}"
        elif option in asked and value is None and ours and asked[option] is not None:
            yield f"--{name} is not given, the options say {asked[option]}"
    for name in FLAGS if ours else ():
        if name in asked and asked[name] is not (f"--{name.replace('_', '-')}" in words):
            yield f"the option {name} is {asked[name]}, the command says otherwise"
    single = any(word.partition("=")[0] == "--ops" for word in words)
    if named == "bench" and ours and single is not bool(predicate.ops):
        yield f"{'no single ops' if single else 'single ops'} were measured, the command says otherwise"
    nonce = _last(words, "nonce")
    if (ours or nonce is not None) and (nonce or "") != predicate.nonce:
        yield f"the nonce is {predicate.nonce!r}, the command says otherwise"
    path, model = _last(words, "model") or asked.get("model"), predicate.model
    name = PurePath(str(path).replace("\\", "/")).name if path else EMBEDDED
    if model and model.name != name and (path or (ours and not _last(words, "shape"))):
        yield f"the model is {model.name}, asked for {name}"


def _same(word: Any, value: Any) -> bool:
    if isinstance(value, list):
        parts = word if isinstance(word, list) else [] if str(word).strip() == "-" else str(word).split(",")
        return sorted({*map(str, map(_number, parts))}) == sorted({*map(str, map(_number, value))})
    return bool(word == value or _number(word) == _number(value))


def _number(word: Any) -> Any:
    try:
        return float(word)
    except (TypeError, ValueError, OverflowError):
        return str(word)


def options(predicate: Predicate) -> Findings:
    """What was asked for is told, and is what was judged and measured."""
    asked, model, where = predicate.request.options, predicate.model, "/predicate/request/options"
    missing = [name for name in NEEDED[predicate.kind] if name not in asked]
    if missing:
        yield Finding("RCPT-REQUEST", where, f"the options do not tell {', '.join(missing)}")
        return
    baselines = bool(predicate.baselines) or any(row.baseline for row in predicate.ops)
    if predicate.kind == "bench" and bool(asked["baselines"]) is not baselines and (baselines or predicate.runs):
        yield Finding("RCPT-REQUEST", f"{where}/baselines", f"asked for {asked['baselines']}, there are others")
    for at, run in enumerated(predicate):
        if run.parity.verdict != "FAIL" and model is not None:
            yield from (Finding("RCPT-REQUEST", f"{at}/{place}", why) for place, why in _unlike(run, predicate, model))
    seeds = predicate.seeds
    if predicate.kind == "bench" and any(seed != asked["seed"] for name, seed in seeds.items() if name != "model"):
        yield Finding("RCPT-REQUEST", "/predicate/seeds", f"{seeds}, the option is {asked['seed']}")
    if model and seeds.get("model", model.seed) != model.seed:
        yield Finding("RCPT-REQUEST", "/predicate/seeds/model", f"{seeds['model']}, the model's is {model.seed}")


def _unlike(run: Run, predicate: Predicate, model: Model) -> Iterator[tuple[str, str]]:
    """Where a run is not what was asked for, and why."""
    asked, bench = predicate.request.options, predicate.kind == "bench"
    for name in ("act", "kv"):
        if run.engine.get(name, None if bench else asked[name]) != asked[name]:
            yield f"engine/{name}", f"{run.engine.get(name)!r}, asked for {asked[name]!r}"
    if asked["require_gpu"] is True and run.device.kind != "gpu":
        yield "device/kind", f"{run.backend} passed on a {run.device.kind} device, and a GPU was required"
    if asked["require_gpu"] is True and asked.get("trust_claims") is False and run.proof.device != "verified":
        yield "proof/device", f"{run.proof.device or 'not told'}, and a GPU was required without trust in claims"
    if bench and asked["no_parity"] is not (run.parity.verdict == "INVALID-CORRECTNESS"):
        yield "parity/verdict", f"{run.parity.verdict}, and the option no_parity is {asked['no_parity']}"
    count = asked.get("positions", DEFAULT_POSITIONS)
    wanted = min(count, model.context) if isinstance(count, int) else None
    for gate in run.parity.gates:
        if gate.name == "positions_min" and gate.value != wanted:
            yield "parity/gates", f"{gate.value} positions were probed, asked for {wanted}"
    context = asked.get("context", 0)
    if run.parity.verdict == "PASS" and isinstance(context, int):
        reach = served_context(context, model.context) - 1 if asked.get("depth", "full") in WHOLE or bench else 0
        if run.parity.proved != reach:
            yield "parity/proved", f"proved to position {run.parity.proved}, what was asked for ends at {reach}"
    isa = asked.get("isa")
    if isa and run.device.api == NATIVE and any(dialect_of(kernel.id) != isa for kernel in run.kernels):
        yield "kernels", f"not of the instruction set {isa} that was asked for"
    for row in run.measurements:
        length = row.units if row.phase == "prefill" else row.depth + BLOCK
        if length > model.context:
            yield "measurements", f"{row.name} takes {length} positions, the model has {model.context}"
    if bench and not run.errors:
        points = {*_names("pp", asked["prompts"]), *_names("tg@", asked["depths"])}
        told = [*(each.name for each in run.measurements), *(each.name for each in run.skipped)]
        for name in sorted((points ^ {*told}) | {name for name in told if told.count(name) > 1})[:1]:
            times = "once" if name in points else "never"
            yield "measurements", f"{name} was asked for {times}, and is measured or skipped {told.count(name)} times"


def _names(prefix: str, lengths: Any) -> Iterator[str]:
    yield from (f"{prefix}{each}" for each in (lengths if isinstance(lengths, list) else ()))
