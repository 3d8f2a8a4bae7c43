"""A wheel: built from the sdist, installed in a fresh environment, and used from an empty folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from tests import ray_cluster
from tests.cli import run

ROOT = Path(__file__).parent.parent
AT = {"SOURCE_DATE_EPOCH": "1700000000"}
"""The time of every file in an archive."""


def call(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run without this checkout on any path."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this tree, made by what is installed here."""
    out = tmp_path_factory.mktemp("sdist")
    call(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT, cwd=out, **AT)
    return next(out.glob("kparity-*.tar.gz"))


def built(sdist: Path, folder: Path) -> Path:
    """Its wheel, built in this folder without isolation and without an index."""
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    call(*pip, "--wheel-dir", folder / "out", source, cwd=folder, **AT)
    return next((folder / "out").glob("kparity-*.whl"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of that, which the tests below look at."""
    return built(sdist, tmp_path_factory.mktemp("build"))


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("KPARITY_WHOLE"), reason="compiles once more: KPARITY_WHOLE=1, or .ci/ship")
def test_the_wheel_is_the_same_from_another_folder(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    (other := tmp_path / "another folder").mkdir()
    assert built(sdist, other).read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_the_wheel_holds_what_it_needs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("kparity/_native") for name in names), "a wheel without native code must never ship"
    for name in (
        "kparity/data/embedded.gguf", "kparity/data/heldout.txt", "kparity/contracts/backend-output-parity-v1.yaml",
        "kparity/host/base.html.j2", "kparity/receipts/page.html.j2", "kparity/mutate/page.html.j2",
        "kparity/data/project/my_kernels.py.txt", "kparity/report/page.html.j2", "kparity/report/page.js",
        "kparity/kernels/tgemv/tgemv.cu", "kparity/kernels/tgemv/tgemv.wgsl",
        "kparity/kernels/prelude/opencl.h", "kparity/backends/wgpu.py", "kparity/py.typed",
    ):  # fmt: skip
        assert name in names
    tops = {name.split("/")[0] for name in names}
    assert tops <= {"kparity"} | {top for top in tops if top.endswith(".dist-info")}
    assert wheel.stat().st_size < 8_000_000


@pytest.mark.slow
def test_a_fresh_environment_probes_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    # Dependencies come from the environment that runs the tests, the package under test from the wheel alone.
    site = next((venv / "lib").glob("python3.*")) / "site-packages"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile")
    call(*pip, "--target", site, wheel, cwd=tmp_path)
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(here) + "\n")
    code = "import kparity._native, kparity.backends.cpu, kparity.kernels.tgemv; print(kparity.__file__)"
    where = call(python, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code, cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(venv)
    done = call(python, "-m", "kparity.cli.main", "probe", "--backends", "cpu", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["serving"] == "cpu"
    # Inside a checkout, whose kparity/ has neither native code nor backends, it is still the wheel that is probed.
    main = "import sys; sys.path = [p for p in sys.path if p]; from kparity.cli.main import main; main()"
    done = call(python, "-c", main, "probe", "--backends", "cpu", "--json", cwd=ROOT)
    assert json.loads(done.stdout)["serving"] == "cpu"


@pytest.mark.slow
def test_a_fleet_gives_its_wheel_to_nodes_that_have_no_kparity(wheel: Path, tmp_path: Path) -> None:
    ray_cluster.needed()
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    site = next((tmp_path / "venv/lib").glob("python3.*")) / "site-packages"
    for path in (each for folder in sys.path if folder.endswith("site-packages") for each in Path(folder).iterdir()):
        if "kparity" not in path.name and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    node = (tmp_path / "venv/bin/python", "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
            "--num-cpus=1", "--node-name=bare", "--include-dashboard=false", "--disable-usage-stats",
            f"--object-store-memory={ray_cluster.STORE}", f"--temp-dir={tempfile.mkdtemp(prefix='ray-')}")  # fmt: skip
    alone = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
             "RAY_worker_niceness": "0"}  # fmt: skip
    words = ["--address", f"127.0.0.1:{port}", "--per", "node", "-b", "cpu", "--retries", "0"]
    cluster = subprocess.Popen(node, cwd=tmp_path, env={**os.environ, **alone}, stdout=subprocess.DEVNULL)
    try:
        outcomes = dict[str, str]()
        for name, more in (("none", []), ("wheel", ["--wheel", str(wheel)])):
            out = tmp_path / name
            until = time.monotonic() + 60
            while (done := run("fleet", "check", *words, *more, "--out", str(out), "--", "-o", "add", "--quick")) and (
                done.returncode == 2 and time.monotonic() < until
            ):
                time.sleep(1)  # nobody answers there yet
            lines = map(json.loads, (out / "fleet.jsonl").read_text().splitlines())
            outcomes[name] = next(each["outcome"] for each in lines if each["what"] == "device")
        assert outcomes == {"none": "refused", "wheel": "passed"}
    finally:
        cluster.terminate()
        cluster.wait(60)
