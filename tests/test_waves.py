"""The GPU text with wavefronts of 32 and of 64, on two CPU runtimes of OpenCL: every case of the generic parity test.

A wrong assumption about the wavefront shows here without AMD hardware, and a missing barrier does: CPU runtimes run the
work-items of a group one after another between barriers, in orders of their own. A group of 64 is one wave or two, a
group of 256 four or eight: a reduction over one wave needs no join, so both must occur.

Each runtime has a process of its own, because the loader reads its list of runtimes once. Intel's comes from the wheels
``intel-opencl-rt`` and ``intel-cmplr-lib-rt``; it is required by ``KPARITY_REQUIRE=intel-opencl``, PoCL by ``opencl``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kparity import ops
from kparity.backends.opencl import WAVES, OpenclBackend
from kparity.errors import CompileFailed, Unavailable
from kparity.ops import assemble
from kparity.ops.spec import Case, Op
from tests.conftest import absent
from tests.test_ops import check_case

ROOT = Path(__file__).resolve().parent.parent
INTEL = Path(sys.prefix) / "lib" / "libintelocl.so"
RUNTIMES = {"pocl": ("Portable Computing Language", "opencl"), "intel": ("Intel", "intel-opencl")}
"""Name -> how the driver's name begins, and what KPARITY_REQUIRE calls it."""
LIMIT_S = 600


def open_runtime(name: str, wave: int) -> OpenclBackend:
    """The CPU device of a runtime, whatever other devices there are."""
    for index in range(64):
        backend = OpenclBackend.open(index, wave=wave)  # the last raises Unavailable
        if backend.info.kind == "cpu" and backend.info.driver.startswith(RUNTIMES[name][0]):
            return backend
        backend.close()
    raise AssertionError("more than 64 devices")


def shared(op: Op, name: str, wave: int) -> list[Case]:
    """Every case is tried at each wavefront, on one of the runtimes; on both where the whole is asked for."""
    cases = op.cases()
    return cases if os.environ.get("KPARITY_WHOLE") else cases[((name == "intel") + (wave == 64)) % 2 :: 2]


def sweep(name: str, wave: int) -> dict[str, Any]:
    """Run the cases of every op; returns the device, the number of cases that pass for each op, and failures."""
    try:
        backend = open_runtime(name, wave)
    except Unavailable as missing:
        return {"missing": str(missing)}
    passed, failures = dict.fromkeys(ops.NAMES, 0), list[str]()

    def tried(case: Case) -> str | None:
        try:
            check_case(backend, case)
        except (AssertionError, CompileFailed) as wrong:
            return f"{case.id}: {wrong}"
        return None

    for op in ops.every():
        for case in shared(op, name, wave):
            reason = backend.supports(op, case) or tried(case)
            passed[op.name] += reason is None
            failures += [reason] if reason else []
    device = f"{backend.info.device} ({backend.info.driver})"
    backend.close()
    return {"device": device, "passed": passed, "failures": failures}


def sweep_in_child(name: str, wave: int, folder: Path) -> dict[str, Any]:
    """The same in a process whose loader knows the runtime; a crash or a hang of a runtime is a failure."""
    environment = dict(os.environ)
    if name == "intel":
        if not INTEL.exists():
            return {"missing": f"{INTEL} does not exist; pip install intel-opencl-rt intel-cmplr-lib-rt"}
        (folder / "intel.icd").write_text(f"{INTEL}\n", encoding="utf-8")
        libraries = [str(INTEL.parent), environment.get("LD_LIBRARY_PATH", "")]
        environment["OCL_ICD_VENDORS"] = str(folder)
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    command = [sys.executable, "-m", "tests.test_waves", name, str(wave)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failures": [f"nothing after {LIMIT_S} s"]}
    if done.returncode:
        return {"failures": [f"exit code {done.returncode}: {done.stderr[-2000:]}"]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict[str, Any]]:
    """All sweeps, two at a time, started when the first is asked for."""
    started: dict[tuple[str, int], Future[dict[str, Any]]] = {}
    with ThreadPoolExecutor(2) as pool:
        for name in RUNTIMES:
            for wave in WAVES:
                folder = tmp_path_factory.mktemp(f"{name}-{wave}")
                started[name, wave] = pool.submit(sweep_in_child, name, wave, folder)
        yield lambda name, wave: started[name, wave].result()


@pytest.mark.parametrize("wave", WAVES)
@pytest.mark.parametrize("name", RUNTIMES)
def test_every_case(name: str, wave: int, sweeps: Callable[[str, int], dict[str, Any]]) -> None:
    result = sweeps(name, wave)
    if "missing" in result:
        absent(f"{name}: {result['missing']}", RUNTIMES[name][1])
    assert not result["failures"], "\n".join(result["failures"])
    assert result["passed"] == {op.name: len(shared(op, name, wave)) for op in ops.every()}


def test_groups_are_of_one_wave_and_of_several() -> None:
    """Of every op that joins lanes there are groups of one wave and of several."""
    for op in ops.every():
        text = assemble.kernel_text(f"{op.name}/{op.name}.cu")
        if "BARRIER" not in text and "REDUCE" not in text:
            continue
        blocks = {stage.launch.block for case in op.cases() for stage in op.stages(case, "gpu")}
        waves = {block // wave for block in blocks for wave in WAVES}
        assert min(waves) == 1 and max(waves) > 1, f"{op.name}: groups of {sorted(blocks)}"
        assert all(block % max(WAVES) == 0 for block in blocks), f"{op.name}: groups of {sorted(blocks)}"


# The sweep proves nothing unless it finds such bugs.


@pytest.fixture(params=WAVES)
def altered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a case with a part of the prelude replaced, at each wavefront."""
    try:
        backend = open_runtime("pocl", request.param)
    except Unavailable as missing:
        pytest.skip(str(missing))
    original = assemble.kernel_text

    def run(old: str, new: str, op: str, **params: int) -> int:
        assert old in original("prelude/opencl.h"), "the prelude has changed: break it in another place"
        monkeypatch.setattr(assemble, "kernel_text", lambda path: original(path).replace(old, new))
        check_case(backend, ops.get(op).case(**params))
        return int(request.param)

    yield run
    backend.close()


LONG = {"M": 2, "D": 2560}


def test_a_missing_barrier_is_found(altered: Callable[..., int]) -> None:
    with pytest.raises(AssertionError):
        altered("#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)", "#define BARRIER()", "rmsnorm", **LONG)


def test_a_literal_wavefront_is_found(altered: Callable[..., int], request: pytest.FixtureRequest) -> None:
    """Right where 32 is right: only the other size betrays it."""
    change = ("wave += part) {", "wave += 32) {")
    if "[32]" in request.node.name:
        altered(*change, "norm_quant", **LONG)
    else:
        with pytest.raises(AssertionError):
            altered(*change, "norm_quant", **LONG)


if __name__ == "__main__":
    print(json.dumps(sweep(sys.argv[1], int(sys.argv[2]))))
