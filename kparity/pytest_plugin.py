"""The pytest plugin: backends as a fixture, parity assertions that are counted, a marker.

    --kparity-backends a,b    backends to test on (KPARITY_BACKENDS); without it, all that are known
    --kparity-require a,b     backends whose absence fails instead of skips, or ``all`` (KPARITY_REQUIRE)

It loads with every pytest of its environment, so it imports nothing but pytest until a test uses it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kparity.device.adapter import Backend

FIXTURE = "kparity_backend"
CLAIMED, ASSERTED = "kparity_backend", "kparity_assertions"
"""Properties of a test's report: the backend that it claims to test, and what its parity assertions came to."""
MARKED = "kparity_marked"
"""The same of a test of the marker ``parity`` that takes no backend and passed."""
MISSING = re.compile(r"kparity: (\S+) is missing: \[(\S+)\]")
OPTIONS = {
    "backends": ("KPARITY_BACKENDS", "backends to test on, comma separated (default: all that are known)"),
    "require": ("KPARITY_REQUIRE", "backends whose absence is a failure instead of a skip, or 'all'"),
}
"""Option after ``--kparity-``, the environment variable that stands in for it, and its help."""


@dataclass
class Session:
    """What one run of pytest chose, opened and saw; it reads the reports of tests, of this process or of others."""

    config: pytest.Config
    explicit: bool
    """Whether an option of this plugin was given."""
    used: bool = False
    """Whether a collected test takes a backend."""
    marked: bool = False
    """Whether the run was asked for its parity tests (``-m``) and has some."""
    chosen: dict[str, list[str]] | None = None
    opened: dict[str, Backend | Exception] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)
    """Backend → tests that asserted something on it."""
    silent: dict[str, list[str]] = field(default_factory=dict)
    """Backend → tests that claim it and asserted nothing that could have failed; those of the marker under ``""``."""
    missing: dict[str, str] = field(default_factory=dict)
    """Backend → code."""
    held: int = 0
    rejected: int = 0
    mistrusted: int = 0
    utilisation: float = 0.0
    worst: str = ""

    @property
    def asserted(self) -> int:
        """Parity assertions that ran."""
        return self.held + self.rejected

    @property
    def in_use(self) -> bool:
        """Whether this run has anything to do with kparity: other people's markers may be called parity, too."""
        return self.explicit or self.used or bool(self.asserted) or "kparity.testing" in sys.modules

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what a test did, from its last report; and the backends that were missing, from its first. A failure
        of a test that compared something gets the line that runs it again.
        """
        if (
            report.when == "call"
            and report.failed
            and {CLAIMED, ASSERTED} & {name for name, _ in report.user_properties}
        ):
            report.sections.append(("kparity", f"rerun: pytest {shlex.quote(report.nodeid)}"))
        if report.when == "setup" and not report.passed and (found := MISSING.search(str(report.longrepr))):
            self.missing[found[1]] = found[2]
        if report.when != "teardown":
            return
        before = self.asserted
        for name, value in report.user_properties:
            if name == ASSERTED and isinstance(value, dict):
                self.held += value["held"]
                self.rejected += value["rejected"]
                self.mistrusted += value["mistrusted"]
                if value["utilisation"] > self.utilisation or not self.worst:
                    self.utilisation, self.worst = value["utilisation"], value["worst"]
        for backend in (str(value) for name, value in report.user_properties if name in (CLAIMED, MARKED)):
            if self.asserted > before:
                self.ran[backend] = self.ran.get(backend, 0) + 1
            else:
                self.silent.setdefault(backend, []).append(report.nodeid)

    def problems(self) -> list[str]:
        """Why a run in which nothing failed proves nothing, all the same."""
        empty = "0 parity assertions ran under -m parity: nothing was compared"
        problems = [empty] if self.marked and not self.asserted else []
        required = self.chosen["require"] if self.chosen else []
        problems += [f"no test ran on {name}, which is required" for name in required
                     if name not in self.ran and name not in self.silent]  # fmt: skip
        for name in [*required, *([""] if self.marked else [])]:
            if tests := self.silent.get(name):
                where = f"on {name}, which is required" if name else "under -m parity"
                problems.append(f"MISTRUSTED: {', '.join(tests)} asserted nothing {where}, that could have failed")
        return problems

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that compared nothing is not green."""
        if not self.in_use or self.config.getoption("collectonly", False) or hasattr(self.config, "workerinput"):
            return
        if session.exitstatus == pytest.ExitCode.OK and self.problems():
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A line of numbers, and one for everything that makes them worth nothing."""
        if not self.in_use or self.config.getoption("collectonly", False):
            return
        parts = [f"{self.asserted} parity assertion{'' if self.asserted == 1 else 's'}, {self.rejected} rejected"]
        if self.held:
            parts.append(f"largest utilisation of those that held {self.utilisation:.3g} ({self.worst})")
        if self.mistrusted:
            parts.append(f"{self.mistrusted} MISTRUSTED: constants, zeros or a bound that admits them")
        if ran := [f"{name} ({count})" for name, count in self.ran.items() if name]:
            parts.append(f"ran on {', '.join(ran)}")
        if silent := [f"{name} ({len(tests)})" for name, tests in self.silent.items() if name]:
            parts.append(f"MISTRUSTED, asserted nothing on {', '.join(silent)}")
        if self.missing:
            parts.append("missing: " + ", ".join(f"{name} [{code}]" for name, code in self.missing.items()))
        from kparity.host.text import printable

        terminalreporter.write_line(printable(f"kparity: {'; '.join(parts)}"))
        for problem in self.problems():
            terminalreporter.write_line(printable(f"kparity: {problem}"), red=True, bold=True)


SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("kparity", "parity of kernels")
    for name, (_, text) in OPTIONS.items():
        group.addoption(f"--kparity-{name}", metavar="NAMES", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse misspelt options before anything runs."""
    config.addinivalue_line("markers", "parity: a kernel against its reference; select with -m parity")
    explicit = any(config.getoption(f"kparity_{name}") is not None for name in OPTIONS)
    session = config.stash[SESSION] = Session(config, explicit)
    config.pluginmanager.register(session, "kparity-session")
    if explicit:
        choose(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close what was opened."""
    session = config.stash.get(SESSION, None)
    for backend in session.opened.values() if session else ():
        if not isinstance(backend, Exception):
            backend.close()


def choose(config: pytest.Config) -> dict[str, list[str]]:
    """The names of ``backends`` and ``require``; raises pytest.UsageError for one that is not known."""
    session = config.stash[SESSION]
    if session.chosen is None:
        session.chosen = {name: _names(config, name) for name in OPTIONS}
    return session.chosen


def _names(config: pytest.Config, option: str) -> list[str]:
    from kparity.device import registry
    from kparity.errors import UnknownName

    given = config.getoption(f"kparity_{option}")
    source = OPTIONS[option][0] if given is None else f"--kparity-{option}"
    text = os.environ.get(source, "") if given is None else given
    names = [name.strip() for name in text.split(",") if name.strip()]
    if given is not None and not names:
        raise pytest.UsageError(f"{source}: no name is given")
    known = registry.names()
    for name in names:
        if name not in known and names != ["all"]:
            raise pytest.UsageError(f"{source}: {UnknownName('backend', name, known)}")
    return known if names == ["all"] else names


def wanted(config: pytest.Config) -> list[str]:
    """The backends to test: the chosen ones (or all), and the required ones whether chosen or not."""
    from kparity.device import registry

    names = choose(config)
    return list(dict.fromkeys([*(names["backends"] or registry.usual()), *names["require"]]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per backend; nothing is opened yet."""
    if FIXTURE not in metafunc.fixturenames:
        return
    metafunc.config.stash[SESSION].used = True
    try:
        names = wanted(metafunc.config)
    except pytest.UsageError:  # a variable of the environment; `pytest_collection_finish` ends the run
        names = []
    metafunc.parametrize(FIXTURE, names, indirect=True, scope="session")


def pytest_collection_finish(session: pytest.Session) -> None:
    """End the run if a name in the environment is misspelt and a test depends on it."""
    ours = session.config.stash[SESSION]
    if ours.used:
        choose(session.config)
    if "parity" in str(session.config.getoption("markexpr", "")):
        ours.marked = any(item.get_closest_marker("parity") for item in session.items)


@pytest.fixture(scope="session")
def kparity_backend(request: pytest.FixtureRequest) -> Backend:
    """An open backend (``kparity.device.adapter.Backend``), one test per backend of the machine.

    One that cannot be opened is skipped with its code, or fails if it is required. Each is opened once and closed at
    the end of the session.
    """
    from kparity.device import registry
    from kparity.errors import Unavailable
    from kparity.host.text import printable

    opened, name = request.config.stash[SESSION].opened, request.param
    if name not in opened:
        try:
            opened[name] = registry.open_backend(name)
        except Exception as problem:  # whatever a driver raises: asked once, told in every test
            opened[name] = problem
    found = opened[name]
    if isinstance(found, Unavailable):
        text = printable(f"kparity: {name} is missing: [{found.code}] {found}")
        if name in choose(request.config)["require"]:
            pytest.fail(f"{text} (it is required)", pytrace=False)
        pytest.skip(text)
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., Any]:
    """``kparity.testing.assert_parity`` as a fixture."""
    from kparity.testing import assert_parity as function

    return function


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Put what a test did into its report: that travels to the terminal, to JUnit and between processes."""
    callspec, outcome = getattr(item, "callspec", None), call.excinfo.value if call.excinfo else None
    skipped = isinstance(outcome, pytest.skip.Exception) and not MISSING.search(str(outcome))
    if call.when == "call" or (call.when == "setup" and skipped):
        if callspec is not None and FIXTURE in callspec.params:
            item.user_properties.append((CLAIMED, callspec.params[FIXTURE]))
        elif outcome is None and item.get_closest_marker("parity"):
            item.user_properties.append((MARKED, ""))
    testing = sys.modules.get("kparity.testing")
    tally = testing.take() if testing is not None else None
    if tally is not None and tally.held + tally.rejected + tally.mistrusted:
        item.user_properties.append((ASSERTED, dataclasses.asdict(tally)))
