"""ggml's own kernels as backends: right ones pass, planted defects do not, and what a build lacks is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kparity import ops
from kparity.device import names
from kparity.errors import Unavailable, WrongInput
from tests.cli import run
from tests.conftest import needing

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "integrations" / "ggml"
PROJECT = (PACKAGE / "pyproject.toml").read_text("utf-8")
OPS = re.findall(r"^(ggml_\w+) = ", PROJECT, re.MULTILINE)
PLACES = re.findall(r'^\[project.entry-points."(\S+)"\]\n((?:\S+ = \S+\n)+)', PROJECT, re.MULTILINE)
FOLDER = os.environ.get("KPARITY_LLAMACPP", "")


def forget() -> None:
    for each in (ops.targets, ops.get, names.targets):
        each.cache_clear()


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installer would write of the package's entry points."""
    folder = tmp_path_factory.mktemp("ggml")
    about = folder / "kparity_ggml-0.1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: kparity-ggml\nVersion: 0.1.0\n", "utf-8")
    text = "".join(f"[{group}]\n{lines}" for group, lines in PLACES).replace('"', "")
    about.joinpath("entry_points.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture(autouse=True)
def installed(metadata: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for each in (metadata, PACKAGE):
        monkeypatch.syspath_prepend(each)
    forget()
    yield
    forget()


def built() -> str:
    with needing("llama.cpp"):
        if not FOLDER:
            raise Unavailable("KPARITY_LLAMACPP names no folder", "set it to one with libllama", "KP-LLAMACPP-NOLIB")
    return FOLDER


@pytest.fixture
def environment(metadata: Path) -> dict[str, str]:
    """Of a child in which the package is installed: one process holds one build of ggml, and this one holds none."""
    return {"PYTHONPATH": os.pathsep.join([str(metadata), str(PACKAGE)]), "KPARITY_LLAMACPP": built()}


def python(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run([sys.executable, *words], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_case_has_its_own_name_and_there_are_400() -> None:
    cases = [case.id for name in OPS for case in ops.get(name).sweep()]
    assert len(cases) == len(set(cases)) >= 400 and len(OPS) == 12
    rows = re.findall(r"^\| (`ggml_.*`) \|.*\| (\d+) \|$", (ROOT / "docs/ggml.md").read_text("utf-8"), re.MULTILINE)
    told = {tuple(re.findall(r"`(\w+)`", names)): int(count) for names, count in rows}
    assert told == {names: sum(len(ops.get(name).sweep()) for name in names) for names in told}
    assert sorted(name for names in told for name in names) == sorted(OPS)
    for page in ("README.md", "docs/ggml.md", "integrations/ggml/README.md"):
        assert f" {len(cases)} cases" in " ".join((ROOT / page).read_text("utf-8").split()), page


def test_right_kernels_pass(environment: dict[str, str]) -> None:
    done = run("check", "-b", "ggml:CPU", "-k", "ggml_", "--quick", env=environment)
    assert done.returncode == 0 and "0 FAIL, 0 UNSUPPORTED, 0 SKIPPED" in done.stdout, done.stdout


def test_a_rasteriser_is_software_and_passes(environment: dict[str, str]) -> None:
    chosen = "ggml_add,ggml_get_rows,ggml_argmax,ggml_relu_sqr"
    done = run("check", "-b", "ggml:Vulkan0", "-o", chosen, "--quick", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)["records"]
    assert all(("llvmpipe" in each["device"]) == (each["device_kind"] == "software") for each in records) and records


def test_planted_defects_are_seen_and_nmse_misses_some(environment: dict[str, str]) -> None:
    rows = [line.split(" | ") for line in python(environment, "-m", "kparity_ggml.report").splitlines()]
    names, found = rows[0][2:], {row[0]: [each.strip(" |") for each in row[2:]] for row in rows[2:]}
    assert [each.strip(" |") for each in names] == ["nothing", "tail", "offset", "half", "row", "heads", "element"]
    ternary, sums = (next(found[name] for name in found if part in name) for part in ("tq2_0", "ggml_add"))
    assert ternary == ["none", "kparity", "both", "kparity", "both", "both", "kparity"]
    assert sums == ["none", "both", "both", "kparity", "both", "both", "kparity"]
    assert {row[0] for row in found.values()} == {"none"} and len(found) == 7


def test_sums_of_nothing_are_not_a_number_and_pass_the_nmse() -> None:
    from kparity_ggml import report

    assert not report.nmse(np.zeros(4), np.zeros(4)) > 1e-7
    assert report.nmse(np.zeros(4), np.ones(4)) > 1e-7


def test_the_decoders_agree_with_the_quantiser(environment: dict[str, str]) -> None:
    text = """
import numpy as np
from kparity_ggml import formats
codes = np.random.default_rng(0).integers(-1, 2, (3, 512)).astype(np.float32)
codes[:, ::32] = 1
for kind in formats.BLOCK:
    print(kind, np.abs(formats.decode(kind, formats.encode(kind, codes)) - codes).max())
"""
    errors = dict(line.split() for line in python(environment, "-c", text).splitlines())
    assert len(errors) == 6
    for kind, error in errors.items():
        assert float(error) <= (2.0**-3 if kind == "q4_0" else 2.0**-4), f"{kind} (q4_0 has −8 and no 8)"


def test_ops_of_others_are_unsupported_and_parts_of_blocks_refused(environment: dict[str, str]) -> None:
    done = run("check", "-b", "ggml:CPU", "-o", "add", "--quick", env=environment)
    assert done.returncode == 3 and "add is no op of ggml" in done.stdout + done.stderr
    with pytest.raises(WrongInput, match="whole blocks of 256; K is 100"):
        ops.get("ggml_mul_mat").case(type="tq2_0", M=1, N=1, K=100)


def test_the_command_takes_the_folder_and_refuses_another(environment: dict[str, str], tmp_path: Path) -> None:
    env = {**environment, "KPARITY_LLAMACPP": ""}
    asked = ("check", "-b", "ggml:CPU", "-o", "ggml_add", "--quick")
    done = run(*asked, "--lib", built(), env=env)
    assert done.returncode == 0 and "10 PASS" in done.stdout, done.stderr
    done = run(*asked, "--lib", str(tmp_path), env=env)
    assert done.returncode == 3 and "KP-GGML-NOLIB" in done.stdout + done.stderr
    done = run(*asked, "--lib", str(tmp_path / "none"), env=env)
    assert done.returncode == 2 and "is no folder" in done.stderr


def test_products_are_timed_right_or_found_to_be_wrong(environment: dict[str, str]) -> None:
    text = """
from kparity import ops
from kparity.bench.ops.rotation import Rotation
from kparity_ggml import report
device = report.planted()
device.errors = []
timed = Rotation(device, ops.get("ggml_mul_mat").case(type="tq2_0", M=1, N=24, K=512), cold=1 << 17, launches=3)
print(timed.check(), len(timed.written), len(timed.programs), timed.row.launches_per_replay)
device.defect = report.element
print(timed.check())
"""
    right, wrong = python(environment, "-c", text).splitlines()
    assert right == "None 27 9 3" and wrong.startswith("output wrong: ggml:CPU: ggml_mul_mat[")


def test_bench_has_them_as_a_backend_and_beside_ours(environment: dict[str, str], tmp_path: Path) -> None:
    chosen = ("--ops", "tgemv and K=256,M=1,N=16401 or ggml_mul_mat and M=8,N=5, and tq2_0 and listed")
    path, words = tmp_path / "bench.json", ("--seconds", "0.05", "--threads", "1", "--baseline", "llama.cpp")
    done = run("bench", "-b", "cpu,ggml:CPU", *chosen, *words, "--receipt", str(path), env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["predicate"]["ops"]
    found = {row["name"]: row for row in rows if row.get("unit_s")}
    ours, own = found["cpu tgemv K=256 N=16401 hot"], found["ggml:CPU ggml_mul_mat K=256 M=8 N=5 type=tq2_0 hot"]
    theirs = [found[f"ggml mul_mat TQ2_0 K=256 N=16401 {state}"] for state in ("cold", "hot")]
    assert all(row["verified"] and "1 thread" in row["device"]["detail"] for row in (own, *theirs))
    assert [each["baseline"] for each in ours["ratios"]] == [theirs[1]["name"]] and not own.get("ratios")
    assert run("receipt", "verify", str(path), env=environment).returncode == 0


def test_a_baseline_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.bench import ggml_baseline

    monkeypatch.setattr(names, "names", lambda: ["cpu"])
    with pytest.raises(Unavailable, match=r"package of their own") as caught:
        ggml_baseline.GgmlSession()
    assert "integrations/ggml" in caught.value.remedy
