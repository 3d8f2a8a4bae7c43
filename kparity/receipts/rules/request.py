"""Whether command line, request, options and what came of them are one story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from kparity.probe.messages import DEFAULT_POSITIONS
from kparity.receipts.findings import Finding, Findings
from kparity.receipts.kernel_ids import dialect_of
from kparity.receipts.record import Predicate, Run
from kparity.receipts.rules.device import NATIVE, enumerated

COMMANDS = {"bench": "bench", "probe": "probe", "run": "probe"}
"""Command → kind of its receipts."""
BACKENDS = ("-b", "--backends", "--backend", "--require")
VALUED = ("act", "kv", "depth", "positions", "index", "seed", "isa", "shape", "threads")
"""Options that the request holds by the name that they have on the command line."""
FLAGS = ("require_gpu", "no_parity")


def given(command: Sequence[str], *names: str) -> str | None:
    """The value of an option in a command line, the last one where it stands twice; None where it does not."""
    found = None
    for word, following in zip(command, [*command[1:], ""], strict=True):
        head, equals, tail = word.partition("=")
        if head in names:
            found = tail if equals else following
    return found


def command(predicate: Predicate) -> Findings:
    """What the command line names is what was requested."""
    words, options, where = predicate.request.command, predicate.request.options, "/predicate/request/command"
    ours = PurePath(words[0].replace("\\", "/")).name.removesuffix(".exe") in ("kparity", "__main__.py")
    named = next((word for word in words[1:] if not word.startswith("-")), "")
    if ours and COMMANDS.get(named) != predicate.kind:
        yield Finding("RCPT-REQUEST", where, f"kparity {named} writes no receipt of the kind {predicate.kind}")
    backends = given(words, *BACKENDS)
    asked = [each.strip() for each in (backends or "").split(",") if each.strip()]
    if backends is not None and "--no-gpu" not in words and asked != predicate.request.backends:
        why = f"the command names {', '.join(asked)}, the request {', '.join(predicate.request.backends)}"
        yield Finding("RCPT-REQUEST", where, why)
    for name in VALUED:
        value = given(words, f"--{name}")
        if value is not None and name in options and not _same(value, options[name]):
            yield Finding("RCPT-REQUEST", where, f"--{name} {value}, the options say {options[name]}")
    for name in FLAGS if ours else ():
        if name in options and options[name] is not (f"--{name.replace('_', '-')}" in words):
            yield Finding("RCPT-REQUEST", where, f"the option {name} is {options[name]}, the command says otherwise")
    if ours and (given(words, "--nonce") or "") != predicate.nonce:
        yield Finding("RCPT-REQUEST", where, f"the nonce is {predicate.nonce!r}, the command says otherwise")


def _same(word: str, value: Any) -> bool:
    try:
        return float(word) == float(value)
    except (TypeError, ValueError, OverflowError):
        return bool(word == value)


def options(predicate: Predicate) -> Findings:
    """What was asked for is what was judged and measured."""
    asked, model = predicate.request.options, predicate.model
    for at, run in enumerated(predicate):
        if run.parity.verdict == "FAIL" or model is None:
            continue
        for name in ("act", "kv"):
            if name in run.engine and name in asked and run.engine[name] != asked[name]:
                why = f"{run.engine[name]!r}, asked for {asked[name]!r}"
                yield Finding("RCPT-REQUEST", f"{at}/engine/{name}", why)
        if asked.get("require_gpu") is True and run.device.kind != "gpu":
            why = f"{run.backend} passed on a {run.device.kind} device, and a GPU was required"
            yield Finding("RCPT-REQUEST", f"{at}/device/kind", why)
        if "no_parity" in asked and asked["no_parity"] is not (run.parity.verdict == "INVALID-CORRECTNESS"):
            why = f"{run.parity.verdict}, and the option no_parity is {asked['no_parity']}"
            yield Finding("RCPT-REQUEST", f"{at}/parity/verdict", why)
        for gate in run.parity.gates:
            count = asked.get("positions", DEFAULT_POSITIONS)
            wanted = min(count, model.context) if isinstance(count, int) else None
            if gate.name == "positions_min" and gate.value != wanted:
                why = f"{gate.value} positions were probed, asked for {wanted}"
                yield Finding("RCPT-REQUEST", f"{at}/parity/gates", why)
        isa = asked.get("isa")
        if isa and run.device.api == NATIVE and any(dialect_of(kernel.id) != isa for kernel in run.kernels):
            yield Finding("RCPT-REQUEST", f"{at}/kernels", f"not of the instruction set {isa} that was asked for")
        if predicate.kind == "bench":
            yield from _points(run, asked, at)
    seed = predicate.seeds.get("tokens")
    if predicate.kind == "bench" and predicate.runs and asked.get("seed", seed) != seed:
        yield Finding("RCPT-REQUEST", "/predicate/seeds/tokens", f"{seed}, the option is {asked['seed']}")


def _points(run: Run, asked: dict[str, Any], at: str) -> Findings:
    """Every prompt and depth that was asked for was measured, or skipped with a reason, and no other one."""
    if not {"prompts", "depths"} <= set(asked) or run.errors:
        return
    wanted = {*_names("pp", asked["prompts"]), *_names("tg@", asked["depths"])}
    there = {each.name for each in run.measurements} | {each.name for each in run.skipped}
    for name in sorted(wanted ^ there)[:1]:
        why = f"{name} was {'asked for and is not there' if name in wanted else 'never asked for'}"
        yield Finding("RCPT-REQUEST", f"{at}/measurements", why)


def _names(prefix: str, lengths: Any) -> Iterator[str]:
    yield from (f"{prefix}{each}" for each in (lengths if isinstance(lengths, list) else ()))
