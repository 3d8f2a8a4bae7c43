"""``kparity``: the group of commands, loaded one by one, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys

import click

from kparity import __version__
from kparity.cli.command import Group
from kparity.host import progress, signals, streams
from kparity.host.text import printable

COMMANDS = {
    "probe": ("kparity.cli.probe", "Probe backends in order and show which one may serve."),
    "run": ("kparity.cli.run", "Generate text on the first backend that passes its probe."),
    "serve": ("kparity.cli.serve", "Serve an OpenAI-compatible API on the first backend that passes its probe."),
    "check": ("kparity.cli.check", "Hold every op of every backend against fp64 truth."),
    "init": ("kparity.cli.init", "Write a project with a kernel of your own, its tests and its lanes."),
    "source": ("kparity.cli.source", "Print the text of an op as a backend's compiler gets it."),
    "ops": ("kparity.cli.ops", "List the ops, or show what one is: formula, ABI, cases, kinds of input."),
    "bench": ("kparity.cli.bench", "Measure speed beside proof that the output was right."),
    "claim": ("kparity.cli.claim", "Hold a published speed against bytes and bandwidth."),
    "ladder": ("kparity.cli.ladder", "Compare two engines on one model, rung by rung."),
    "bisect": ("kparity.cli.bisect", "Find where two engines part: position, layer, slot, op."),
    "diagnose": ("kparity.cli.diagnose", "Say what is wrong with an engine that differs from another."),
    "burnin": ("kparity.cli.burnin", "Hold two servers against each other, round by round, before one takes over."),
    "ppl": ("kparity.cli.ppl", "Compare the perplexity of two engines on one text."),
    "cutover": ("kparity.cli.cutover", "Lead the traffic to another server once every gate is green, and back."),
    "fleet": ("kparity.cli.fleet", "Probe, check, measure or burn in every GPU of a Ray cluster, and compare them."),
    "mutate": ("kparity.cli.mutate", "Run known-wrong kernels through the gates: which gate rejects which."),
    "trace": ("kparity.cli.trace", "Record what an engine computes, slot by slot, and compare two recordings."),
    "report": ("kparity.cli.report", "Make one HTML page of what was written as JSON and receipts."),
    "contract": ("kparity.cli.contract", "Validate, show and check contracts."),
    "preflight": ("kparity.cli.preflight", "Show which backends this machine has, and what the others lack."),
    "explain": ("kparity.cli.explain", "Explain a reason code such as KP-CUDA-NODRIVER."),
    "model": ("kparity.cli.model", "Look into a model file."),
    "receipt": ("kparity.cli.receipt", "Verify, sign, show, list and compare receipts."),
    "schema": ("kparity.cli.schema", "Print the JSON Schema of a receipt, a contract, or the JSON of a command."),
    "completion": ("kparity.cli.completion", "Print the completion for bash, zsh or fish."),
    "man": ("kparity.cli.man", "Print the manual page."),
}
"""Name → module with a click command of the same name, and the help line that needs no import."""
HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click raises to show the help of a group by itself."""


@click.group(
    cls=Group,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    examples=("kparity probe --backends cuda,wgpu,cpu", "kparity probe --help"),
)
@click.version_option(__version__, prog_name="kparity", message="%(prog)s %(version)s")
def cli() -> None:
    """Decides whether a GPU backend may be trusted with ternary (BitNet b1.58) inference."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: a command returns its exit code, and every deliberate error is one sentence on stderr."""
    signals.heed(at_once=True)
    streams.guard()
    progress.show()
    # Starting numpy's threads costs more than they could save here: the dispatcher compares one pair of logits.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = _run(arguments)
    signals.heed(at_once=True)
    problem = streams.finish()
    if problem:
        streams.log(f"kparity: {problem}")
    sys.exit(2 if problem else code)


def _run(arguments: list[str] | None) -> int:
    from kparity.errors import KparityError

    try:
        signals.heed()
        code = cli.main(args=arguments, prog_name="kparity", standalone_mode=False)
    except click.ClickException as error:
        if not isinstance(error, HELP):
            vars(error)["message"] = printable(error.message)
        error.show(sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as ended:
        signals.heed(at_once=True)
        streams.log("kparity: interrupted")
        stopped = ended.__cause__ or ended
        return 128 + (stopped.number if isinstance(stopped, signals.Stopped) else signals.NUMBERS[0])
    except KparityError as error:
        if os.environ.get("KPARITY_DEBUG") not in (None, "", "0"):
            raise
        streams.log(f"kparity: {error}")
        return error.exit_code
    except OSError as error:
        missing = f"{error.filename or error}: no such file" if isinstance(error, FileNotFoundError) else str(error)
        advice = "; let it have more of them (ulimit -n 256)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        streams.log(f"kparity: {missing}{advice}")
        return 2
    except MemoryError:
        streams.log("kparity: out of memory; use a smaller model or file, or a machine with more memory")
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
