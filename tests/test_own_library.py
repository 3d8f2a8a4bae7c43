"""``kparity check --lib libmine.so --symbol NAME``: the library of ``examples/own_library``, right and wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.check.own_library import NAME, read
from kparity.check.record import FAIL, PASS, UNSUPPORTED, Record
from tests.cli import run

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "own_library"
TEXT, MAP = (FOLDER / f"ternary_gemv{ending}" for ending in (".c", ".yaml"))
OP = ops.get("tgemv")
CASE = OP.case(M=3, N=17, K=768)
Built = Callable[..., Path]
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """The example as a shared library, each piece of its text in place of another one that is there once."""

    def build(*changes: tuple[str, str]) -> Path:
        text = TEXT.read_text(encoding="utf-8")
        for before, after in changes:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        source, library = tmp_path / "mine.c", tmp_path / "libmine.so"
        source.write_text(text, encoding="utf-8")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return library

    return build


def judged(library: Path, mapping: Path | None = None, symbol: str = "ternary_gemv") -> list[Record]:
    own = read(str(library), symbol, "tgemv", str(mapping) if mapping else None)
    return check_case(own.adapter(NAME).open(), OP, CASE, kinds=("random",))


@pytest.mark.parametrize(("symbol", "mapping"), [("ternary_gemv", None), ("my_gemv", MAP)])
def test_the_example_passes(built: Built, tmp_path: Path, symbol: str, mapping: Path | None) -> None:
    library, found = built(), tmp_path / "found.json"
    mapped = ("--map", str(mapping)) if mapping else ()
    given = ("--lib", str(library), "--symbol", symbol, *mapped, "--op", "tgemv", "--quick", "-k", "random or nan")
    done = run("check", *given, "--json", str(found))
    assert done.returncode == 0 and f"{symbol} in the place of tgemv, on library" in done.stderr, done.stderr
    document = json.loads(found.read_text(encoding="utf-8"))
    assert {each["outcome"] for each in document["records"]} == {PASS, UNSUPPORTED}
    assert document["request"]["own"]["map"] == (str(mapping) if mapping else None)
    assert {each["kernel"] for each in document["records"]} == {"tgemv_library_own_dp4a", ""}


WRONG = [
    (("= -qsum[m]", "= 0"), "elements outside their limit"),
    (("k < padded", "k < padded - 1"), "elements outside their limit"),
    (("n < rows_of_w", "n <= rows_of_w"), "wrote outside of its buffers"),
    (("y[m * rows_of_w + n] =", "if (n) y[m * rows_of_w + n] ="), "poisoned differently"),
    (("y[m * rows_of_w + n] =", "((int8_t *)q)[0] = 1; y[m * rows_of_w + n] ="), r"changed \d+ bytes of its inputs"),
]
"""A sum that is not corrected, a tail that is lost, an off-by-one, an output that is left out, a changed input."""


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_a_wrong_function_is_rejected(built: Built, change: tuple[str, str], reason: str) -> None:
    (record,) = judged(built(change))
    assert record.outcome == FAIL and re.search(reason, record.reason), record.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("*(volatile int *)8 = 1;", r"crashed \(SIGSEGV\) in this case"),
        ("for (volatile int i = 0; i < 1; i += i) ;", "no answer within 2 s"),
        ("extern void exit(int); exit(0);", "the worker exited with 0 in this case"),
    ],
)
def test_a_crash_a_hang_and_an_exit_are_verdicts(built: Built, change: str, reason: str) -> None:
    library = built(("    const size_t padded", f"    {change}\n    const size_t padded"))
    given = ("--lib", str(library), "--symbol", "ternary_gemv", "--op", "tgemv", "--quick")
    done = run("check", *given, "-k", "K=768,M=3,N=17,ascale=token and f32 and wscale=tensor", "--kind", "random",
               "--case-timeout", "2")  # fmt: skip
    assert done.returncode == 1 and re.search(reason, done.stdout), done.stdout


REFUSED = [
    (("--lib", "not_there.so", "--symbol", "f"), 2, r"not_there\.so cannot be read: .*name a shared library"),
    (("--lib", "{lib}", "--symbol", "gemv"), 2, r"libmine\.so: gemv is not among its symbols; nm -D "),
    (("--lib", "text.so", "--symbol", "f"), 3, r"text\.so: .*it cannot be loaded: .*(ELF|too short)"),
    (("--lib", "{lib}"), 2, "is no folder; name one .* add --symbol"),
    (("--symbol", "f"), 2, "--symbol f: name its shared library with --lib"),
    (("--lib", "{lib}", "--symbol", "f", "--cuda", "x.cu"), 2, "judge one at a time"),
    (("--lib", "{lib}", "--symbol", "f", "-b", "cpu"), 2, "is called on the host, not by cpu"),
    (("--lib", "{lib}", "--symbol", "my_gemv", "--map", "{map}"), 2, r"argument 0 is no buffer of tgemv .*'weights'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED)
def test_bad_input_is_one_sentence(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.so").write_text("no library", encoding="utf-8")
    (tmp_path / "map.yaml").write_text("arguments: [weights, y]", encoding="utf-8")
    names = {"lib": str(built()), "map": "map.yaml"}
    done = run("check", *(each.format(**names) for each in arguments), "--op", "tgemv", "--quick")
    assert done.returncode == code and done.stdout == "" and re.search(sentence, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_mapping_only_default_options_are_judged(built: Built) -> None:
    own = read(str(built()), "ternary_gemv", "tgemv", None)
    (record,) = check_case(own.adapter(NAME).open(), OP, OP.case(M=1, N=3, K=257, wscale="row"))
    assert record.outcome == UNSUPPORTED and "an option is not tgemv's default" in record.reason
