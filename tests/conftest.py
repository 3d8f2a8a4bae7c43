"""Which backends the tests run on, and what happens where one is missing.

    KPARITY_BACKENDS   names, comma separated; without it, every known backend
    KPARITY_REQUIRE    names of backends or of TOOLS whose absence fails instead of skips; ``all`` for every one of them
    KPARITY_SEED       base of every seed; 0 without it
    KPARITY_WHOLE      run whole what is sampled otherwise

A test that takes ``backend`` runs once per backend; one that takes ``backend`` and ``case`` once per case and backend.
A backend that does not open is one skipped test, with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn
from zlib import crc32

import numpy as np
import pytest

from kparity import ops
from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.errors import Unavailable, UnknownName
from kparity.numerics.compare import Comparison
from kparity.numerics.expected import Expected
from kparity.ops.spec import DTYPES, Array, Case, Op

pytest_plugins = ["pytester"]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # thousands of processes that compile every module take a fifth longer

Candidate = Callable[[Op, Case, list[Array]], list[Array]]


COMPILED: list[str] = []
"""A line per compiler and target that the compile gates went through, shown at the end of the run."""

TOOLS = (
    "llamacpp",
    "llama.cpp",
    "transformers",
    "nvcc",
    "clang",
    "hiprtc",
    "qemu",
    "intel-opencl",
    "atheris",
    "chromium",
    "caddy",
    "numba",
    "triton",
    "mkdocs",
    "ray",
    "gpu",
)
"""What KPARITY_REQUIRE may name beside backends; the tests that use one ask for it by ``needing``."""


def named(variable: str) -> list[str]:
    """The names in an environment variable."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def chosen(variable: str) -> list[str]:
    """The backend names in an environment variable; a misspelt name ends the run."""
    names = named(variable)
    if variable == "KPARITY_REQUIRE":
        names = [name for name in names if name not in TOOLS]
    if names == ["all"]:
        return registry.names()
    for name in names:
        if name not in registry.names():
            raise pytest.UsageError(f"{variable}: {UnknownName('backend', name, registry.names())}")
    return names


def number(variable: str, default: int = 0) -> int:
    """The whole number in an environment variable; anything else ends the run."""
    text = os.environ.get(variable, "").strip() or str(default)
    if not text.isdecimal():
        raise pytest.UsageError(f"{variable} is {text!r}, expected a whole number from 0 on, or nothing")
    return int(text)


def required(*names: str) -> bool:
    """Whether KPARITY_REQUIRE names one of these backends and TOOLS; raises UnknownName for what it cannot name."""
    for name in names:
        if name not in (*TOOLS, *registry.names()):
            raise UnknownName("backend or tool", name, [*registry.names(), *TOOLS])
    return not {"all", *names}.isdisjoint(named("KPARITY_REQUIRE"))


def absent(reason: str, *names: str) -> NoReturn:
    """Skip for want of these backends and TOOLS, with the reason; fail where one of them is required."""
    if required(*names):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


@contextmanager
def needing(*names: str) -> Iterator[None]:
    """What turns out to be Unavailable in the block is ``absent``, for the reason that the error gives."""
    try:
        yield
    except Unavailable as missing:
        absent(f"{names[0]}: [{missing.code}] {missing}", *names)


def wanted() -> list[str]:
    """The backends to test: the chosen ones, and the required ones whether chosen or not."""
    return list(dict.fromkeys([*(chosen("KPARITY_BACKENDS") or registry.usual()), *chosen("KPARITY_REQUIRE")]))


_opened: dict[str, Backend | Exception] = {}


def opened(name: str) -> Backend | Exception:
    """The backend (``cpu/avx2``: with that instruction set), opened once per session, or what prevented it."""
    if name not in _opened:
        kind, _, isa = name.partition("/")
        try:
            found = registry.open_backend(kind, isa=isa)
            if kind == "torch":  # threads wait for each other longer than these small tensors take
                found.torch.set_num_threads(1)  # type: ignore[attr-defined]
            _opened[name] = found
        except Exception as problem:
            _opened[name] = problem
    return _opened[name]


def variants(name: str) -> list[str]:
    """A backend under every name that has code of its own: the cpu backend once per instruction set of the machine."""
    if name != "cpu" or not isinstance(opened("cpu"), Backend):
        return [name]
    module = import_module(registry.backend_class("cpu").__module__)
    return [f"cpu/{isa}" for isa in module.isas()]


def pytest_configure(config: pytest.Config) -> None:
    """Refuse misspelt names and wrong numbers before anything runs; a run within a test is no worker of this one."""
    for variable in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        del os.environ[variable]
    wanted()
    for variable in ("KPARITY_SEED", "KPARITY_FUZZ_SECONDS"):
        number(variable)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close what was opened."""
    for found in _opened.values():
        if isinstance(found, Backend):
            found.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Case-major, so that the truth of a case is computed once for all backends."""
    if "backend" not in metafunc.fixturenames:
        return
    by_case = "case" in metafunc.fixturenames
    present, params = list[str](), list[Any]()
    for name in wanted():
        found = opened(name)
        if isinstance(found, Backend):
            present += variants(name)
            continue
        skipped = isinstance(found, Unavailable) and name not in chosen("KPARITY_REQUIRE")
        marks = [pytest.mark.skip(reason=f"{name}: [{found.code}] {found}")] if skipped else []  # or the fixture raises
        params.append(pytest.param(*((name, None) if by_case else (name,)), marks=marks, id=f"{name}-missing"))
    if by_case:
        cases = [case for op in ops.every() for case in op.cases()]
        params += [pytest.param(name, case, id=f"{name}-{case.id}") for case in cases for name in present]
    else:
        params += [pytest.param(name, id=name) for name in present]
    metafunc.parametrize(("backend", "case") if by_case else "backend", params, indirect=["backend"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    with needing("chromium"):
        path = shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            raise Unavailable("no Chromium", "apt install chromium", "KP-IMPORT")
        try:
            playwright, _ = import_module("playwright.sync_api"), import_module("axe_playwright_python")
        except ImportError as problem:
            raise Unavailable(str(problem), "pip install axe-playwright-python", "KP-IMPORT") from None
    with playwright.sync_playwright() as library:
        found = library.chromium.launch(executable_path=path)
        yield found
        found.close()


@pytest.fixture(scope="session")
def caddy() -> str:
    """Path of the web server Caddy."""
    with needing("caddy"):
        path = shutil.which("caddy")
        if path is None:
            raise Unavailable("no Caddy", "apt install caddy", "KP-IMPORT")
    return path


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """An open backend; raises what prevented it from opening."""
    found = opened(request.param)
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture(scope="session")
def llamacpp() -> ModuleType:
    """``kparity.bench.llamacpp``, where its library can be called."""
    from kparity.bench import llamacpp as found

    with needing("llamacpp"):
        found.Library()
    return found


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    """The library ``transformers``, with torch beside it, nothing of which is compiled."""
    with needing("transformers"):
        try:
            torch = import_module("torch")
            found = import_module("transformers")
            import_module("transformers.models.bitnet.modeling_bitnet")
        except ImportError as problem:
            raise Unavailable(str(problem), "pip install torch transformers", "KP-IMPORT") from None
    torch.compiler.set_stance("force_eager")
    return found


@pytest.fixture
def findings() -> Callable[[Case, str, Candidate], list[Comparison]]:
    """Judges a candidate, a function from op, case and inputs to outputs, by the bounds of the op."""

    def judged(case: Case, kind: str, candidate: Candidate) -> list[Comparison]:
        op = ops.get(case.op)
        known = Expected.of(op, case, op.inputs(case, np.random.default_rng([case.seed(), len(kind)]), kind))
        with np.errstate(all="ignore"):
            outputs = candidate(op, case, [array.copy() for array in known.inputs])
            args = op.outputs_of(case)
            got = [np.asarray(y).astype(DTYPES[arg.dtype]) for arg, y in zip(args, outputs, strict=True)]
        return known.compare(f"{case.id} {kind}", got)

    return judged


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test marked ``sampled(n)`` every n-th set of parameters, unless KPARITY_WHOLE is set or they are named.

    In workers of pytest-xdist, files with slow tests first: at the end all of them have something to do.
    """
    if not os.environ.get("KPARITY_WHOLE") and not any("[" in argument for argument in config.args):
        leave_out(config, items)
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what no sample has. The first of a test is as likely left out as any other: its name decides."""
    seen, left = Counter[str](), list[pytest.Item]()
    for item in items:
        if marker := item.get_closest_marker("sampled"):
            name = item.nodeid.partition("[")[0]
            if (seen[name] + crc32(name.encode())) % marker.args[0]:
                left.append(item)
            seen[name] += 1
    config.hook.pytest_deselected(items=left)
    gone = set(left)
    items[:] = [item for item in items if item not in gone]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands over what it has to show."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compiled"] = COMPILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker hands over (nothing where it crashed)."""
    COMPILED.extend(getattr(node, "workeroutput", {}).get("compiled", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the compile gates saw: every target with the registers of each op."""
    if COMPILED:
        terminalreporter.section("compiled, not executed")
        for line in COMPILED:
            terminalreporter.write_line(line)
