"""ggml's own kernels as backends: right ones pass, planted defects do not, and what a build lacks is said."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kparity import ops
from kparity.check.core import check_case
from kparity.device import names, registry
from kparity.device.adapter import Backend
from kparity.errors import Unavailable, WrongInput
from tests.cli import run
from tests.conftest import needing

PACKAGE = Path(__file__).parents[1] / "integrations" / "ggml"
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
def device(request: pytest.FixtureRequest) -> Iterator[Backend]:
    built()
    with needing("llama.cpp"):
        found = registry.open_backend(request.param)
    yield found
    found.close()


def test_every_case_has_its_own_name_and_there_are_400() -> None:
    cases = [case.id for name in OPS for case in ops.get(name).sweep()]
    assert len(cases) == len(set(cases)) >= 400 and len(OPS) == 12


@pytest.mark.parametrize("device", ["ggml:CPU"], indirect=True)
@pytest.mark.parametrize("name", OPS)
def test_right_kernels_pass(device: Backend, name: str) -> None:
    op = ops.get(name)
    for case in op.cases()[:: 1 + 2 * (name == "ggml_mul_mat")]:
        assert {(each.outcome, each.reason) for each in check_case(device, op, case)} == {("PASS", "")}, case.id


@pytest.mark.parametrize("device", ["ggml:Vulkan0"], indirect=True)
@pytest.mark.parametrize("name", ["ggml_add", "ggml_get_rows", "ggml_argmax", "ggml_relu_sqr"])
def test_a_rasteriser_is_software_and_passes(device: Backend, name: str) -> None:
    assert ("llvmpipe" in device.info.device) == (device.info.kind == "software")
    op = ops.get(name)
    assert {each.outcome for case in op.cases()[:2] for each in check_case(device, op, case)} == {"PASS"}


@pytest.mark.parametrize("device", ["ggml:CPU"], indirect=True)
def test_planted_defects_are_seen_and_nmse_misses_some(device: Backend) -> None:
    from kparity_ggml import report

    planted, found = report.planted(), {}
    case = ops.get("ggml_mul_mat").case(type="tq2_0", M=64, N=33, K=512)
    for defect in report.DEFECTS:
        planted.defect = defect
        found[defect.__name__] = report.seen(planted, case)
    assert found.pop("nothing") == (False, False)
    assert found["row"] == found["heads"] == (True, True)
    assert found["half"] == found["tail"] == found["element"] == (True, False)
    planted.defect = report.tail
    assert report.seen(planted, ops.get("ggml_add").case(H=4, T=33, D=257))[0]


@pytest.mark.parametrize("device", ["ggml:CPU"], indirect=True)
def test_sums_of_nothing_are_not_a_number_and_pass_the_nmse(device: Backend) -> None:
    from kparity_ggml import report

    assert not report.nmse(np.zeros(4), np.zeros(4)) > 1e-7
    assert report.nmse(np.zeros(4), np.ones(4)) > 1e-7


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q6_K", "tq1_0", "tq2_0", "q2_0"])
def test_the_decoders_agree_with_the_quantiser(kind: str) -> None:
    built()
    from kparity_ggml import formats

    codes = np.random.default_rng(0).integers(-1, 2, (3, 512)).astype(np.float32)
    codes[:, ::32] = 1
    most = 2.0**-3 if kind == "q4_0" else 2.0**-4  # q4_0 has −8 and no 8
    assert np.abs(formats.decode(kind, formats.encode(kind, codes)) - codes).max() <= most


@pytest.mark.parametrize("device", ["ggml:CPU"], indirect=True)
def test_ops_of_others_are_unsupported(device: Backend) -> None:
    op = ops.get("add")
    assert device.supports(op, op.cases()[0]) == "add is no op of ggml"
    with pytest.raises(WrongInput, match="whole blocks of 256; K is 100"):
        ops.get("ggml_mul_mat").case(type="tq2_0", M=1, N=1, K=100)


def test_the_command_takes_the_folder_and_refuses_another(metadata: Path, tmp_path: Path) -> None:
    built()
    env = {"PYTHONPATH": os.pathsep.join([str(metadata), str(PACKAGE)]), "KPARITY_LLAMACPP": ""}
    asked = ("check", "-b", "ggml:CPU", "-o", "ggml_add", "--quick")
    done = run(*asked, "--lib", built(), env=env)
    assert done.returncode == 0 and "10 PASS" in done.stdout, done.stderr
    done = run(*asked, "--lib", str(tmp_path), env=env)
    assert done.returncode == 3 and "KP-GGML-NOLIB" in done.stdout + done.stderr
    done = run(*asked, "--lib", str(tmp_path / "none"), env=env)
    assert done.returncode == 2 and "is no folder" in done.stderr
