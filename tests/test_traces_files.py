"""What lies on disk: dumps of other programs, hostile ones, and traces that were touched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import numpy as np
import pytest

from kparity.errors import KparityError, WrongInput
from kparity.traces import files
from kparity.traces.diff import diff
from kparity.traces.dumps import Kept
from tests.cli import run
from tests.test_traces import rows_of, small

MAPPED = {"model.layers.{layer}.mlp.gate_proj": "ffn_gate", "lm_head": "logits", "model.layers.{layer}.q": "qkv/0",
          "model.layers.{layer}.k": "qkv/1", "model.layers.{layer}.v": "qkv/2", "model.norm": None}  # fmt: skip


def test_a_dump_of_another_program_is_read_by_its_map(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    ours = small(tmp_path / "ours")
    named = {"model.layers.2.mlp.gate_proj": "2.ffn_gate", "lm_head": "logits", "model.norm": "result_norm"}
    arrays = {name: rows_of(ours, key) for name, key in named.items()}
    parts = np.split(rows_of(ours, "2.qkv"), [256, 384], axis=1)
    arrays |= {f"model.layers.2.{name}": part for name, part in zip("qkv", parts, strict=True)}
    path, table = tmp_path / "theirs.safetensors", tmp_path / "map.json"
    save({name: torch.from_numpy(array.copy())[None] for name, array in arrays.items()}, path)
    table.write_text(json.dumps(MAPPED))
    found = diff(ours, files.load(path, str(table)))
    assert found.verdict == "PASS" and [each.key for each in found.slots] == ["2.qkv", "2.ffn_gate", "logits"]
    assert all(each.error == 0 for each in found.slots) and found.notes[0].endswith("left out: model.norm")
    halves = {name: torch.from_numpy(array.copy()).bfloat16() for name, array in arrays.items()}
    save(halves, path)
    rounded = diff(ours, files.load(path, str(table)))
    assert all(0 < each.error < 2**-8 for each in rounded.slots)
    with pytest.raises(WrongInput, match=r"3 of its names are no slots, first 'model.layers.2.k'.*give --map"):
        files.load(path)


HEADER = {"2.ffn_gate": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}}


def header(**changes: object) -> bytes:
    text = json.dumps({"2.ffn_gate": {**HEADER["2.ffn_gate"], **changes}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(32)


def npy(shape: tuple[int, int], dtype: str = "<f4") -> bytes:
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + (64).to_bytes(2, "little") + text.ljust(64) + bytes(16)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.safetensors", b"", "is no safetensors file: its header would have 0 bytes"),
        ("a.safetensors", b"\xff" * 16, "its header would have"),
        ("a.safetensors", (4).to_bytes(8, "little") + b"[[[[", "a safetensors header"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "is no safetensors file"),
        ("a.safetensors", header(shape=[2, -4]), "does not lie in its file"),
        ("a.safetensors", header(shape=[2, 1 << 62]), "does not lie in its file"),
        ("a.safetensors", header(data_offsets=[0, 64], shape=[4, 4]), "does not lie in its file"),
        ("a.safetensors", header(data_offsets=[-32, 0]), "does not lie in its file"),
        ("a.safetensors", header(dtype="I64"), "is I64, expected one of F64"),
        ("a.safetensors", header(shape=[2, 2, 2]), "give .tokens, width"),
        ("a.safetensors", header(shape=[0, 4], data_offsets=[0, 0]), "give .tokens, width"),
        ("2.ffn_gate.npy", b"\x93NUMPY\x01\x00", "is no array that can be read"),
        ("2.ffn_gate.npy", npy((8, 8)), "ends before byte 330"),
        ("2.ffn_gate.npy", npy((2, 2), "<i4"), "holds int32"),
        ("2.ffn_gate.npy", npy((2, 2))[:40] + bytes(40), "is no array that can be read"),
        ("2.ffn_gate.npy", b"\x80\x04N.", "is no array that can be read"),
        ("2.ffn_gate.npy", b"", "is no array that can be read: EOF"),
        ("what.txt", b"", "holds no trace"),
    ],
)
def test_a_hostile_dump_is_a_sentence(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WrongInput, match=words):
        files.load(tmp_path)


def test_a_dump_is_read_from_its_folder_alone_and_what_lies_below_is_told(tmp_path: Path) -> None:
    below = tmp_path / "run" / "layers"
    below.mkdir(parents=True)
    np.save(below / "2.ffn_gate.npy", np.ones((4, 8), np.float32))
    (tmp_path / "run" / "loop").symlink_to("..")
    with pytest.raises(WrongInput, match="but the folder layers, the folder loop, and none is searched; name one"):
        files.load(tmp_path / "run")
    np.save(tmp_path / "run" / "3.ffn_gate.npy", np.ones((4, 8), np.float32))
    found = files.load(tmp_path / "run")
    assert [str(key) for key in found.entries] == ["3.ffn_gate"]
    assert diff(files.load(below), files.load(below)).verdict == "PASS"
    (tmp_path / "run" / "4.ffn_gate.npy").symlink_to("4.ffn_gate.npy")
    with pytest.raises(WrongInput, match=r"4.ffn_gate.npy cannot be read: Too many levels of symbolic links"):
        files.load(tmp_path / "run")
    for number in range(3000):
        (below / f"step{number}.npy").touch()
    done = run("trace", "show", str(below))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "step0.npy is no array" in done.stderr


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    kept, (_, hard) = Kept(tmp_path / "2.qkv.safetensors", "2.qkv", 4, 512), getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(WrongInput, match=r"2.qkv.safetensors cannot be written: File too large; name a folder"):
            kept.append(np.ones((4, 512), np.float32))
    finally:
        setrlimit(RLIMIT_FSIZE, (hard, hard))


def sealed(text: str) -> str:
    """Lines of a trace whose last one has their digest, as somebody would write it who means to deceive."""
    lines = text[: text.rindex("\n", 0, -1) + 1]
    return lines + json.dumps({"type": "seal", "sha256": hashlib.sha256(lines.encode()).hexdigest()}) + "\n"


def test_what_was_touched_after_the_capture_is_refused(tmp_path: Path) -> None:
    whole = small(tmp_path / "whole")
    index, lines = tmp_path / "whole" / files.INDEX, (tmp_path / "whole" / files.INDEX).read_text().splitlines(True)
    for text, words in (
        ("".join(lines[:-1]), "did not come to its end, or an old one"),
        ("".join(lines[:5] + lines[-2:]), "did not come to its end"),
        ("".join(lines).replace('"zero_count":0', '"zero_count":1', 1), "a line was changed; capture it again"),
        ("".join(lines).replace('"absent":{}', '"absent":{"qkv":"no"}'), "a line was changed"),
        ("".join(lines) + "\n", "a line was changed"),
        ("".join(lines)[:-40], "is damaged, or was not finished"),
        ("".join([lines[0], *lines]), "begins twice"),
        (sealed("".join([lines[0], lines[1], *lines[1:-3], *lines[-2:]])), "holds a slot twice"),
        (sealed("".join(lines).replace("1.qkv.safetensors", "../1.qkv.safetensors")), "lies outside of the trace"),
        (sealed("".join(lines).replace('"3.qkv"', '"3.qkw"')), "did you mean 'qkv'"),
        ("", "does not begin as a trace does"),
    ):
        index.write_text(text)
        with pytest.raises(KparityError, match=words):
            files.load(tmp_path / "whole")
    index.write_text("".join(lines))
    path = tmp_path / "whole" / "4.ffn_up.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(WrongInput, match=r"4.ffn_up.safetensors is not what was captured"):
        diff(files.load(tmp_path / "whole"), whole)
    path.unlink()
    with pytest.raises(WrongInput, match=r"4.ffn_up.safetensors cannot be read"):
        files.load(tmp_path / "whole")
