"""``kparity init``: a project whose own kernel is judged, with its tests and its lanes."""

from __future__ import annotations

from pathlib import Path

import click

from kparity.cli.command import Command
from kparity.cli.options import FOLDER

FILES = {
    "my_kernels.py": "my_kernels.py", "test_my_kernels.py": "test_my_kernels.py",
    ".github/workflows/kparity.yml": "github.yml", ".gitlab-ci.yml": "gitlab.yml",
}  # fmt: skip
"""Where each goes → the text of it in ``kparity/data/project``, which ends in ``.txt`` there."""


@click.command(
    cls=Command,
    examples=("kparity init my_project",),
)
@click.argument("folder", type=FOLDER, required=False, default=Path(), metavar="[DIR]")
def init(folder: Path) -> int:
    """Write a project into DIR [default: this folder]: a kernel of your own to begin with, a test of it for pytest, and
    lanes for GitHub and GitLab.

    What is there already stays as it is, and is named. Exit code 2 where nothing could be written.
    """
    from importlib.resources import files as packaged

    from kparity.cli.table import say
    from kparity.errors import WrongInput
    from kparity.host import files
    from kparity.host.streams import log

    files.refuse_no_folder(folder)
    texts, written = packaged("kparity") / "data" / "project", list[Path]()
    for place, text in FILES.items():
        path = folder / place
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:  # never over what is there, whoever put it there
                file.write((texts / f"{text}.txt").read_text("utf-8"))
            written.append(path)
        except FileExistsError:
            log(f"{path} is there already; it stays as it is")
        except OSError as error:
            raise WrongInput(f"{path} cannot be written: {error.strerror}; name another folder") from error
    if not written:
        raise WrongInput(f"{folder} has every file already; name another folder")
    for path in written:
        say(str(path))
    here = "" if folder == Path() else f"cd {folder} && "
    log(f"next: {here}pytest -m parity && kparity check my_kernels.py:gemv --op tgemv --quick")
    return 0
