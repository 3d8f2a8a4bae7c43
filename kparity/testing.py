"""Parity assertions for anybody's kernel: ``assert_parity(got, ref, …)``, in any test runner.

The tolerance is never picked by hand. It follows from what was computed:

* ``op=…, case=…, inputs=…``: the error bounds of an op of kparity (or of yours), truth from its fp64 reference;
* ``n=…, magnitude=…``: n terms summed per element, magnitude = |A|·|x| in fp64: the serial bound γ_n;
* ``ulp=…``: units of the last place around truth, for operations that round once or twice;
* ``exact=True``: every bit, for integers and copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kparity import ops
from kparity.errors import WrongInput
from kparity.kernels.support import TINY, gamma
from kparity.numerics.compare import Comparison, judge
from kparity.numerics.expected import Expected
from kparity.ops.spec import DTYPES, ROUNDOFF, Array, Case, ErrorBound, Op

SHOWN = 5
"""Wrong elements that a report lists."""
SILENT = 0.9
"""Share of the elements for which zeros may hold: activations such as relu² give zeros for half of them."""
SMALLEST = {2: 2.0**-25, 4: TINY, 8: 2.0**-1022}
"""What underflow may cost: half a subnormal step of an f16 result; a term of a wider sum that is flushed to zero."""


@dataclass
class Tally:
    """What the assertions since the last ``take`` came to."""

    held: int = 0
    rejected: int = 0
    """Those that raised AssertionError, expected (``pytest.raises``) or not."""
    mistrusted: int = 0
    """Those that could not have failed (``vacuous``): they count for nothing."""
    utilisation: float = 0.0
    """The largest of those that held."""
    worst: str = ""
    """The label of that one."""

    def add(self, label: str, findings: Sequence[Comparison], vacuous: bool) -> None:
        """Count one assertion."""
        if not all(each.ok for each in findings):
            self.rejected += 1
            return
        if vacuous:
            self.mistrusted += 1
            return
        self.held += 1
        used = max(each.utilisation for each in findings)
        if used > self.utilisation or not self.worst:
            self.utilisation, self.worst = used, label


_tally = Tally()


def take() -> Tally:
    """The assertions since the last call; the pytest plugin asks after every test."""
    taken = replace(_tally)
    vars(_tally).update(vars(Tally()))
    return taken


def assert_parity(
    got: Any,
    ref: Any = None,
    *,
    op: str | Op | None = None,
    case: Case | Mapping[str, Any] | None = None,
    inputs: Sequence[Any] | None = None,
    n: int | None = None,
    magnitude: Any = None,
    ulp: float | None = None,
    exact: bool = False,
    label: str = "",
) -> list[Comparison]:
    """Raise AssertionError, with a report, unless every element of ``got`` lies within its bound around truth.

    ``got`` is what a kernel computed: an array (numpy, or anything that numpy can read), with an op a sequence of its
    outputs where there are several. ``ref`` is truth in fp64 (for integers and ``exact``: in the dtype of ``got``);
    with an op it may be left out. Returns a finding per output, with the measured errors.

    The bound is one of: ``op`` (name or instance) with ``case`` (or its parameters) and ``inputs``; ``n`` with
    ``magnitude`` (the shape of ``ref``): γ_n·|A||x| + u_out·|y|, γ_n = n·u/(1 − n·u), with u of f32 sums for f16 and
    f32 results and of fp64 sums for fp64 results (Higham, Accuracy and Stability, section 3.1); ``ulp``; ``exact``.

    Raises WrongInput where no bound or more than one is given, where shapes or dtypes do not fit, and for empty arrays.
    """
    __tracebackhide__ = True
    given = {
        "op=": op is not None or case is not None,
        "n=": n is not None or magnitude is not None,
        "ulp=": ulp is not None,
        "exact=True": exact,
    }
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) != 1:
        problem = f"{' and '.join(chosen)} contradict each other" if chosen else "no bound is given"
        ways = "op= with case= and inputs=, n= with magnitude=, ulp=, exact=True"
        raise WrongInput(f"assert_parity: {problem}; give one of {ways}")
    if inputs is not None and chosen != ["op="]:
        raise WrongInput("assert_parity: inputs= belongs to op=; for another kernel compute ref from them")
    if chosen == ["op="]:
        parts = _by_op(got, ref, op, case, inputs)
    else:
        actual, truth = _pair(got, ref, rounded=chosen != ["n="])
        parts = [("", actual, *_bounded(actual, truth, n, magnitude, ulp))]
    findings = [judge(label or "got", name, actual, truth, bound) for name, actual, truth, bound in parts]
    vain = all(vacuous(actual, truth, bound) for _, actual, truth, bound in parts)
    _tally.add(label or _name_of(op, case) or "got", findings, vain)
    wrong = [report(each, *part[1:]) for each, part in zip(findings, parts, strict=True) if not each.ok]
    if wrong:
        raise AssertionError("\n".join(wrong))
    return findings


def vacuous(got: Array, truth: Array, bound: ErrorBound) -> bool:
    """Whether an assertion that held could not have failed: ``got`` is the very memory of truth, truth is a constant,
    or zeros would have held for nearly all of it. A single number is no constant.
    """
    if np.shares_memory(got, truth):
        return True
    with np.errstate(invalid="ignore"):
        zeros = truth == 0 if bound.limit is None else np.abs(truth) <= bound.limit
    return truth.size > 1 and bool((truth == truth.flat[0]).all() or zeros.mean() > SILENT)


def report(finding: Comparison, got: Array, truth: Array, bound: ErrorBound) -> str:
    """Several lines for a person: how many are wrong, the worst, the bound, the aggregates, the first wrong ones."""
    name = " ".join(part for part in (finding.case_id, finding.arg_name) if part)
    where = list(finding.worst_index)
    lines = [
        f"{name}: {finding.wrong} of {finding.count} elements outside their bound ({got.dtype}{list(got.shape)})",
        f"  worst  {where}: got {finding.got_value!r}, want {finding.want_value!r}, error {finding.error:.4g}",
        f"  bound  {finding.limit:.4g} there, utilisation {finding.utilisation:.4g}: {finding.derivation}",
        f"  whole  cosine {finding.cosine:.9f}, nmse {finding.nmse:.4g}, {finding.nan_count} NaN in the result",
    ]
    with np.errstate(invalid="ignore", over="ignore"):
        want = truth.astype(got.dtype) if bound.limit is None else truth
        within = (got == want) | (np.isnan(got) & np.isnan(want))
        if bound.limit is not None:
            within |= np.abs(got.astype(np.float64) - truth) <= bound.limit
    lines += [
        f"  wrong  {list(index)}: got {got[index].item()!r}, want {truth[index].item()!r}"
        for index in map(tuple, np.argwhere(~within)[:SHOWN].tolist())
    ]
    return "\n".join(lines)


def _array(value: Any, name: str) -> Array:
    try:
        array: Array = np.asarray(value)
    except Exception as problem:  # a tensor on a device, an object without numbers: whatever its library raises
        raise WrongInput(f"assert_parity: {name} cannot be read as an array ({problem}); copy it to the host") from None
    if array.dtype.kind not in "fiu":
        raise WrongInput(f"assert_parity: {name} has dtype {array.dtype}, expected floats or integers")
    if array.size == 0:
        raise WrongInput(f"assert_parity: {name} is empty: nothing was computed")
    return array


def _pair(got: Any, ref: Any, rounded: bool) -> tuple[Array, Array]:
    """Result and truth, in dtypes that can be compared; ``rounded`` admits a truth in the dtype of the result."""
    if ref is None:
        raise WrongInput("assert_parity: ref is missing; only op= can compute it")
    actual, truth = _array(got, "got"), _array(ref, "ref")
    if actual.shape != truth.shape:
        raise WrongInput(f"assert_parity: got has shape {list(actual.shape)}, ref {list(truth.shape)}")
    fits = truth.dtype == np.float64 if actual.dtype.kind == "f" else truth.dtype.kind in "iu"
    if not fits and not (rounded and truth.dtype == actual.dtype):
        wanted = "float64: a reference in less has errors of its own" if actual.dtype.kind == "f" else "integers"
        raise WrongInput(f"assert_parity: got is {actual.dtype}, ref {truth.dtype}; expected {wanted}")
    return actual, truth


def _bounded(got: Array, truth: Array, n: int | None, magnitude: Any, ulp: float | None) -> tuple[Array, ErrorBound]:
    """Truth and the bound of a result that is no op's."""
    if n is not None or magnitude is not None:
        return truth, _sum_bound(got, truth, n, magnitude)
    if ulp is None:
        return truth, ErrorBound(None, "every bit")
    if got.dtype.kind != "f" or not 0 <= ulp < np.inf:
        raise WrongInput(f"assert_parity: ulp is {ulp} for {got.dtype}, expected a number from 0 on, and floats")
    with np.errstate(over="ignore", invalid="ignore"):
        place = np.spacing(np.abs(truth.astype(got.dtype))).astype(np.float64)
    limit = np.where(np.isfinite(place), ulp * place, 0.0)  # beyond the range only the infinity itself is right
    return truth.astype(np.float64), ErrorBound(limit, f"{ulp:g} ULP of {got.dtype} at |y|")


def _sum_bound(got: Array, truth: Array, n: int | None, magnitude: Any) -> ErrorBound:
    if n is None or magnitude is None:
        raise WrongInput("assert_parity: n= and magnitude= belong together: n terms, magnitude = |A|·|x| in fp64")
    if got.dtype.kind != "f":
        raise WrongInput(f"assert_parity: got is {got.dtype}; sums of integers are exact: give exact=True")
    size = got.dtype.itemsize
    out, unit = ROUNDOFF[f"f{8 * size}"], ROUNDOFF["f64" if size == 8 else "f32"]  # f16 results are summed in f32
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 or n * unit >= 0.5:
        raise WrongInput(f"assert_parity: n is {n!r}, expected a whole number from 1 to {int(0.5 / unit) - 1}")
    reach = _array(magnitude, "magnitude").astype(np.float64)
    if reach.shape != truth.shape:
        raise WrongInput(f"assert_parity: magnitude has shape {list(reach.shape)}, ref {list(truth.shape)}")
    below = ~(reach >= np.abs(truth) * (1 - gamma(int(n), ROUNDOFF["f64"])))  # of a magnitude that is NaN, too
    if (below & np.isfinite(truth)).any():
        raise WrongInput("assert_parity: magnitude is below |ref| somewhere, which |A|·|x| never is")
    lost = SMALLEST[size] * (1 if size == 2 else int(n))
    limit = gamma(int(n), unit) * reach + out * np.abs(truth) + lost
    terms = f"γ_{n}·|A||x| + u_out·|y| + {lost:.2g}, γ_n = n·u/(1 − n·u), u = 2^{int(np.log2(unit))}"
    return ErrorBound(limit, f"{terms}, u_out = 2^{int(np.log2(out))}")


def _name_of(op: str | Op | None, case: Case | Mapping[str, Any] | None) -> str:
    if isinstance(case, Case):
        return case.id
    return op.name if isinstance(op, Op) else op or ""


def _by_op(
    got: Any, ref: Any, op: str | Op | None, case: Case | Mapping[str, Any] | None, inputs: Sequence[Any] | None
) -> list[tuple[str, Array, Array, ErrorBound]]:
    """Name, result, truth and bound of every output of an op."""
    if case is None or inputs is None:
        raise WrongInput("assert_parity: op= needs case= (its parameters) and inputs= (what the kernel was given)")
    if op is None:
        op = case.op if isinstance(case, Case) else ""
    spec = ops.get(op) if isinstance(op, str) else op
    checked = spec.case(**dict(case.params if isinstance(case, Case) else case))
    given = [_array(value, "an input") for value in inputs]
    wanted = spec.inputs_of(checked)
    if len(given) != len(wanted):
        raise WrongInput(f"assert_parity: {len(given)} inputs for {checked.id}, which has {len(wanted)}")
    for arg, array in zip(wanted, given, strict=True):
        _fits(arg.name, array, arg.shape, arg.dtype)
    outputs = spec.outputs_of(checked)
    actual = _several(got, len(outputs), "got")
    with np.errstate(all="ignore"):  # infinities and NaN are values here; the bound judges them
        truth = spec.reference(checked, given) if ref is None else _several(ref, len(outputs), "ref")
        for arg, array, want in zip(outputs, actual, truth, strict=True):
            _fits(arg.name, array, arg.shape, arg.dtype)
            if want.shape != arg.shape or (array.dtype == np.float32 and want.dtype != np.float64):
                found, expected = f"{want.dtype}{list(want.shape)}", f"float64{list(arg.shape)}"
                raise WrongInput(f"assert_parity: truth of {arg.name} is {found}, expected {expected}")
    names, bounds = [f"{checked.id} {arg.name}" for arg in outputs], Expected.of(spec, checked, given, truth).bounds
    return list(zip(names, actual, truth, bounds, strict=True))


def _several(value: Any, count: int, name: str) -> list[Array]:
    """One array or a sequence of them, as many as an op has outputs."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) != count:
        raise WrongInput(f"assert_parity: {name} has {len(values)} arrays, the op has {count} outputs")
    return [_array(each, name) for each in values]


def _fits(name: str, array: Array, shape: tuple[int, ...], dtype: str) -> None:
    if array.shape != shape or array.dtype != DTYPES[dtype]:
        expected = f"{DTYPES[dtype]}{list(shape)}"
        raise WrongInput(f"assert_parity: {name} is {array.dtype}{list(array.shape)}, expected {expected}")
