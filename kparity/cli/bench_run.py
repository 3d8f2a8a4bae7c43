"""Drives ``kparity bench``: the probe, the measurement, the receipt, the table, the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kparity.errors import WrongInput

if TYPE_CHECKING:
    from kparity.receipts.record import Predicate

BUSY = 0.5
"""Load per processor from which on a warning is given."""


def log(line: str) -> None:
    """Progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def run(options: Mapping[str, Any]) -> int:
    """Measure what the options say; the exit code."""
    from kparity.probe.dispatcher import parse_order
    from kparity.receipts import statement

    order = parse_order(options["backends"])
    _check(options)
    paths = [Path(path) for path in (options["receipt"], options["json_path"]) if path and path != "-"]
    statement.refuse_unwritable(paths)
    _choose(options)
    _warn_of_load()
    with_ops = options["ops_expression"] is not None
    options = {**options, "seconds": options["seconds"] or _usual_seconds(with_ops)}
    predicate, code = _ops(options, order) if with_ops else _models(options, order)
    document = statement.statement(predicate) if paths or options["json_path"] else {}
    for path in paths:
        statement.write(path, document)
    if options["json_path"] == "-":
        import json

        click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
    return code


def _check(options: Mapping[str, Any]) -> None:
    """Raise WrongInput for options that contradict each other."""
    with_ops = options["ops_expression"] is not None
    if options["model"] and options["shape"]:
        raise WrongInput("--model and --shape exclude each other: give one of them")
    if options["no_parity"] and options["require_gpu"]:
        raise WrongInput("--no-parity and --require-gpu exclude each other: the probe is what refuses a device")
    if with_ops and (options["model"] or options["shape"]):
        raise WrongInput("--ops measures single ops, no model: leave --model and --shape out")
    if with_ops and options["require_gpu"]:
        raise WrongInput("--ops has no probe that could refuse a device; name the backends of the GPU by --backends")
    if options["baseline_files"] and (with_ops or "llama.cpp" not in options["baselines"]):
        raise WrongInput("--baseline-file is for --baseline llama.cpp and models: give that, and no --ops")
    if not with_ops and "torch" in options["baselines"]:
        raise WrongInput("--baseline torch is for single ops; give --ops, or --baseline llama.cpp")
    if not with_ops and not (options["prompts"] or options["depths"]):
        raise WrongInput("--pp - and --tg - leave nothing to measure; give one of them a length")


def _choose(options: Mapping[str, Any]) -> None:
    """Instruction set and threads, for this process and every one that it starts."""
    if options["isa"]:
        from kparity.backends.cpu import choose_isa

        os.environ["KPARITY_CPU_ISA"] = choose_isa(options["isa"])
    if options["threads"]:
        os.environ["KPARITY_THREADS"] = str(options["threads"])


def _usual_seconds(with_ops: bool) -> float:
    """Of sampling where none are asked for: for each case of an op, or for all measurements of a model."""
    if with_ops:
        from kparity.bench import ops

        return ops.Request.seconds
    from kparity.bench import endtoend

    return endtoend.Request.seconds


def _warn_of_load() -> None:
    """Say so where others compute on this machine: threads that meet at barriers suffer most, and ratios with them."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY * processors:
        log(f"the machine is busy (load {load:.1f} on {processors} processors): times and ratios may be anything")


def _models(options: Mapping[str, Any], order: Sequence[str]) -> tuple[Predicate, int]:
    """Models end to end: the predicate of the receipt, and the exit code."""
    from kparity.bench.document import BenchReceipt, exit_code, failures
    from kparity.bench.endtoend import EndToEndRun, Request
    from kparity.cli.bench_table import print_bench
    from kparity.receipts.statement import now

    begun = now()
    path = _model_path(options)
    rows = [] if options["no_parity"] else _probed(options, order, path)
    accepted = [row.backend for row in rows if row.accepted] if rows else list(order)
    request = Request(
        path, tuple(accepted), options["prompts"], options["depths"], options["seconds"], options["seed"],
        options["act"], options["kv"], options["index"], "llama.cpp" in options["baselines"],
        options["baseline_files"],
    )  # fmt: skip
    found = EndToEndRun(request, log).run()
    bench = BenchReceipt(
        request, order, rows, found, sys.argv, begun, _told(options), options["seed"] if options["shape"] else None
    )
    predicate = bench.predicate()
    if options["json_path"] != "-":
        print_bench(predicate)
    for line in failures(predicate):
        log(f"ERROR {line}")
    return predicate, exit_code(predicate)


def _model_path(options: Mapping[str, Any]) -> str:
    """The file: the one given, the embedded one, or that of a shape, which is written first."""
    from kparity.bench import shapes
    from kparity.model import load_model

    path = options["model"]
    if options["shape"]:
        log(f"model: random weights of the shape {options['shape']}")
        path = str(shapes.model_file(options["shape"], options["seed"]))
    model = load_model(path)
    path = str(model.path)
    model.close()
    return path


def _probed(options: Mapping[str, Any], order: Sequence[str], path: str) -> list[Any]:
    """The probe's row of every backend; who may not serve is told on stderr."""
    from kparity.probe.dispatcher import known_issues, probe_all
    from kparity.probe.runner import Request

    request = Request(
        path, timeout=options["timeout"] or 0.0, require_gpu=options["require_gpu"], act=options["act"],
        kv=options["kv"], index=options["index"], issues=known_issues(),
    )  # fmt: skip
    return probe_all(order, request, forced=len(order) == 1).rows


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a receipt holds them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _ops(options: Mapping[str, Any], order: Sequence[str]) -> tuple[Predicate, int]:
    """Single ops: the predicate of the receipt, and the exit code."""
    from kparity.bench.document import ops_predicate
    from kparity.bench.ops import Request, line
    from kparity.bench.ops import run as run_ops
    from kparity.cli.bench_ops_table import print_rows
    from kparity.receipts.statement import now

    begun = now()
    request = Request(
        order, options["ops_expression"] or None, options["baselines"], options["threads"] or 0,
        options["index"], options["isa"] or "", options["seed"], options["seconds"],
    )  # fmt: skip
    result = run_ops(request, lambda row: log(line(row)))
    for name, why in result.absent.items():
        log(f"{name}: [{why['code']}] {why['reason']}")
    if options["json_path"] != "-":
        print_rows(result.rows)
    return ops_predicate(result, order, sys.argv, begun, _told(options)), result.exit_code
