"""``kparity source`` and ``ops``, the line that reruns a failure, ``kparity check --dump`` and ``--replay``."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kparity import ops
from kparity.check import dump
from kparity.check.core import check_case
from kparity.check.facts import facts
from kparity.device import registry
from kparity.errors import Unavailable
from kparity.ops.assemble import gpu_source
from tests.cli import run

CASE = "add[D=257,M=3]"
LIAR = ("check", "-o", "add", "-b", "liar-one-nan", "-k", CASE)


def refused(*arguments: str, words: str) -> None:
    done = run(*arguments, liars=True)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr


# --- source ---


def test_the_text_is_that_of_the_first_case_that_matches() -> None:
    head, _, text = run("source", "add", "-b", "wgpu", "-k", "D=257, and random").stdout.partition("\n")
    assert head == f"// {CASE} for wgpu, from kernels/add/add.wgsl"
    case = next(each for each in ops.get("add").cases() if each.id == CASE)
    assert text == registry.backend_class("wgpu").source(ops.get("add"), case, {}).text


@pytest.mark.parametrize("name", ["cuda", "hip", "opencl"])
def test_a_gpu_text_needs_no_device(name: str) -> None:
    head, _, text = run("source", "add", "-b", name, "-k", "D=257,").stdout.partition("\n")
    assert head.startswith(f"// {CASE} for {name}, from kernels/add/add.cu")
    found = registry.backend_class(name)
    try:
        device = registry.open_backend(name)
    except Unavailable:
        assert "WAVE=32 is assumed" in head
        constants = found.constants
    else:
        constants = device.constants
        device.close()
    case = next(each for each in ops.get("add").cases() if each.id == CASE)
    assert text == gpu_source(ops.get("add"), case, name, constants).text


@pytest.mark.parametrize(("name", "file"), [("cpu", "rope.h"), ("torch", "rope_torch.py"), ("numpy", "__init__.py")])
def test_who_compiles_no_text_names_the_file_of_its_code(name: str, file: str) -> None:
    words = f"{name} compiles no text while it runs: its code of rope is kernels/rope/{file}"
    refused("source", "rope", "-b", name, words=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("source", "tgmev", "-b", "cpu"), "did you mean 'tgemv'"),
        (("source", "add", "-b", "wgpuu"), "did you mean 'wgpu'"),
        (("source", "add", "-b", "wgpu", "-k", "nowhere"), "no case of add matches"),
        (("source", "add", "-b", "wgpu", "-k", "(x"), "expected ')'"),
        (("ops", "tgmev"), "did you mean 'tgemv'"),
        (("check", "-b", "wgpuu"), "did you mean 'wgpu'"),
        (("check", "-o", "tgmev"), "did you mean 'tgemv'"),
        (("check", "-k", "a and (b"), "column 9: expected ')'"),
        (("check", "--json", "/no/such/folder/x.json"), "/no/such/folder is not a folder"),
        (("check", "--kind", "randon"), "did you mean 'random'"),
        (("check", "-o", "add", "--dump", "/no/such/place"), "/no/such is not a folder; create it first"),
        (("check", "--replay", str(Path(__file__).parent)), "no folder with dump.json"),
        (("check", "--replay", str(Path(__file__).parent), "--quick"), "leave out -o, -k,"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    refused(*arguments, words=words)


def test_a_file_is_no_folder_to_keep_things_in() -> None:
    done = run("check", "-o", "add", "--dump", __file__)
    assert done.returncode == 2 and "is a file" in done.stderr and "Traceback" not in done.stderr


# --- ops ---


def test_every_op_is_one_line_and_one_page() -> None:
    lines = run("ops").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ops.names()
    dialects = ["(gpu, numpy)" if name in ops.JOINED else "(gpu, wgsl, native, torch, numpy)" for name in ops.names()]
    assert all(each in line for each, line in zip(dialects, lines, strict=True))
    listed = json.loads(run("ops", "--json").stdout)["ops"]
    assert [each["op"] for each in listed] == ops.names() and all(each["what"] for each in listed)


def test_the_page_of_an_op_has_formula_abi_cases_and_kinds() -> None:
    op = ops.get("rmsnorm")
    shown, whole = run("ops", "rmsnorm").stdout, json.loads(run("ops", "rmsnorm", "--json").stdout)
    assert "y[m, d] = x[m, d] / sqrt" in shown and "0  in    x" in shown and "EPS=1e-05" in shown
    assert whole["cases"] == [case.id for case in op.sweep()] and whole["quick"] == len(op.cases())
    assert whole["kinds"] == list(op.kinds(op.cases()[0]))
    assert set(whole["backends"]) == set(registry.BUILTIN)
    last = op.sweep()[-1].id
    assert last not in shown and last in run("ops", "rmsnorm", "-v").stdout


# --- the line that reruns ---


def test_the_line_under_a_failure_runs_it_alone() -> None:
    out = run(*LIAR, "--quick", liars=True).stdout
    lines = [line.strip().removeprefix("rerun: ") for line in out.splitlines() if "rerun: " in line]
    assert lines[0] == f"kparity check -o add -b liar-one-nan -k '{CASE}' --kind random --seed 0"
    again = run(*shlex.split(lines[1])[1:], liars=True)
    assert again.returncode == 1 and f"FAIL liar-one-nan: {CASE} outlier" in again.stdout
    assert "1 FAIL, 0 UNSUPPORTED, 0 SKIPPED of 1 runs" in again.stdout


# --- dump and replay ---


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one wrong backend and one that crashes leave behind."""
    folder = tmp_path_factory.mktemp("dumps") / "new"
    names = ("-b", "liar-one-nan,liar-crash-once", "--kind", "random,zeros", "--dump", str(folder))
    assert run("check", "-o", "add", "-k", CASE, *names, liars=True).returncode == 1
    return folder


def test_a_dump_has_inputs_outputs_truth_and_what_it_was(kept: Path) -> None:
    names = sorted(path.name for path in kept.iterdir())
    assert names == [
        "liar-crash-once_add_D=257,M=3__random_0",
        "liar-one-nan_add_D=257,M=3__random_0",
        "liar-one-nan_add_D=257,M=3__zeros_0",
    ]
    about = json.loads((kept / names[1] / "dump.json").read_text())
    assert about["record"]["case"] == CASE and about["record"]["outcome"] == "FAIL" and "u·|y|" in about["bounds"]["y"]
    arrays = np.load(kept / names[1] / "arrays.npz")
    assert set(arrays) == {"in_a", "in_b", "got_y", "again_y", "truth_y", "limit_y"}
    assert np.isnan(arrays["got_y"][:, -1]).all() and arrays["truth_y"].dtype == np.float64
    assert np.array_equal(arrays["truth_y"], arrays["in_a"].astype(np.float64) + arrays["in_b"])
    assert set(np.load(kept / names[0] / "arrays.npz")) == {"in_a", "in_b", "truth_y", "limit_y"}


def test_the_text_is_kept_and_a_later_failure_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    op, case = ops.get("add"), ops.get("add").cases()[0]
    (record,) = check_case(registry.open_backend("numpy"), op, case, kinds=["random"])
    source = registry.backend_class("wgpu").source(op, case, {})
    for reason in ("first", "second"):
        dump.write(tmp_path, replace(record, reason=reason), facts(op, case, "random", 0), [], source)
    (folder,) = tmp_path.iterdir()
    assert source is not None and (folder / "source.wgsl").read_text() == source.text
    assert json.loads((folder / "dump.json").read_text())["record"]["reason"] == "second"


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    op, case = ops.get("add"), ops.get("add").cases()[0]
    (record,) = check_case(registry.open_backend("numpy"), op, case, kinds=["random"])
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        dump.complete(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


def test_a_replay_judges_the_kept_inputs_on_its_backend_or_another(kept: Path) -> None:
    again = run("check", "--replay", str(kept), liars=True)
    assert again.returncode == 1 and "0 PASS, 3 FAIL" in again.stdout
    place = kept / "liar-one-nan_add_D=257,M=3__random_0"
    assert f"rerun: kparity check --replay {place} -b liar-one-nan" in again.stdout
    right = run("check", "--replay", str(place), "-b", "cpu,numpy", "--json", "-", liars=True)
    document = json.loads(right.stdout)
    assert right.returncode == 0 and {each["backend"] for each in document["records"]} == {"cpu", "numpy"}
    about = json.loads((place / "dump.json").read_text())["record"]
    assert {each["inputs_sha256"] for each in document["records"]} == {about["inputs_sha256"]}


def test_a_folder_that_cannot_be_read_is_left_out_of_a_replay_aloud(kept: Path, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        shutil.copytree(kept / "liar-one-nan_add_D=257,M=3__random_0", tmp_path / name)
    (tmp_path / "bad" / "dump.json").write_text("{}")
    done = run("check", "--replay", str(tmp_path), "-b", "cpu", liars=True)
    assert done.returncode == 3 and "1 PASS" in done.stdout
    assert f"left out: {tmp_path / 'bad' / 'dump.json'} is not what" in done.stderr


def test_a_replay_takes_the_inputs_from_the_file(kept: Path, tmp_path: Path) -> None:
    place, other = kept / "liar-one-nan_add_D=257,M=3__random_0", tmp_path / "other"
    other.mkdir()
    (other / "dump.json").write_bytes((place / "dump.json").read_bytes())
    arrays = dict(np.load(place / "arrays.npz"))
    np.savez(other / "arrays.npz", **{**arrays, "in_a": arrays["in_a"] * 2})
    done = run("check", "--replay", str(other), "-b", "cpu", "--json", "-", liars=True)
    (record,) = json.loads(done.stdout)["records"]
    assert done.returncode == 0
    assert record["inputs_sha256"] != json.loads((place / "dump.json").read_text())["record"]["inputs_sha256"]
    np.savez(other / "arrays.npz", **{**arrays, "in_a": arrays["in_a"][:1]})
    refused("check", "--replay", str(other), words="a is float32[1, 257], expected f32[3, 257]")
    for spoilt in (b"PK\3\4 no archive", b"", (place / "arrays.npz").read_bytes()[:-100]):
        (other / "arrays.npz").write_bytes(spoilt)
        refused("check", "--replay", str(other), words=f"{other} cannot be read")
    with zipfile.ZipFile(other / "arrays.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**11)})
        bomb.writestr("in_a.npy", header.getvalue() + bytes(1 << 24))
    refused("check", "--replay", str(other), words="a is float32[3, 100000000000], expected f32[3, 257]")
    (other / "arrays.npz").unlink()
    os.mkfifo(other / "arrays.npz")
    refused("check", "--replay", str(other), words="is a named pipe")
    (other / "arrays.npz").unlink()
    about = (place / "dump.json").read_text()
    (other / "dump.json").write_text(about.replace('"M": 3', '"M": "x"').replace("M=3", "M=x"))
    refused("check", "--replay", str(other), words=f"{other} cannot be read")
    (other / "dump.json").write_text(about.replace('"op": "add"', '"op": "addd"'))
    refused("check", "--replay", str(other), words="did you mean 'add'")
    (other / "dump.json").write_text("{}")
    refused("check", "--replay", str(other), words="is not what kparity check --dump writes")
