"""``kparity check my.py:gemv``: somebody's own function, the one of ``examples/own_function``, right and wrong."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.check.own_function import NAME, read
from kparity.check.record import FAIL, PASS, UNSUPPORTED, Record
from kparity.ops.spec import Case
from tests.cli import run

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "own_function" / "ternary_gemv.py"
ONE = ("--quick", "-k", "K=257,M=1,N=3,ascale=token and f32 and wscale=tensor")
"""A case of tgemv, of every kind of input."""
ADD = ops.get("add")


def judged(tmp_path: Path, text: str, op: str = "add", case: Case | None = None) -> list[Record]:
    """The records of the function ``f`` of a text."""
    path = tmp_path / "mine.py"
    path.write_text(f"import numpy as np\n{text}\n", encoding="utf-8")
    own = read(f"{path}:f", op)
    return check_case(own.adapter(NAME).open(), ops.get(op), case or ADD.case(M=3, D=257), kinds=("random",))


def test_the_example_passes_every_case_that_it_takes(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = run("check", f"{EXAMPLE}:gemv", "--op", "tgemv", "--quick", "--json", str(found))
    assert done.returncode == 0 and "gemv in the place of tgemv, on python" in done.stderr, done.stderr
    document = json.loads(found.read_text(encoding="utf-8"))
    own, outcomes = document["request"]["own"], [each["outcome"] for each in document["records"]]
    assert own["kernel"] == "gemv" and own["path"] == str(EXAMPLE) and own["map"] is None
    assert outcomes.count(PASS) > 50 and FAIL not in outcomes and UNSUPPORTED in outcomes
    assert {each["kernel"] for each in document["records"] if each["outcome"] == PASS} == {"tgemv_python_own_dp4a"}


TAKES = [
    "def f(a, b): return a + b",
    "def f(b, a, y): y[...] = a + b",
    "def f(a, b, /, *, M, D, case): assert a.shape == (M, D) and case == {'M': M, 'D': D}; return a + b",
    "def f(*arrays): return arrays[0] + arrays[1]",
    "def f(**given): return given['a'] + given['b'] if given['M'] == 3 else None",
    "def f(a, b, scale=1.0): return (a + b) * scale",
    "def f(a, b): return [a + b]",
    "def f(a, b): return a.astype(np.float64) + b",
    "f = np.add",
    "class F:\n    def __call__(self, a, b): return a + b\nf = F()",
    "import functools\nf = functools.partial(lambda k, a, b: a + b, 1)",
]
"""Functions of one sum: what they take is told by the names of their parameters."""


@pytest.mark.parametrize("text", TAKES)
def test_what_a_parameter_names_is_given(tmp_path: Path, text: str) -> None:
    (record,) = judged(tmp_path, text)
    assert (record.outcome, record.reason) == (PASS, "")


WRONG = [
    ("def f(a, b): return a - b", "elements outside their limit"),
    ("def f(a, b): return (a + b).astype(np.float16)", "elements outside their limit"),
    ("def f(a, b, y): y[:, :-1] = (a + b)[:, :-1]", "poisoned differently differ in 12 bytes"),
    ("def f(a, b): y = a + b; y[-1, -1] = 0; return y", "1 of 771 elements outside their limit"),
    ("def f(a, b): a += b; return a", r"changed \d+ bytes of its inputs"),
    ("from numpy.lib.stride_tricks import as_strided\ndef f(a, b, y): as_strided(y, (772,), (4,))[:771] = "
     "(a + b).reshape(-1); as_strided(y, (772,), (4,))[771] = 0", "wrote outside of its buffers: 4 bytes"),
    ("n = 0\ndef f(a, b):\n    global n; n += 1; y = a + b; y[0, 0] *= 1 + n * 2.0 ** -23; return y", "differ in"),
    ("def f(a, b): return None", "it returns None, and takes no y to write into"),
    ("def f(a, b): return a + b, a", "it returns 2 results; y are due"),
    ("def f(a, b): return (a + b)[0]", r"y comes as float32\[257\], float32\[3, 257\] is due"),
    ("def f(a, b): return (a + b).astype(complex)", r"y comes as complex128\[3, 257\]"),
    ("def f(a, b): return object()", "y comes as object"),
    ("def f(a, b):\n    return a @ b", r"ValueError: matmul.*mine\.py:3\)"),
    ("def f(a, weights): return a", "takes 'weights', which is no buffer of add .*; there are a, b, y, M, D"),
]  # fmt: skip
"""A wrong op, an output too narrow, a lost tail, a changed input, a stray write, a state, and what is no output."""


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_a_wrong_function_is_rejected(tmp_path: Path, text: str, reason: str) -> None:
    (record,) = judged(tmp_path, text)
    assert record.outcome == FAIL and re.search(reason, record.reason), record.reason


def test_a_whole_number_that_does_not_fit_is_no_result(tmp_path: Path) -> None:
    case = ops.get("argmax").case(M=1, N=5)
    (record,) = judged(tmp_path, "def f(*a): return np.full((1,), 2 ** 40)", "argmax", case)
    assert record.outcome == FAIL and "int32 does not hold" in record.reason


def test_several_outputs_are_returned_in_their_order(tmp_path: Path) -> None:
    op = ops.get("act_quant")
    text = "from kparity import ops\nfrom kparity.ops.spec import Case\nOP = ops.get('act_quant')\n"
    text += "def f(x, case): return OP.reference(OP.case(**case), [x], np.float32)"
    (record,) = judged(tmp_path, text, "act_quant", op.case(M=3, K=257))
    assert (record.outcome, record.reason) == (PASS, "")
    (record,) = judged(tmp_path, text + "[::-1]", "act_quant", op.case(M=3, K=257))
    assert record.outcome == FAIL


def test_what_it_does_not_take_is_unsupported_and_alone_inconclusive(tmp_path: Path) -> None:
    text = "def f(a, b): raise NotImplementedError('no sums')"
    (record,) = judged(tmp_path, text)
    assert record.outcome == UNSUPPORTED and record.reason.endswith("f does not take it: no sums")
    done = run("check", f"{tmp_path / 'mine.py'}:f", "--op", "add", "--quick")
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import os, signal\ndef f(a, b): os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\) in this case"),
        ("import time\ndef f(a, b): time.sleep(60)", "no answer within 2 s"),
        ("import sys\ndef f(a, b): sys.exit(0)", "the worker exited with 0 in this case"),
    ],
)
def test_a_crash_a_hang_and_an_exit_are_verdicts(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    done = run("check", f"{path}:f", "--op", "add", "-k", "D=257,M=3 and random", "--case-timeout", "2")
    assert done.returncode == 1 and re.search(reason, done.stdout), done.stdout


def test_what_fails_is_kept_and_runs_again_by_its_line(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8").replace("(weights.astype(np.int32) - 1)", "weights.astype(np.int32)")
    wrong, kept = tmp_path / "wrong.py", tmp_path / "kept"
    wrong.write_text(text, encoding="utf-8")
    done = run("check", f"{wrong}:gemv", "--op", "tgemv", *ONE, "--kind", "random", "--dump", str(kept))
    assert done.returncode == 1
    (folder,) = kept.iterdir()
    assert (folder / "source.py").read_text(encoding="utf-8") == text
    again = shlex.split(json.loads((folder / "dump.json").read_text(encoding="utf-8"))["rerun"])[1:]
    assert run(*again).returncode == 1
    right = run("check", "--replay", str(folder), f"{EXAMPLE}:gemv")
    assert right.returncode == 0 and "1 PASS" in right.stdout, right.stderr


REFUSED = [
    ("", ("not_there.py:f",), 2, "not_there.py cannot be read"),
    ("", ("mine.py",), 2, r"'mine\.py' names no function: write FILE.py:FUNCTION"),
    ("", ("mine.py:1x",), 2, "names no function"),
    ("def g(): pass", ("mine.py:f",), 2, r"unknown function of mine\.py 'f'"),
    ("f = 3", ("mine.py:f",), 2, r"unknown function of mine\.py 'f'"),
    ("def f(x): pass", ("mine.py:f",), 2, r"mine\.py: f takes 'x', which is no buffer of add"),
    ("def f(:", ("mine.py:f",), 2, r"SyntaxError: .*mine\.py, line 1"),
    ("1 / 0", ("mine.py:f",), 2, "ZeroDivisionError"),
    ("import os; os._exit(4)", ("mine.py:f",), 2, r"mine\.py: the worker exited with 4 in its import"),
    ("import not_installed_anywhere", ("mine.py:f",), 3, "No module named 'not_installed_anywhere'"),
    ("def f(a, b): return a", ("mine.py:f", "-b", "cpu"), 2, r"mine\.py:f is called on the host, not by cpu"),
    ("def f(a, b): return a", ("mine.py:f", "--sanitize"), 2, "--sanitize is for a CUDA text"),
    ("def f(a, b): return a", ("mine.py:f", "--kernel", "f"), 2, "leave out --cuda"),
    ("def f(a, b): return a", ("mine.py:f", "--lf"), 2, "--lf remembers"),
    ("def f(a, b): return a", ("mine.py:f", "-o", "rope"), 2, "names? the one op that it computes|named twice|one op"),
]
"""Text, arguments, exit code, and what the one sentence has."""


@pytest.mark.parametrize(("text", "arguments", "code", "sentence"), REFUSED)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(text, encoding="utf-8")
    done = run("check", *arguments, "--op", "add", "--quick")
    assert done.returncode == code and done.stdout == "" and re.search(sentence, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_lies_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def add(a, b): return a + b", encoding="utf-8")
    (record,) = judged(tmp_path, "import beside\ndef f(a, b): return beside.add(a, b)")
    assert record.outcome == PASS
