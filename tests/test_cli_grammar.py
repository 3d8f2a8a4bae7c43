"""One grammar: the same option means the same in every command, and every help ends with examples that run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import kparity
from kparity.cli import names
from kparity.cli.command import EXIT_CODES, Command, Context, File
from kparity.cli.explain import explain
from kparity.cli.main import cli
from kparity.contracts.terms import every
from kparity.device.codes import reasons
from kparity.errors import WrongInput
from kparity.receipts.findings import REFUSALS
from kparity.traces.slots import TABLE
from tests import burnin_server, made_receipts, ray_cluster
from tests.cli import python, run
from tests.served import served
from tests.test_startup import LOADED, UNASKED

MEANINGS = {
    "-b": "backends", "--backends": "backends", "-o": "op_names", "--op": "op_names", "--json": "json_path",
    "--junit": "junit_path", "-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose",
    "--index": "index", "--model": "model",
}  # fmt: skip
"""Option → the parameter that it is, wherever it is."""
FLEET = ("fleet probe", "fleet check", "fleet bench")
PAIRS = "fleet burnin"
HAVE = {
    "--json": {"probe", "check", "ladder", "bisect", "diagnose", "mutate", "bench", "bench compare", "preflight",
               "ops", "model inspect", "contract show", "contract validate", "contract coverage", "receipt verify",
               "receipt list", "receipt diff", "trace diff", "burnin stats", "burnin since", "burnin drift",
               "burnin recent", "ppl", "cutover status", "fleet report"},
    "-b": {"probe", "run", "serve", "check", "mutate", "bench", "preflight", "source", *FLEET},
    "-o": {"check", "mutate"},
    "-q": {"probe", "check", "ladder", "bisect", "diagnose", "mutate", "bench", "burnin run", "ppl",
           *FLEET, PAIRS},
    "--index": {"probe", "run", "serve", "check", "bench"},
    "--model": {"probe", "run", "serve", "bench", "ladder", "bisect", "diagnose", "receipt verify", "ppl"},
}  # fmt: skip


WRITES = ("trace capture", "model export", "model import", "report")
"""Commands whose ``-o`` is their output."""


def commands(command: click.Command = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its words behind ``kparity``."""
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from commands(child, f"{path} {name}".strip())


TREE = dict(commands())


@pytest.mark.parametrize("path", TREE)
def test_an_option_means_the_same_everywhere(path: str) -> None:
    for param in TREE[path].params:
        assert isinstance(param.type, File) or not isinstance(param.type, click.Path), param.name
        for letter in {*param.opts} & {*MEANINGS}:
            # these take one backend, and this one's -o is its output
            if (letter, path) not in (
                ("-b", "source"),
                ("-b", "receipt recompute"),
                *(("-o", each) for each in WRITES),
            ):
                assert param.name == MEANINGS[letter], letter
    for letter, paths in HAVE.items():
        assert (path in paths) <= any(letter in param.opts for param in TREE[path].params), letter


@pytest.mark.parametrize("path", TREE)
def test_help_ends_with_exit_codes_and_examples(path: str) -> None:
    command = TREE[path]
    assert isinstance(command, Command)
    text = command.get_help(click.Context(command, info_name=f"kparity {path}".strip()))
    assert " ".join(EXIT_CODES.split()) in " ".join(text.split())
    if not isinstance(command, click.Group) or command.invoke_without_command:
        assert command.examples and text.rstrip().endswith(command.examples[-1])


def every_example() -> list[str]:
    lines = (line for command in TREE.values() if isinstance(command, Command) for line in command.examples)
    return [*dict.fromkeys(lines)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples find what others of them write."""
    made = tmp_path_factory.mktemp("examples")
    shutil.copy(Path(kparity.__file__).parent / "data/embedded.gguf", made / "model.gguf")
    (made / "claim.yaml").write_text("tokens_per_s: 1\nmodel: model.gguf\nbandwidth_gb_s: 1\n")
    (made / "route.json").write_text('{"command": "true"}')
    gemv = Path(__file__).parents[1] / "examples" / "own_library" / "ternary_gemv.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(made / "libmine.so"), str(gemv)], check=True)
    for place, suffix in (("own_cuda", ".cu"), ("own_cuda", ".yaml"), ("own_function", ".py")):
        shutil.copy(Path(__file__).parents[1] / "examples" / place / f"ternary_gemv{suffix}", made / f"my{suffix}")
    return made


BURNIN = "kparity burnin run --v1 http://127.0.0.1:8080 --v2 http://127.0.0.1:8180"
MADE_BY = {"ours.trace": "kparity trace capture -e kparity:cpu --tokens 0,34,77 --tensors -o ours.trace",
           "plain.trace": "kparity trace capture -e reference --tokens 0,34,77 --tensors -o plain.trace",
           "probe.json": "kparity probe --require cpu --receipt probe.json",
           "bench.json": "kparity bench -b cpu --pp 32 --tg 0 --seconds 2 --receipt bench.json",
           "ladder.json": "kparity ladder --ref kparity:numpy --cand kparity:cpu --ladder masks --json ladder.json",
           "model.hf": "kparity model export -o model.hf",
           "burnin.jsonl": f"{BURNIN} --max-rounds 60 --log burnin.jsonl",
           "ppl.json": "kparity ppl --cand kparity:cpu --json ppl.json",
           "fleet-probe": "kparity fleet probe --per node -b cpu --out fleet-probe",
           "team.pem": "kparity receipt keygen team.pem"}  # fmt: skip


MADE_ONCE = ("team.pem", "model.hf", "burnin.jsonl", "fleet-probe")
TOO_FEW = ("kparity fleet burnin", "kparity burnin stats", "kparity burnin since", "kparity cutover status",
           "kparity cutover flip")  # fmt: skip
"""What says after a minute that there is too little data."""
SERVERS = {"http://127.0.0.1:8080", "http://127.0.0.1:8180"}


def example(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    with ExitStack() as stack:
        for address in SERVERS & {*line.split()}:
            line = line.replace(address, stack.enter_context(burnin_server.serving()))
        words = shlex.split(line.partition(" > ")[0])
        assert words[0] == "kparity"
        if "--pairs" in words:
            two = [stack.enter_context(burnin_server.serving()) for _ in range(2)]
            (folder / "pairs.txt").write_text(" ".join(["ours", *two]), encoding="utf-8")
        elif " ".join(words[1:3]) in (*FLEET, PAIRS):
            ray_cluster.needed()
            cluster = stack.enter_context(ray_cluster.Raylets("one"))
            words[3:3] = ["--address", cluster.address]
        if words[1] == "serve":  # until it is told to end
            with served(*words[2:]) as found:
                return subprocess.CompletedProcess(words, found.ended(), "", "\n".join(found.lines))
        command = [sys.executable, "-m", "kparity", *words[1:]]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.sampled(3)
@pytest.mark.slow
@pytest.mark.parametrize("line", every_example())
def test_every_example_runs(line: str, folder: Path) -> None:
    for name, maker in MADE_BY.items():
        if name in line and line != maker and not (folder / name).exists():
            assert example(maker, folder).returncode == 0
    if line in {made for name, made in MADE_BY.items() if name in MADE_ONCE and (folder / name).exists()}:
        return  # it was run for another example, and asserted there
    done = example(line, folder)
    assert done.returncode == 3 * line.startswith(TOO_FEW) and "Traceback" not in done.stderr, done.stderr
    assert done.stdout or done.stderr or "export" in line


def test_json_alone_is_stdout_and_with_a_file_it_is_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    alone = run("ops", "rope", "--json")
    for arguments in (("rope", "--json", str(path)), ("rope", f"--json={path}")):
        path.unlink(missing_ok=True)
        done = run("ops", *arguments)
        assert done.returncode == 0 and path.read_text() == alone.stdout
    assert run("ops", "--json", "rope").stdout == alone.stdout == run("ops", "rope", "--json", "-").stdout
    assert json.loads(alone.stdout)["op"] == "rope"


def test_a_bare_json_never_writes_over_the_file_that_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"no model")
    done = run("model", "inspect", "--json", str(file))
    assert done.returncode == 2 and file.read_bytes() == b"no model", done.stderr
    receipt = tmp_path / "r.json"
    assert run("probe", "-b", "cpu", "--depth", "bos", "--receipt", str(receipt)).returncode == 3
    before = receipt.read_bytes()
    for arguments in (("receipt", "verify", "--json", str(receipt)), ("receipt", "diff", "--json", str(receipt), "x"),
                      ("receipt", "verify", str(receipt), "--json", str(receipt))):  # fmt: skip
        done = run(*arguments)
        assert done.returncode in (2, 3) and receipt.read_bytes() == before, arguments


@pytest.mark.parametrize("command", [(each,) for each in ("probe", "check", "mutate", "bench", "preflight")])
@pytest.mark.parametrize(
    ("backends", "sentence"),
    [("cpu,,numpy", "an empty name"), ("cpu,cpu", "named twice"), ("cdua", "did you mean 'cuda'"), ("", "empty")],
)
def test_lists_of_backends_are_read_alike(command: tuple[str, ...], backends: str, sentence: str) -> None:
    done = run(*command, "-b", backends)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_lists_may_be_repeated() -> None:
    listed = run("mutate", "--list", "-o", "rope,add").stdout
    assert (
        listed == run("mutate", "--list", "-o", "rope", "-o", "add").stdout and "add/" in listed and "rope/" in listed
    )
    twice = run("preflight", "-b", "cpu", "-b", "numpy", "--json")
    assert [each["backend"] for each in json.loads(twice.stdout)] == ["cpu", "numpy"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("KPARITY_THREADS", "0"), ("KPARITY_THREADS", "many"), ("KPARITY_CPU_ISA", "sse9"), ("KPARITY_THREADS", "99999")],
)
@pytest.mark.parametrize(
    "command", ["probe -b cpu", "run --prompt x -b cpu", "check -o add -b cpu", "check -o add", "bench -b cpu",
                "mutate -o add", "preflight", "contract check ladder-v1"],
)  # fmt: skip
def test_a_wrong_variable_is_not_the_backends_fault(command: str, variable: str, value: str) -> None:
    done = run(*command.split(), env={variable: value})
    assert done.returncode == 2 and f"{variable} is '{value}'" in done.stderr and "rejected" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("probe", "-b", "cpu", "--positions", "100000"), "--positions 100000 is more than the 512"),
        (("run", "-b", "cpu", "--prompt", "x", "--context", "513"), "--context 513 is more than the 512"),
    ],
)
def test_a_number_that_cannot_be_had_is_refused_and_not_clipped(arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and sentence in done.stderr, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "probe --model {}", "probe --model={}", "probe --receipt {}", "check -o {}", "check --junit {}", "check -k {}",
        "bench --shape {}", "bench --isa {}", "mutate --resume {} --list", "receipt list {}", "receipt list . --sql {}",
        "receipt verify {}", "contract show {}", "explain {}", "source add -b {}",
    ],
)  # fmt: skip
def test_what_is_empty_is_refused(line: str) -> None:
    """A variable of the shell that is not set: never a default in its place."""
    for nothing in ("", " "):
        with pytest.raises(WrongInput, match="is empty; give a value, or leave it out"):
            cli.main([word.format(nothing) for word in line.split()], standalone_mode=False)
    assert (
        run("run", "-b", "cpu", "--depth", "bos", "--beyond-proof", "--max-tokens", "2", "--prompt", "").returncode == 0
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("probe --require cpu --require numpy", "--require is given 2 times; give it once"),
        ("probe --json=a --json=-", "--json is given 2 times"),
        ("probe --require cpu,numpy", "names several backends; name one"),
        ("probe --require-gpu --no-gpu", "exclude each other"),
        ("check --json a --junit ./a", "'--json' would write over a, which '--junit' names"),
        ("bench --json - --receipt -", "would write over -, which"),
        ("probe --model old --receipt ./old", "'--receipt' would write over ./old, which '--model' names"),
        ("model inspect old --json=old", "'--json' would write over old, which"),
        ("ladder --ref recorded:. --cand kparity:cpu --json old", "would write over old, a file of '--ref'"),
        ("receipt test-result old old", "would write over old, which"),
        ("receipt page . --output probe.json", "--output would write over the receipt probe.json"),
        ("receipt keygen team.pub", "cannot hold the private key beside team.pub"),
        ("receipt keygen -", "give each a file"),
        ("mutate --list --json", "--list runs nothing: leave --json out"),
        ("check --list --junit a --csv b", "leave --junit and --csv out"),
        ("run --prompt x --receipt -", "the text goes to stdout"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(
    line: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that another one would hide, and a file that another one would replace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text("as it was")
    (tmp_path / "probe.json").write_text(json.dumps(made_receipts.receipt("cpu")))
    with pytest.raises(WrongInput, match=re.escape(sentence)):
        cli.main(line.split(), standalone_mode=False)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "probe.json"}
    assert (tmp_path / "old").read_text() == "as it was"


def test_an_engine_that_is_no_folder_owns_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command twice writes its result twice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text("of the first time")
    line = ["ppl", "--cand", "kparity:cpu", "--window", "8", "--stride", "8", "--json", "old"]
    with pytest.raises(WrongInput, match="--stride 8 leaves tokens out"):  # so far it came
        cli.main(line, standalone_mode=False)


def test_the_last_of_two_values_counts_and_it_is_said() -> None:
    done = run("check", "--seed", "1", "--seed", "2", "-o", "add", "-b", "numpy", "--quick")
    assert done.returncode == 0 and "seed 2" in done.stdout and "--seed is given 2 times; the last one" in done.stderr


def test_outputs_are_refused_before_any_work_and_numbers_are_finite() -> None:
    """Every option that says that it writes, and every one that takes a number."""
    for path, command in TREE.items():
        for param in command.params:
            ctx, help = click.Context(command), getattr(param, "help", None) or ""
            if re.match("Write |Where to write the page", help):
                assert isinstance(param.type, File) and param.type.written, (path, param.opts)
            if isinstance(param.type, click.FloatRange):
                for value in ("nan", "inf"):
                    with pytest.raises(click.BadParameter, match=r"finite|range"):
                        assert param.type.convert(value, param, ctx) is None, (path, param.opts)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("check -o add -b numpy --quick --junit -", ET.fromstring),
        ("probe -b cpu --receipt -", json.loads),
        ("bench -b cpu --ops rope[D=2 --seconds 0.01 --receipt -", json.loads),
    ],
)
def test_a_result_on_stdout_has_it_to_itself(line: str, read: Callable[[str], object]) -> None:
    done = run(*line.split())
    assert done.returncode == 0 and read(done.stdout), done.stderr


@pytest.mark.parametrize("path", TREE)
def test_help_breaks_no_word(path: str) -> None:
    def text(columns: int) -> str:
        info = f"kparity {path}".strip()
        return TREE[path].get_help(Context(TREE[path], info_name=info, terminal_width=columns, max_content_width=200))

    for columns in (60, 80):
        assert {*text(200).split()} - {*text(columns).split()} == set(), columns
        long = {line.strip() for line in text(columns).splitlines() if len(line) > columns}
        assert {line for line in long if not line.startswith("-")} <= {*TREE[path].examples}


def test_a_group_by_itself_shows_its_help() -> None:
    for group in ((), ("receipt",)):
        done = run(*group)
        assert done.returncode == 2 and len(done.stderr.splitlines()) > 10 and "\\n" not in done.stderr


def test_options_of_bench_are_not_dropped_by_its_command() -> None:
    with pytest.raises(WrongInput, match="not for compare"):
        cli.main(["bench", "--model", "x.gguf", "compare", "a", "b"], standalone_mode=False)


def test_a_backend_of_another_package_is_imported_by_children_alone(tmp_path: Path) -> None:
    """Its module may do anything: here it ends the process, with success."""
    (tmp_path / "leaver.py").write_text("import os\nos._exit(0)\n")
    info = tmp_path / "leaver-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[kparity.backends]\nliar-leaver = leaver:Leaver\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaver\nVersion: 1.0\n")
    done = run("check", "-o", "add", "--quick", "-b", "liar-leaver", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "the worker died 3 times" in done.stdout


def test_quiet_leaves_the_exit_code_and_refusals() -> None:
    done = run("probe", "-q", "-b", "hip,cpu")
    assert done.returncode == 0 and done.stdout == "" and "hip path rejected" in done.stderr


def test_required_is_said_only_where_it_was() -> None:
    for option, why in (("--require", "it was required"), ("-b", "no other backend was named")):
        done = run("probe", option, "liar-crash", "--depth", "bos", liars=True)
        assert done.returncode in (1, 3) and f"refusing, {why}:" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("check", "-b", "liar-hang", "-o", "tgemv"), ("mutate", "-b", "cpu", "-o", "tgemv", "--jobs", "1"),
        ("bench", "-b", "cpu", "--no-parity", "--seconds", "60"), ("contract", "check", "backend-output-parity-v1"),
        ("run", "-b", "liar-hang", "--prompt", "x"),
        ("ladder", "--ref", "reference", "--cand", "kparity:numpy", "--prompts", "300"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_an_interrupt_ends_every_command_with_130(command: tuple[str, ...]) -> None:
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "kparity", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root / "tests/liars")}, cwd=root,
    )  # fmt: skip
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, (out[-500:], said[-500:])
    assert "Traceback" not in said


KILL = "import os, signal, sys, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(1)"


@pytest.mark.parametrize(
    "code",
    [
        f"import kparity.__main__; {KILL}",
        f"from kparity.cli import main as m; m.cli.main = lambda **_: exec({KILL!r}); m.main([])",
        f"from kparity.cli import main as m; m._run = lambda _: exec({KILL!r}); m.main([])",
        f"def cb(_): {KILL}\nfrom kparity.host import signals; import weakref; signals.heed(); gone = {{1}}\n"
        "ref = weakref.ref(gone, cb); del gone; print('went on')",
    ],
    ids=["importing", "within exec", "before the command", "in a callback"],
)  # fmt: skip
def test_an_interrupt_at_any_moment_is_130_without_a_traceback(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "went on" not in done.stdout, done.stderr


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kparity", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("kparity ")
    wrong = subprocess.run([sys.executable, "-m", "kparity", "prbe"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "did you mean 'probe'" in wrong.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_asks_kparity(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0 and "_KPARITY_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("probe -b cpu,num", "cpu,numpy"), ("probe --require wg", "wgpu"), ("check -o rope_", "rope_store"),
        ("mutate -o en", "engine"), ("ops arg", "argmax"), ("source dense", "dense_gemv"),
        ("explain KP-CUDA-NOD", "KP-CUDA-NODRIVER"), ("explain RCPT-DIG", "RCPT-DIGEST"), ("explain bos", "bos_cosine"),
        ("contract show ladder", "ladder-v1"), ("receipt ver", "verify"),
    ],
)  # fmt: skip
def test_names_complete_without_anything_heavy(line: str, completed: str) -> None:
    words = ["kparity", *line.split()]
    env = {"_KPARITY_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    printed = python(LOADED, env=env).splitlines()
    assert f"plain,{completed}" in printed
    assert [module for module in UNASKED if module in printed[-1].split()] == []


def test_the_codes_that_complete_are_those_that_are_explained() -> None:
    assert {*reasons(), *REFUSALS, *TABLE, *(term.name for term in every())} <= {*names.codes()}
    for code in names.codes():
        assert CliRunner().invoke(explain, [code]).exit_code == 0, code


def test_the_manual_page_has_every_command_and_option() -> None:
    text = run("man").stdout
    assert text.startswith(".TH KPARITY 1") and not [line for line in text.splitlines() if line.startswith("'")]
    plain = re.sub(r"\\f[BR]", " ", text.replace(r"\-", "-").replace(r"\&", ""))
    for path, command in TREE.items():
        assert f".SS kparity {path}" in plain or not path
        for param in command.params:
            for letter in param.opts if isinstance(param, click.Option) and not param.hidden else ():
                assert re.search(rf"(?<![\w-]){re.escape(letter)}(?![\w-])", plain), letter
