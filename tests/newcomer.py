"""The first hour: clones this checkout into a path with spaces, sets it up and runs the README's commands as printed.

``python3 tests/newcomer.py [REPOSITORY] [--all]``, with Python's own library alone. What takes minutes is cut down as
``SHORTER`` says, unless ``--all``. The home is a fresh one, so that nothing was cached, and nothing may be left in it
but ``USUAL``. Exit code 1 where a command ends otherwise than it should.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODES = {
    "kparity probe --backends cuda,wgpu,cpu": (0, 1), "kparity probe --require cuda": (0, 3),
    "kparity probe --backends cuda,cpu": (0, 1), "kparity check --replay d -b cpu": (0, 2),
    r"kparity cutover status\|flip\|rollback": (1, 3), "kparity check --cuda my.cu --kernel my_gemv --op tgemv": (0, 3),
    "kparity check -b ggml:CPU,ggml:Vulkan0 --lib DIR": (3,), "kparity fleet probe --address auto": (2,),
}  # fmt: skip
"""Other codes than 0: of a backend that is rejected, a GPU that is not there, a folder that nothing failed into, three
rounds that decide nothing, CUDA's compiler (the extra ptx), a build of llama.cpp and Ray that are not here.
"""
SHORTER = {
    "kparity check -b cpu,wgpu,opencl": "kparity check -b cpu,wgpu,opencl -o add --quick",
    "kparity mutate": "kparity mutate --op add --backends numpy,cpu --html mutants.html",
}
FILLED = {
    "kparity check --cuda my.cu --kernel my_gemv --op tgemv": "kparity check --cuda examples/own_cuda/ternary_gemv.cu"
    " --kernel ternary_gemv --map examples/own_cuda/ternary_gemv.yaml --op tgemv --quick",
    "kparity check my.py:gemv --op tgemv": "kparity check examples/own_function/ternary_gemv.py:gemv --op tgemv"
    " --quick",
    "kparity check --lib ./libmine.so --symbol my_gemv --op tgemv": "cc -O2 -shared -fPIC -o libmine.so"
    " examples/own_library/ternary_gemv.c && kparity check --lib ./libmine.so"
    " --symbol my_gemv --op tgemv --map examples/own_library/ternary_gemv.yaml --quick",
    "kparity check -b ggml:CPU,ggml:Vulkan0 --lib DIR": "pip install -q --no-deps ./integrations/ggml &&"
    " kparity check -b ggml:CPU -o ggml_add --lib .; code=$?; pip uninstall -q -y kparity-ggml; exit $code",
    "kparity source OP -b B": "kparity source rope -b cuda",
    "kparity init [DIR]": "kparity init own && cd own && pytest -q -m parity && kparity check my_kernels.py:gemv"
    " --op tgemv --quick; code=$?; rm -r ../own; exit $code",
    "kparity ops [OP]": "kparity ops rope",
    "kparity serve -b wgpu,cpu": "timeout --preserve-status 30 kparity serve -b cpu",
    "kparity burnin run --v1 URL --v2 URL": """kparity serve -b cpu --port 8193 & trap "kill $!" EXIT
        until python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8193/health')" 2>/dev/null
        do sleep 1; done
        kparity burnin run --v1 http://127.0.0.1:8193 --against-itself --api completions --max-rounds 3""",
    "kparity ppl --ref A --cand B": "kparity ppl --ref kparity:numpy --cand kparity:cpu --tokens 4096",
    r"kparity cutover status\|flip\|rollback": "kparity cutover status",
    r"kparity claim FILE\|TEXT": "kparity claim '1 tokens/s, a 1 MB model on 1 GB/s' --receipt r.json",
    "kparity report DIR -o report.html": "kparity report r.json -o report.html",
    "kparity model doctor model.gguf": "kparity model doctor kparity/data/embedded.gguf",
    "kparity model inspect model.gguf": "kparity model inspect kparity/data/embedded.gguf",
}
"""Commands of the README with the words that stand for others."""
BEYOND = (
    "kparity receipt keygen key.pem", "kparity receipt sign r.json --key key.pem", "kparity receipt show r.json",
    "kparity receipt list .", "kparity receipt diff r.json r.json", "kparity receipt page . --output page.html",
    "python -c 'import kparity.testing'", "python -c 'import kparity; print(kparity.select([\"cuda\", \"cpu\"]).name)'",
    "kparity explain bos_cosine", "kparity preflight -v",
)  # fmt: skip
"""What the README says in words only."""
USUAL = (".cache", ".rustup")
"""What may be left in a home; pip asks rustc for its version, and rustup then makes the second."""


def shell(page: str) -> list[tuple[str, str]]:
    """The commands in the blocks of sh and of console of a page, each with the remark behind it."""
    found = []
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```$", page, re.M | re.S):
        lines = block.replace("\\\n", " ").splitlines()
        if kind == "console":  # the others are what it prints
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            command, *remark = re.split(" +# ", line, maxsplit=1)
            found.append((" ".join(command.split()), "".join(remark)))
    return found


def commands(readme: str) -> list[str]:
    """The first cells of its table of commands, and the commands of its blocks that call kparity."""
    table = readme.partition("| command | what it does |")[2].partition("\n\n")[0]
    called = (command for command, _ in shell(readme) if command.startswith("kparity "))
    return [*re.findall(r"^\| `(kparity [^`]+)` \|", table, re.M), *called]


class Hour:
    """The folder of a newcomer, and what went wrong so far."""

    def __init__(self, repository: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="a newcomer "))
        self.clone, self.home, self.scratch = (self.base / name for name in ("a clone", "a home", "tmp"))
        self.home.mkdir()
        self.scratch.mkdir()
        others = ("XDG_", "PYTHON", "VIRTUAL_ENV")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        self.environment |= {"HOME": str(self.home), "TMPDIR": str(self.scratch)}
        self.environment["PATH"] = f"{self.clone}/.venv/bin:{self.environment['PATH']}"
        self.wrong: list[str] = []
        self.run(f"git clone -q '{repository}' '{self.clone}'", self.base)

    def run(self, command: str, folder: Path, codes: tuple[int, ...] = (0,)) -> str:
        """One command; what it printed."""
        begun = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        right = done.returncode in codes and "Traceback (most recent call last)" not in done.stdout
        word, seconds = "ok" if right else "WRONG", time.monotonic() - begun
        print(f"{word:<6}{done.returncode:>3} {seconds:8.1f} s  {command}", flush=True)
        if not right:
            self.wrong.append(command)
            print("\n".join(f"       | {line}" for line in done.stdout.splitlines()[-25:]))
        return done.stdout

    def refuse(self, what: str) -> None:
        """Something is not as it should be."""
        self.wrong.append(what)
        print(f"WRONG  {what}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", nargs="?", default=str(ROOT))
    parser.add_argument("--all", action="store_true", help="run what takes minutes as it is printed")
    options = parser.parse_args()
    begun, hour = time.monotonic(), Hour(options.repository)
    print(hour.run("sh setup.sh probe", hour.clone, (0, 1)))
    print(f"the first table came after {time.monotonic() - begun:.0f} s", flush=True)
    every = commands((hour.clone / "README.md").read_text("utf-8"))
    for name in {*CODES, *SHORTER, *FILLED} - set(every):
        hour.refuse(f"no command of the README: {name}")
    for printed in (*every, *BEYOND):
        command = FILLED.get(printed, printed if options.all else SHORTER.get(printed, printed))
        said = hour.run(command, hour.clone, CODES.get(printed, (0,)))
        if "not checked" in said or "no checkout" in said:
            hour.refuse(f"{command} leaves something out: {said[-2000:]}")
    left = [path for path in (*hour.home.iterdir(), *hour.scratch.iterdir()) if path.name not in USUAL]
    if left:
        hour.refuse(f"left behind: {', '.join(map(str, left))}")
    print(f"{len(hour.wrong)} wrong; {time.monotonic() - begun:.0f} s in all, in {hour.base}")
    if not hour.wrong:
        shutil.rmtree(hour.base)
    return 1 if hour.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
