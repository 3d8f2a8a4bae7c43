"""Every command in the blocks of shell of README, docs and examples is run, or named with the reason and with who does.

The tutorial is followed word for word by ``test_site.py``, examples of helps are run by ``test_cli_grammar.py``, and
installations by ``newcomer.py``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

import kparity
from kparity.cli.main import cli
from tests import burnin_server, ray_cluster
from tests.conftest import required
from tests.newcomer import shell
from tests.page_commands import BEFORE, EXAMPLE, FOLLOWED, TABLE, Left, Run
from tests.served import served
from tests.test_cli_grammar import SERVERS, every_example

ROOT = Path(__file__).resolve().parent.parent
PATHS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
PAGES = {str(path.relative_to(ROOT)): shell(path.read_text("utf-8")) for path in PATHS}
EXAMPLES = {*every_example()}


def way(page: str, command: str) -> Left | Run:
    """How this command of this page is run, if it is."""
    if page in FOLLOWED:
        return FOLLOWED[page]
    if command in EXAMPLES and command not in TABLE and not page.startswith("examples"):
        return EXAMPLE
    return TABLE.get(command, Run())


def test_every_block_says_what_it_is() -> None:
    """Or its commands would not be found."""
    for path in PATHS:
        fences = re.findall(r"^ *```(.*)$", path.read_text("utf-8"), re.M)
        kinds, ends = set(fences[::2]), set(fences[1::2])
        assert ends <= {""} and kinds <= {"sh", "console", "python", "yaml", "toml", "json", "text"}, path


def test_the_table_names_commands_of_pages_alone() -> None:
    assert TABLE.keys() - {command for commands in PAGES.values() for command, _ in commands} == set()


@pytest.mark.parametrize("command", [command for command, each in TABLE.items() if isinstance(each, Left)])
def test_what_is_left_out_is_run_by_somebody_and_understood(command: str) -> None:
    each = TABLE[command]
    assert isinstance(each, Left)
    file, _, test = each.by.partition("::")
    assert (ROOT / file).is_file() and (not test or f"\ndef {test}(" in (ROOT / file).read_text("utf-8")), each.by
    if command.startswith("kparity "):
        understood(command)


def understood(command: str) -> None:
    """Parse its words as click does; raises UsageError for an option or a command that there is not."""
    words, found, context = shlex.split(command)[1:], cli, click.Context(cli)
    while isinstance(found, click.Group) and words and (child := found.get_command(context, words[0])):
        found, context, words = child, click.Context(child, parent=context, info_name=words[0]), words[1:]
    assert found is not cli, command
    found.make_context(context.info_name, words, parent=context.parent, resilient_parsing=True)
    found.make_parser(context).parse_args(words)


def here(tool: str) -> bool:
    """Whether this one of conftest.TOOLS can be had; fails where it is required and cannot."""
    module = {"llamacpp": "xllamacpp"}.get(tool, tool)
    found = bool(os.environ.get("KPARITY_LLAMACPP")) if tool == "llama.cpp" else find_spec(module) is not None
    assert found or not required(tool), tool
    return found


class Reader:
    """Follows a page in a folder that holds a model and the examples, with the servers that it speaks of."""

    def __init__(self, page: str, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.servers = folder, stack, dict[tuple[str, str], str]()
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(Path(kparity.__file__).parent / "data/embedded.gguf", folder / "model.gguf")
        self.start = folder / Path(page).parent if page.startswith("examples") else folder
        # PYTHONPATH is for `python -m tools.…`; what these tests require is no requirement of a reader's.
        given = {name: value for name, value in os.environ.items() if name != "KPARITY_REQUIRE"}
        self.environment = {**given, "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def server(self, kind: str, address: str) -> str:
        """Where a server of this kind is instead of at this address, started when it is first asked for."""
        if (kind, address) not in self.servers:
            made = burnin_server.serving() if kind == "fake" else served("-b", "cpu")
            found = self.stack.enter_context(made)
            self.servers[kind, address] = found if isinstance(found, str) else found.url
        return self.servers[kind, address]

    def cluster(self) -> None:
        """A Ray cluster, found by whoever asks for ``auto``."""
        if "RAY_ADDRESS" not in self.environment:
            ray_cluster.needed()
            self.environment["RAY_ADDRESS"] = self.stack.enter_context(ray_cluster.Raylets("one")).address

    def run(self, line: str, codes: tuple[int, ...], server: str = "fake") -> None:
        """One command, which must end with one of these codes."""
        if "--address auto" in line:
            self.cluster()
        for address in (each for each in SERVERS if each in line):
            line = line.replace(address, self.server(server, address))
        done = subprocess.run(["sh", "-c", line], cwd=self.start, env=self.environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=600, check=False)  # fmt: skip
        said = f"{line}\nends with {done.returncode}, not {codes}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert done.returncode in codes and "Traceback (most recent" not in done.stderr, said


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, commands in PAGES.items() if commands and page not in FOLLOWED])
def test_every_command_of_a_page_runs(page: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(page, tmp_path, stack)
        for line in BEFORE.get(page, ()):
            reader.run(line, (0,))
        for command, remark in PAGES[page]:
            if command.startswith("cd "):
                reader.start = tmp_path / command[3:]
                continue
            how = way(page, command)
            if isinstance(how, Left):
                continue
            if how.tool and not here(how.tool):
                continue
            told = re.search(r"exit code (\d)", remark)
            reader.run(f"{how.as_ or command} {how.more}", (int(told[1]),) if told else how.codes, how.server)
