"""Follows a page word for word: its files are written, its commands are run in order, and say what the page shows.

A block behind a line that ends in "`PATH`:" is a file. In a block of ``console`` a command begins with ``$ ``, its exit
code stands behind it where it is not 0, and each line below it must be printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w./-]+)`:\s*\Z")
OWN_PAGES = ("backend", "op", "engine", "contract", "mutants")
"""What another package can bring: ``docs/own-KIND.md``."""
PROSE = ("text", "json")
"""Blocks that may be neither a file nor commands: what is said elsewhere."""


def plain(text: str) -> str:
    """In one line, its spaces drawn together."""
    return " ".join(text.split())


def surroundings(folder: Path) -> dict[str, str]:
    """The variables of a reader who installs packages without a network, beside this environment's."""
    site = folder.parent / f"{folder.name}-site"
    pip = {"PIP_TARGET": str(site), "PIP_UPGRADE": "1", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1",
           "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {name: value for name, value in os.environ.items() if name != "KPARITY_REQUIRE"}
    return {**given, **pip, "PATH": path, "PYTHONPATH": str(site), "COLUMNS": "120"}


def follow(page: Path, folder: Path) -> list[str]:
    """The commands that were run, each of which did what the page says."""
    text, ran, environment = page.read_text(encoding="utf-8"), list[str](), surroundings(folder)
    for block in BLOCK.finditer(text):
        kind, content = block.groups()
        named = FILE.search(text[: block.start()])
        if named:
            place = folder / named[1]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, encoding="utf-8")
        elif kind == "console":
            for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                line, *shown = part.splitlines()
                command, _, code = line.partition("    # exit code ")
                done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True,
                                      text=True, stdin=subprocess.DEVNULL, timeout=600, check=False)  # fmt: skip
                told = f"{command}\n{done.stdout}{done.stderr}"
                assert done.returncode == int(code or 0) and "Traceback (most recent" not in told, told
                said = plain(done.stdout)
                assert [each for each in shown if plain(each) not in said] == [], told
                ran.append(command)
        else:
            assert kind in PROSE, f"{page.name}: no file is named before {content.splitlines()[0]!r}"
    return ran
