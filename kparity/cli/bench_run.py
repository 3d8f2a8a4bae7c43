"""Drives ``kparity bench``: the probe, the measurement, the receipt, the table, the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from kparity.cli.command import for_people
from kparity.errors import BadModel, WrongInput
from kparity.host import files, progress
from kparity.host.streams import log

if TYPE_CHECKING:
    from kparity.receipts.record import Predicate

BUSY = 0.5
"""Load per processor from which on a warning is given."""


def run(options: Mapping[str, Any]) -> int:
    """Measure what the options say; the exit code."""
    from kparity.probe.dispatcher import parse_order
    from kparity.receipts import statement

    order, with_ops = parse_order(options["backends"]), options["ops_expression"] is not None
    _check(options, with_ops)
    paths = [path for path in (options["receipt"], options["json_path"]) if path]
    _choose(options)
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY * processors:  # threads that meet at barriers suffer most, and ratios with them
        log(f"the machine is busy (load {load:.1f} on {processors} processors): times and ratios may be anything")
    predicate, code = (_ops if with_ops else _models)(options, order)
    document = statement.statement(predicate) if paths else {}
    for path in paths:
        statement.write(path, document)
    if options["row"]:
        from kparity.cli.bench_table import community

        files.write(files.STDIO, community(predicate, document["predicate"]["sha256"]) + "\n")  # a row is never broken
    return code


def _check(options: Mapping[str, Any], with_ops: bool) -> None:
    """Raise WrongInput for options that contradict each other, and for files that are no models."""
    from kparity.model import foreign, gguf_file

    if options["model"] and options["shape"]:
        raise WrongInput("--model and --shape exclude each other: give one of them")
    if options["no_parity"] and options["require_gpu"]:
        raise WrongInput("--no-parity and --require-gpu exclude each other: the probe is what refuses a device")
    if with_ops and (options["model"] or options["shape"]):
        raise WrongInput("--ops measures single ops, no model: leave --model and --shape out")
    if options["row"] and (with_ops or not options["receipt"]):
        raise WrongInput(
            "--row tells models, with the digest of their receipt: leave --ops out, and give --receipt FILE"
        )
    if options["row"] and "-" in (options["receipt"], options["json_path"]):
        raise WrongInput("--row goes to stdout; give --receipt and --json each a file")
    if with_ops and options["nonce"]:
        raise WrongInput("--ops draws nothing from a nonce; leave --nonce out, or measure a model")
    if with_ops and options["require_gpu"]:
        raise WrongInput("--ops has no probe that could refuse a device; name the backends of the GPU by --backends")
    if options["baseline_files"] and (with_ops or "llama.cpp" not in options["baselines"]):
        raise WrongInput("--baseline-file is for --baseline llama.cpp and models: give that, and no --ops")
    for path in options["baseline_files"]:
        with files.opened(path, "a GGUF file") as file:
            head, status = file.read(foreign.SEEN), os.fstat(file.fileno())
        if not head.startswith(b"GGUF"):
            raise WrongInput(f"{path}: {foreign.described(head)}")
        try:
            gguf_file.refuse_unfinished(status)
        except BadModel as error:
            raise WrongInput(f"{path}: {error}") from None
    if not with_ops and "torch" in options["baselines"]:
        raise WrongInput("--baseline torch is for single ops; give --ops, or --baseline llama.cpp")
    if not with_ops and not (options["prompts"] or options["depths"]):
        raise WrongInput("--pp - and --tg - leave nothing to measure; give one of them a length")


def _choose(options: Mapping[str, Any]) -> None:
    """Instruction set and threads, for this process and every one that it starts."""
    if options["isa"]:
        from kparity.backends.cpu import choose_isa

        os.environ["KPARITY_CPU_ISA"] = choose_isa(options["isa"], "--isa")
    if options["threads"]:
        os.environ["KPARITY_THREADS"] = str(options["threads"])


def _models(options: Mapping[str, Any], order: Sequence[str]) -> tuple[Predicate, int]:
    """Models end to end: the predicate of the receipt, and the exit code."""
    from kparity.model import held

    with held(_model_path(options)) as model:
        return _measured(options, order, str(model.path))


def _measured(options: Mapping[str, Any], order: Sequence[str], path: str) -> tuple[Predicate, int]:
    """The same of the file at ``path``."""
    from kparity.bench.endtoend import EndToEndRun, Request
    from kparity.bench.receipt import exit_code, failures, models_predicate
    from kparity.cli.bench_table import print_bench
    from kparity.receipts.statement import now

    begun = now()
    rows = [] if options["no_parity"] else _probed(options, order, path)
    accepted = [row.backend for row in rows if row.accepted] if rows else list(order)
    request = Request(
        path, tuple(accepted), options["prompts"], options["depths"], options["seconds"] or Request.seconds,
        options["seed"], options["act"], options["kv"], options["index"],
        ("", *options["baseline_files"]) if "llama.cpp" in options["baselines"] else (), options["nonce"],
    )  # fmt: skip
    found = EndToEndRun(request, log).run()
    seed = options["seed"] if options["shape"] else None
    asked = _asked(options, request.seconds)
    predicate = models_predicate(request, order, rows, found, sys.argv, begun, asked, seed)
    if for_people():
        print_bench(predicate)
    for line in failures(predicate):
        log(f"ERROR {line}")
    return predicate, exit_code(predicate)


def _model_path(options: Mapping[str, Any]) -> str:
    """The file: the one given, the embedded one, or that of a shape, which is written first."""
    from kparity.bench import shapes
    from kparity.model import load_model, soundness

    path = options["model"]
    if options["shape"]:
        log(f"model: random weights of the shape {options['shape']}")
        with progress.task("writing the model"):
            path = str(shapes.model_file(options["shape"], options["seed"]))
    with closing(load_model(path)) as model:
        soundness.refuse(model)  # without a probe, too
        return str(model.path)


def _probed(options: Mapping[str, Any], order: Sequence[str], path: str) -> list[Any]:
    """The probe's row of every backend; who may not serve is told on stderr."""
    from kparity.probe.dispatcher import forced_by, known_issues, probe_all
    from kparity.probe.messages import Request

    request = Request(
        path, timeout=options["timeout"] or 0.0, require_gpu=options["require_gpu"], act=options["act"],
        kv=options["kv"], index=options["index"], issues=known_issues(), nonce=options["nonce"],
        trust_claims=options["trust_claims"],
    )  # fmt: skip
    return probe_all(order, request, forced=forced_by(None, order)).rows


def _asked(options: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The options as a receipt holds them."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {**plain, "seconds": seconds}


def _ops(options: Mapping[str, Any], order: Sequence[str]) -> tuple[Predicate, int]:
    """Single ops: the predicate of the receipt, and the exit code."""
    from kparity.bench import ops
    from kparity.bench.receipt import ops_predicate
    from kparity.cli.bench_table import print_ops
    from kparity.receipts.statement import now

    begun = now()
    request = ops.Request(
        order, options["ops_expression"] or None, options["baselines"], options["threads"] or 0, options["index"],
        options["isa"] or "", options["seed"], options["seconds"] or ops.Request.seconds,
    )  # fmt: skip
    result = ops.run(
        request, lambda row: log(ops.line(row)), lambda name, why: log(f"{name}: [{why.code}] {why.reason}")
    )
    if for_people():
        print_ops(result.rows)
    return ops_predicate(result, order, sys.argv, begun, _asked(options, request.seconds)), result.exit_code
