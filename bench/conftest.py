"""Benchmarks as a pytest-benchmark suite, over the backends and cases of kparity.

    pytest bench/ --benchmark-json=x.json                        every backend that opens, the launches of a decode step
    pytest bench/ --kparity-backends cpu --kparity-ops "tgemv and step" --benchmark-autosave
    pytest-benchmark compare A.json B.json; kparity bench compare A.json B.json

A benchmark passes only if the output of what was timed holds against truth. ``--kparity-backends`` is the option of
kparity's plugin for pytest; ``--kparity-ops`` takes an expression as ``kparity bench --ops``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kparity.bench.ops.cases import plan
from kparity.device import fingerprint
from kparity.device.adapter import Backend
from kparity.errors import KparityError
from kparity.host.revision import revision
from kparity.ops.spec import Case

SOURCE = pytest.StashKey[dict[str, Any]]()
CASES = pytest.StashKey[list[Case]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What is timed, and how much memory a rotation of cold buffers takes."""
    group = parser.getgroup("kparity")
    group.addoption("--kparity-ops", metavar="EXPR", default=None, help="op cases to time (default: step)")
    group.addoption("--kparity-cold-mib", metavar="MIB", type=int, default=1024, help="largest rotation; 0: hot only")


def pytest_configure(config: pytest.Config) -> None:
    """The commit and the cases, asked for once."""
    config.stash[SOURCE] = revision()
    try:
        config.stash[CASES] = [case for case, _ in plan(config.getoption("kparity_ops"))]
    except KparityError as error:
        raise pytest.UsageError(f"--kparity-ops: {error}") from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case."""
    if "case" in metafunc.fixturenames:
        cases = metafunc.config.stash[CASES]
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Devices and drivers, as one digest: pytest-benchmark warns where it differs."""
    machine_info["devices_sha256"] = fingerprint.host()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """The commit and whether the sources differ from it, also where there is no git (a packed tree)."""
    source = config.stash[SOURCE]
    commit_info.update({**source, "id": source["commit"]})


@pytest.fixture
def note(request: pytest.FixtureRequest, benchmark: Any, kparity_backend: Backend) -> Callable[..., None]:
    """Notes what was timed in the benchmark's extra information: ``note(wrong=None | str, group=…, **facts)``.

    Fails the test where the output was wrong.
    """
    source = request.config.stash[SOURCE]

    def noted(wrong: str | None, group: str, **facts: Any) -> None:
        benchmark.group = group
        benchmark.extra_info.update(
            device=kparity_backend.info.as_dict(), label=kparity_backend.info.label, commit=source["commit"],
            dirty=source["dirty"], verified=wrong is None, **facts,
        )  # fmt: skip
        assert wrong is None, wrong

    return noted
