"""The pytest plugin as a stranger's suite sees it: every test here runs pytest on a suite of its own."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from kparity import ops
from kparity.device import registry
from kparity.errors import Unavailable, WrongInput
from kparity.ops.spec import Array
from kparity.testing import assert_parity, take

Suite = pytest.Pytester


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the variables of this run nor its other plugins reach the suites."""
    for name in ("KPARITY_BACKENDS", "KPARITY_REQUIRE", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


def opens(name: str) -> bool:
    """Whether a backend is there."""
    try:
        registry.open_backend(name).close()
    except Unavailable:
        return False
    return True


def absent() -> str:
    """A backend that does not open here."""
    name = next((name for name in ("hip", "cuda") if not opens(name)), None)
    return name or pytest.skip("every backend opens here")


ADD = """
    import numpy as np
    from kparity import ops
    from kparity.kernels.add import OP

    def test_add(kparity_backend, assert_parity):
        case = OP.case(M=2, D=70)
        inputs = OP.inputs(case, np.random.default_rng(0))
        buffers = [kparity_backend.upload(x) for x in inputs] + [kparity_backend.empty((2, 70), "f32")]
        kparity_backend.record([kparity_backend.build(OP, case).bind(*buffers)]).run()
        assert_parity(kparity_backend.download(buffers[-1]), op=OP, case=case, inputs=inputs)
"""

SUM = """
    import numpy as np, pytest
    from kparity.testing import assert_parity

    @pytest.mark.parity
    def test_sum():
        rng = np.random.default_rng(0)
        a, x = rng.standard_normal((5, 64)), rng.standard_normal(64)
        got = a.astype(np.float32) @ x.astype(np.float32)
        a, x = a.astype(np.float32).astype(float), x.astype(np.float32).astype(float)
        assert_parity(got * np.float32(SCALE), a @ x, n=64, magnitude=abs(a) @ abs(x), label="sum")

    def test_other():
        pass
"""


def test_backends_are_parameters_and_the_summary_counts(pytester: Suite) -> None:
    pytester.makepyfile(ADD)
    done = pytester.runpytest_inprocess("--kparity-backends", f"numpy,cpu,{absent()}", "-v")
    done.assert_outcomes(passed=2, skipped=1)
    done.stdout.fnmatch_lines(["*test_add?numpy? PASSED*", "*test_add?cpu? PASSED*"])
    line = next(text for text in done.outlines if text.startswith("kparity: "))
    assert line.startswith("kparity: 2 parity assertions, 0 rejected; largest utilisation of those that held 0")
    assert "ran on numpy (1), cpu (1); missing" in line and f"missing: {absent()} [KP-" in line


def test_a_skip_names_its_code_and_a_required_backend_fails(pytester: Suite) -> None:
    pytester.makepyfile(ADD)
    name = absent()
    skipped = pytester.runpytest_inprocess("--kparity-backends", f"numpy,{name}", "-rs")
    skipped.stdout.fnmatch_lines([f"*SKIPPED*kparity: {name} is missing: ?KP-{name.upper()}-*"])
    assert skipped.ret == pytest.ExitCode.OK
    failed = pytester.runpytest_inprocess("--kparity-backends", "numpy", "--kparity-require", name)
    failed.assert_outcomes(passed=1, errors=1)
    assert failed.ret == pytest.ExitCode.TESTS_FAILED
    failed.stdout.fnmatch_lines(["*(it is required)*", f"kparity: no test ran on {name}, which is required"])


def test_the_environment_stands_in_for_the_options(pytester: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(ADD)
    monkeypatch.setenv("KPARITY_BACKENDS", "numpy")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    monkeypatch.setenv("KPARITY_REQUIRE", "cpu")
    pytester.runpytest_inprocess().assert_outcomes(passed=2)
    pytester.runpytest_inprocess("--kparity-backends", "cpu", "--kparity-require", "cpu").assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["backends", "require"])
def test_a_misspelt_name_ends_the_run(option: str, pytester: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(ADD)
    by_option = pytester.runpytest_inprocess(f"--kparity-{option}", "numpy,wgpuu")
    assert by_option.ret == pytest.ExitCode.USAGE_ERROR
    by_option.stderr.fnmatch_lines([f"*--kparity-{option}: unknown backend 'wgpuu': did you mean 'wgpu'*"])
    monkeypatch.setenv(f"KPARITY_{option.upper()}", "wgpuu")
    by_variable = pytester.runpytest_inprocess()
    assert by_variable.ret == pytest.ExitCode.USAGE_ERROR and "passed" not in by_variable.stdout.str()
    by_variable.stderr.fnmatch_lines([f"*KPARITY_{option.upper()}: unknown backend 'wgpuu': did you mean 'wgpu'*"])
    empty = pytester.runpytest_inprocess(f"--kparity-{option}", " , ")
    assert empty.ret == pytest.ExitCode.USAGE_ERROR


def test_a_backend_is_opened_once_and_closed(pytester: Suite) -> None:
    pytester.makeconftest(
        """
        from kparity.backends.numpy import NumpyBackend
        opened, close = NumpyBackend.open.__func__, NumpyBackend.close
        def count(cls, index=0):
            print("OPENED")
            return opened(cls, index)
        NumpyBackend.open = classmethod(count)
        NumpyBackend.close = lambda self: print("CLOSED")
        """
    )
    pytester.makepyfile(a=ADD, test_b=ADD, test_c=ADD)
    done = pytester.runpytest_subprocess("--kparity-backends", "numpy", "-s")
    done.assert_outcomes(passed=2)
    text = done.stdout.str()
    assert text.count("OPENED") == text.count("CLOSED") == 1
    assert text.index("OPENED") < text.index("2 passed") < text.index("CLOSED")


def test_the_marker_selects_and_a_failure_is_counted(pytester: Suite) -> None:
    pytester.makepyfile(SUM.replace("SCALE", "1"))
    done = pytester.runpytest_inprocess("-m", "parity", "--strict-markers")
    done.assert_outcomes(passed=1, deselected=1)
    counts = "kparity: 1 parity assertion, 0 rejected; largest utilisation of those that held 0.* (sum)"
    done.stdout.fnmatch_lines([counts])
    pytester.makepyfile(SUM.replace("SCALE", "1.01"))
    wrong = pytester.runpytest_inprocess("-m", "parity", "--junit-xml", "found.xml")
    wrong.assert_outcomes(failed=1, deselected=1)
    wrong.stdout.fnmatch_lines(["*sum: 5 of 5 elements outside their bound*", "kparity: 1 parity assertion, 1 rej*"])
    wrong.stdout.fnmatch_lines("rerun: pytest test_the_marker*::test_sum")
    assert 'name="kparity_assertions"' in Path(pytester.path, "found.xml").read_text()


def test_a_run_that_compared_nothing_or_not_on_what_is_required_is_not_green(pytester: Suite) -> None:
    pytester.makepyfile(SUM.replace("SCALE", "1").replace("rng =", "pytest.skip('no device')\n        rng ="))
    done = pytester.runpytest_inprocess("-m", "parity")
    done.assert_outcomes(skipped=1, deselected=1)
    done.stdout.fnmatch_lines(["kparity: 0 parity assertions ran under -m parity: nothing was compared"])
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    for expression in ("not parity", "not (parity)"):
        assert pytester.runpytest_inprocess("-m", expression).ret == pytest.ExitCode.OK
    done = pytester.runpytest_inprocess("--kparity-require", "numpy")
    done.stdout.fnmatch_lines(["kparity: no test ran on numpy, which is required"])
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED


CALL = "kparity_backend.download(buffers[-1]), op=OP, case=case, inputs=inputs"
IDLE = {
    "return": (("case =", "if kparity_backend.name == 'cpu': return\n        case ="), 2),
    "skip": (("case =", "if kparity_backend.name == 'cpu': __import__('pytest').skip('no')\n        case ="), 1),
    "other": ((f"assert_parity({CALL})", "assert kparity_backend.download(buffers[-1]).size"), 2),
    "zeros": ((CALL, "[0, 0], [0, 0], exact=True"), 2),
    "alike": ((CALL, "[7, 7], [7, 7], exact=True"), 2),
}
"""Ways to assert nothing: what is replaced in the test by what, and how many tests still pass."""


@pytest.mark.parametrize("way", IDLE)
def test_a_required_backend_must_have_asserted_in_each_test_that_claims_it(way: str, pytester: Suite) -> None:
    (old, new), passed = IDLE[way]
    pytester.makepyfile(test_a=ADD.replace(old, new, 1), test_b=ADD)  # another test does assert on both
    done = pytester.runpytest_inprocess("--kparity-backends", "numpy,cpu", "--kparity-require", "cpu")
    assert done.parseoutcomes()["passed"] == passed + 2 and done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    done.stdout.fnmatch_lines(
        ["kparity: *MISTRUSTED, asserted nothing on *cpu (1)*",
         "kparity: MISTRUSTED: *test_a.py::test_add?cpu? asserted nothing on cpu, which is required, that could*"]
    )  # fmt: skip
    free = pytester.runpytest_inprocess("--kparity-backends", "numpy,cpu")
    assert free.ret == pytest.ExitCode.OK and "MISTRUSTED, asserted nothing on" in free.stdout.str()


def test_a_marked_test_that_asserts_nothing_is_mistrusted(pytester: Suite) -> None:
    mark = "@pytest.mark.parity\n    def test_other"
    pytester.makepyfile(SUM.replace("SCALE", "1").replace("def test_other", mark))
    done = pytester.runpytest_inprocess("-m", "parity")
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["kparity: MISTRUSTED: *::test_other asserted nothing under -m parity*"])
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_other_suites_do_not_notice(pytester: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """No import, no line, no exit code of its own, not even where somebody else's marker has the same name."""
    monkeypatch.setenv("KPARITY_REQUIRE", "something-else")
    pytester.makepyfile(
        """
        import sys, pytest

        @pytest.mark.parity
        def test_bits():
            loaded = [name for name in ("numpy", "yaml", "click", "kparity.device.registry") if name in sys.modules]
            assert not loaded and "kparity.pytest_plugin" in sys.modules
        """
    )
    done = pytester.runpytest_subprocess("-m", "parity")
    done.assert_outcomes(passed=1)
    assert "kparity:" not in done.stdout.str()


EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "own_kernel"


def pytest_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_example_is_right_and_rejects_what_it_says() -> None:
    named = ("--kparity-backends", "numpy,cpu", "--kparity-require", "numpy,cpu")
    done = pytest_in(EXAMPLE, "-m", "parity", *named)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout and "kparity: 8 parity assertions, 3 rejected" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "test"),
    [
        ("subtract: int = 1", "subtract: int = 2", "test_gemv_gives_every_bit"),
        ("centred: bool = False", "centred: bool = True", "test_norm_is_within_its_bound"),
        ("lost: int = 0", "lost: int = 1", "test_matvec_is_within_the_bound_of_a_sum"),
    ],
)
def test_the_example_rejects_a_kernel_that_is_broken(right: str, wrong: str, test: str, tmp_path: Path) -> None:
    for file in EXAMPLE.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert file.name != "my_kernels.py" or right in text
        (tmp_path / file.name).write_text(text.replace(right, wrong), encoding="utf-8")
    done = pytest_in(tmp_path, "-k", test)
    assert done.returncode == 1 and f"FAILED test_own_kernel.py::{test}" in done.stdout, done.stdout


# The assertion itself, in this process.


RNG = np.random.default_rng(5)
A, X = (RNG.standard_normal(shape).astype(np.float32) for shape in ((7, 300), 300))
TRUTH = A.astype(np.float64) @ X
REACH = np.abs(A).astype(np.float64) @ np.abs(X)


def test_the_bound_of_a_sum_takes_any_order_and_rejects_one_lost_term() -> None:
    for order in (slice(None), slice(None, None, -1)):
        total = np.zeros(7, np.float32)
        for column in range(300)[order]:
            total += A[:, column] * X[column]
        found = assert_parity(total, TRUTH, **SUM_BOUND)[0]
        assert found.ok and 0 < found.utilisation < 1 and "γ_300" in found.derivation
    lost = (A[:, :-1] @ X[:-1]).astype(np.float32)
    with pytest.raises(AssertionError, match=r"of 7 elements outside their bound") as told:
        assert_parity(lost, TRUTH, **SUM_BOUND, label="dot")
    text = str(told.value)
    for part in ("dot: ", "worst  [", "utilisation", "γ_300·|A||x|", "cosine", "nmse", "0 NaN", "wrong  ["):
        assert part in text
    assert text.count("wrong  [") <= 5


GOT = TRUTH.astype(np.float32)
NEAR = np.nextafter(GOT, np.float32(np.inf))
NUMBERS = np.arange(6, dtype=np.int32).reshape(2, 3)
SUM_BOUND = {"n": 300, "magnitude": REACH}
JUDGED = [
    (TRUTH.astype(np.float16), TRUTH, SUM_BOUND, ""),
    ((TRUTH * 1.002).astype(np.float16), TRUTH, SUM_BOUND, "outside their bound"),
    (GOT.astype(np.float64), TRUTH, SUM_BOUND, "outside their bound"),
    (NEAR, TRUTH, {"ulp": 2}, ""),
    (NEAR, GOT, {"ulp": 1}, ""),
    (NEAR, GOT, {"ulp": 0.5}, "ULP of float32"),
    (NUMBERS, NUMBERS.copy(), {"exact": True}, ""),
    (NUMBERS + (NUMBERS == 4), NUMBERS, {"exact": True}, r"(?s)1 of 6 elements.*wrong  \[1, 1\]: got 5, want 4"),
    (np.float32([-0.0]), np.float32([0.0]), {"exact": True}, "outside their bound"),
]


@pytest.mark.parametrize(("got", "truth", "bound", "error"), JUDGED)
def test_a_bound_admits_what_is_right_and_nothing_more(got: Array, truth: Array, bound: dict, error: str) -> None:
    with pytest.raises(AssertionError, match=error) if error else nullcontext():
        assert assert_parity(got, truth, **bound)


def test_an_op_computes_its_own_truth_and_bounds() -> None:
    op = ops.get("rmsnorm")
    case = op.case(M=3, D=257)
    inputs = op.inputs(case, np.random.default_rng(1))
    x, weight = inputs
    got = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5)) * weight
    assert assert_parity(got, op="rmsnorm", case={"M": 3, "D": 257}, inputs=inputs)
    assert assert_parity(got, op.reference(case, inputs)[0], op=op, case=case, inputs=inputs)
    assert assert_parity([got], case=case, inputs=inputs)
    with pytest.raises(AssertionError, match=r"rmsnorm\[D=257,M=3,eps=1e-05\] y: 771 of 771"):
        assert_parity(got * np.float32(1.001), op="rmsnorm", case=case, inputs=inputs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("bound", [SUM_BOUND, {"ulp": 2}, {"exact": True}])
def test_a_number_that_is_none_fails_closed(bad: float, bound: dict) -> None:
    got = GOT.copy()
    got[3] = bad
    with pytest.raises(AssertionError, match=r"worst  \[3\]"):
        assert_parity(got, TRUTH, **bound)


NORM = {"op": "rmsnorm", "case": {"M": 1, "D": 4}}
REFUSED = [
    ((GOT, TRUTH), {}, "no bound is given"),
    ((GOT, TRUTH), {"ulp": 1, "exact": True}, "contradict each other"),
    ((GOT,), {"ulp": 1}, "ref is missing"),
    ((GOT, TRUTH[1:]), {"ulp": 1}, r"shape \[7\], ref \[6\]"),
    ((GOT[:0], TRUTH[:0]), {"exact": True}, "empty"),
    ((GOT, TRUTH.astype(np.float16)), {"ulp": 1}, "ref float16"),
    ((GOT, TRUTH.astype(np.float32)), {"n": 300, "magnitude": REACH}, "errors of its own"),
    ((GOT, np.arange(7)), {"exact": True}, "expected float64"),
    ((np.arange(7), TRUTH), {"exact": True}, "expected integers"),
    ((np.arange(7), np.arange(7)), {"n": 3, "magnitude": np.arange(7)}, "sums of integers are exact"),
    ((np.arange(7), np.arange(7)), {"ulp": 1}, "and floats"),
    *(((GOT, TRUTH), half, "belong together") for half in ({"n": 300}, {"magnitude": REACH})),
    *(((GOT, TRUTH), {"n": n, "magnitude": REACH}, f"n is {n}, expected a whole") for n in (0, 3.5, 1 << 30)),
    ((GOT, TRUTH), {"n": 300, "magnitude": REACH[:3]}, "magnitude has shape"),
    ((GOT, TRUTH), {"n": 300, "magnitude": np.abs(TRUTH) / 2}, r"below \|ref\|"),
    ((GOT, TRUTH), {"n": 300, "magnitude": REACH * np.nan}, r"below \|ref\|"),
    ((GOT, TRUTH), {"ulp": -1}, "ulp is -1"),
    ((GOT, TRUTH), {"ulp": np.nan}, "ulp is nan"),
    ((GOT, TRUTH), {"ulp": 1, "inputs": [X]}, "belongs to op="),
    ((GOT, [None] * 7), {"ulp": 1}, "dtype object"),
    ((GOT,), {"op": "rmsnorm"}, "needs case="),
    ((GOT,), {**NORM, "inputs": [X]}, "1 inputs"),
    ((GOT,), {**NORM, "inputs": [X[None, :4], X[:3]]}, r"weight is float32\[3\], expected float32\[4\]"),
    ((GOT,), {**NORM, "inputs": [X[None, :4], X[:4]]}, r"y is float32\[7\], expected float32\[1, 4\]"),
    (([GOT, GOT],), {**NORM, "inputs": [X[None, :4], X[:4]]}, "got has 2 arrays, the op has 1"),
    ((X[None, :4], X[None, :4]), {**NORM, "inputs": [X[None, :4], X[:4]]}, "truth of y is float32"),
]


@pytest.mark.parametrize(("arrays", "options", "sentence"), REFUSED)
def test_what_cannot_be_judged_is_refused(arrays: tuple, options: dict, sentence: str) -> None:
    with pytest.raises(WrongInput, match=sentence):
        assert_parity(*arrays, **options)


def test_the_tally_counts_what_ran() -> None:
    take()
    assert_parity(GOT, TRUTH, ulp=2, label="a")
    with pytest.raises(AssertionError):
        assert_parity(GOT * 2, TRUTH, ulp=2, label="b")
    tally = take()
    assert (tally.held, tally.rejected, tally.worst) == (1, 1, "a") and 0 < tally.utilisation <= 0.25
    assert take().held == 0
    alike, few = np.full(9, 2.5), np.where(np.arange(40) == 3, 1.0, 0.0)
    for got, ref, bound in (
        (GOT, GOT, {"exact": True}), (alike.copy(), alike, {"ulp": 1}), (few.copy(), few, {"exact": True}),
        (GOT, TRUTH, {"ulp": 1e30}), (GOT, TRUTH, {"n": 300, "magnitude": 1e9 * REACH}),
    ):  # fmt: skip
        assert_parity(got, ref, **bound)
        tally = take()
        assert (tally.held, tally.mistrusted) == (0, 1), bound
    assert_parity(np.int32([0]), np.int32([0]), exact=True)
    assert take().held == 1, "an id may be 0"
