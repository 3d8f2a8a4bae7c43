"""The one reader and the one writer of files that people name."""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from kparity.cli.main import cli
from kparity.errors import WrongInput
from kparity.host import files
from tests.cli import run


def node(folder: Path, kind: str) -> Path:
    """Something that is no regular file, of the test's own making."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))
    elif kind == "endless":
        path = Path("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "endless", "absent", "nul\0byte"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    with pytest.raises(WrongInput, match=r"name a receipt"):
        files.read(node(tmp_path, kind), "a receipt")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(WrongInput, match=r"107374182400 bytes, and a receipt has at most 10"):
        files.read(sparse, "a receipt", 10)


def test_a_file_without_a_size_is_read_to_the_limit_only() -> None:
    assert b"Linux" in files.read("/proc/version")
    with pytest.raises(WrongInput, match="more than 4 bytes"):
        files.read("/proc/version", largest=4)


def test_text_that_is_no_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(WrongInput, match="line 2: byte 0xff is no UTF-8"):
        files.read_text(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[NaN]", "NaN is not a number"),
        ("[1e999]", "beyond every float"),
        (f"[{10**400}]", "more than 64 bits"),
        ("[18446744073709551616]", "more than 64 bits"),
        ("[" * 200000 + "]" * 200000, "nested too deeply"),
        ('{"a": ', "not a receipt that can be read"),
        ('{"a": ["\\ud800"]}', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        (b"\xff", "not a receipt that can be read"),
    ],
)
def test_json_is_read_with_suspicion(text: str | bytes, reason: str) -> None:
    with pytest.raises(WrongInput, match=reason):
        files.parse_json(text, "x.json", "a receipt")


def test_json_that_is_right_is_read() -> None:
    assert files.parse_json('{"a": [1, -2.5, 18446744073709551615]}', "x") == {"a": [1, -2.5, (1 << 64) - 1]}
    assert files.parse_json('["\\ud83d\\ude00"]', "x") == ["\U0001f600"]


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    target.chmod(0o640)
    before = target.stat().st_ino
    files.write(target, "new")
    assert target.read_text() == "new" and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_ino != before and [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_new_file_heeds_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        files.write(tmp_path / "a", b"x")
        files.write(tmp_path / "key", b"x", 0o600)
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "key")] == [0o640, 0o600]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/file")
    files.write(link, "text")
    assert link.is_symlink() and (tmp_path / "there/file").read_text() == "text"


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, got = node(tmp_path, "pipe"), []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    files.write(pipe, "through")
    reader.join(10)
    assert got == [b"through"] and pipe.is_fifo()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device node")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.open("wb").close()
    except OSError as error:
        pytest.skip(f"no device nodes here: {error}")
    files.write(null, "gone")
    assert null.is_char_device()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "it is a folder"),
        ("socket", "it is a socket"),
        ("absent/a", "is not a folder; create it first"),
        ("nul\0byte", "null"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, name: str, reason: str) -> None:
    path = node(tmp_path, name)
    for attempt in (files.refuse_unwritable, lambda it: files.write(it, "x")):
        with pytest.raises(WrongInput, match=reason):
            attempt(path)


def test_what_failed_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WrongInput, match="No space left on device"):
        files.write(target, "new")
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_standard_output_is_a_dash(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    files.write("-", "text\n")
    assert capfdbinary.readouterr().out == b"text\n"


RUN, BENCH = ("run", "--prompt", "x", "--backend", "numpy"), ("bench", "--backends", "numpy")


@pytest.mark.parametrize(
    "command",
    [
        ("model", "inspect"), ("probe", "--backends", "numpy", "--model"), ("probe", "--contracts"),
        (*RUN, "--model"), (*RUN, "--tokenizer"), (*BENCH, "--model"),
        (*BENCH, "--baseline", "llama.cpp", "--baseline-file"), ("bench", "compare", "none.json"),
        ("receipt", "verify"), ("receipt", "show"), ("contract", "validate"),
        ("mutate", "--backends", "numpy", "--op", "add", "--resume"),
    ],
)  # fmt: skip
def test_no_command_waits_for_a_pipe_that_nobody_feeds(tmp_path: Path, command: tuple[str, ...]) -> None:
    pipes = [str(node(tmp_path, "pipe"))] * (2 if "none.json" in command else 1)
    done = run(*(part for part in command if part != "none.json"), *pipes)
    assert done.returncode == 2 and "is a named pipe; name" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("probe", "--receipt"), (*RUN, "--receipt"), (*BENCH, "--receipt"), (*BENCH, "--json"),
        *(("check", "-o", "add", option) for option in ("--json", "--junit", "--csv", "--dump")),
    ],
)  # fmt: skip
def test_every_output_is_tried_before_the_work(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(*command, str(tmp_path / "no" / "file"))
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "file cannot be written: " in line and "is not a folder; create it first" in line


@pytest.mark.parametrize(
    "command",
    [
        "probe --model IN --receipt IN", "run --prompt x --tokenizer IN --receipt LINK", "bench --model IN --json HARD",
        "bench --baseline llama.cpp --baseline-file IN --receipt IN", "bench compare IN IN --json IN",
        "model inspect IN --json=IN", "receipt verify IN --json=HARD", "receipt diff IN IN --json=LINK",
        "receipt test-result IN IN", "receipt verify --key IN IN2 --json=IN", "contract show --contracts IN --json=IN",
        "probe --json OUT --junit OUT", "probe --receipt OUT --json=./OUT", "check --csv OUT --junit OUT",
        "check --json - --junit -", "mutate --resume IN --markdown LINK", "receipt keygen OUT --public OUT",
    ],
)  # fmt: skip
def test_no_output_takes_the_place_of_another_file(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("IN").write_text("{}")
    Path("HARD").hardlink_to("IN")
    Path("LINK").symlink_to("IN")
    done = run(*command.split())
    assert done.returncode == 2 and re.fullmatch(r"kparity: .* would write over .*; name another file\n", done.stderr)
    assert Path("IN").read_text() == "{}" and sorted(each.name for each in tmp_path.iterdir()) == ["HARD", "IN", "LINK"]


@pytest.mark.parametrize("command", ["receipt list", "contract validate", "check --replay", "probe --contracts"])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, scandir = tmp_path / "secret", os.scandir
    secret.mkdir()

    def closed(path: str) -> object:
        if Path(path) == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    told = CliRunner().invoke(cli, [*command.split(), str(secret)])
    assert isinstance(told.exception, WrongInput) and "secret cannot be read: Permission denied" in str(told.exception)
    assert files.below(tmp_path, "*", deep=True)[1] == [f"{secret} cannot be read: Permission denied; name a folder "
                                                        "that is there"]  # fmt: skip


def test_a_baseline_that_was_not_written_to_its_end_is_refused_before_anything_loads_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(4096))
    os.truncate(path, 100 << 30)
    done = run(*BENCH, "--baseline", "llama.cpp", "--baseline-file", str(path))
    assert done.returncode == 2 and "the disk holds 8192: it was not written to its end" in done.stderr, done.stderr
