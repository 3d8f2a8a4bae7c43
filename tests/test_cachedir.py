"""The private cache: who may write there, what is taken from it, and what writers leave behind."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kparity.host import cachedir
from kparity.model import digest
from kparity.mutate import native

STRANGER = 4321


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def kept(home: Path) -> Path:
    """A file of the cache."""
    path = cachedir.folder("things") / "thing"
    cachedir.write(path, b"what it was")
    return path


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o377])
def test_modes_do_not_follow_the_umask(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = cachedir.folder("a/b") / "thing"
        cachedir.write(path, b"1")
        with cachedir.scratch(path.parent) as unfinished:
            (unfinished / "made").write_bytes(b"2")
            (unfinished / "made").chmod(0o666)
            cachedir.seal(unfinished / "made", path.parent / "made")
    finally:
        os.umask(before)
    assert [mode(home / each) for each in ("kparity", "kparity/a", "kparity/a/b")] == [0o700] * 3
    assert {each.name: mode(each) for each in path.parent.iterdir()} == dict.fromkeys(
        ("thing", "made", "made.sha256"), 0o600
    )


def test_a_relative_folder_is_ignored_and_without_a_home_the_remedy_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "cache", "./cache", "../cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cachedir.folder("things") == tmp_path / "home" / ".cache" / "kparity" / "things"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for home in (homeless, lambda: Path("relative")):
        monkeypatch.setattr(Path, "home", home)
        with pytest.raises(OSError, match="set XDG_CACHE_HOME to an absolute path"):
            cachedir.folder("things")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777, 0o720])
@pytest.mark.parametrize("part", ["kparity", "kparity/things"])
def test_a_folder_that_others_can_write_is_refused(home: Path, kept: Path, part: str, bits: int) -> None:
    (home / part).chmod(bits)
    with pytest.raises(PermissionError) as refusal:
        cachedir.folder("things")
    assert f"{home / part} can be written by others; run `chmod go-w {home / part}`" in str(refusal.value)
    (home / part).chmod(bits & ~0o022)
    assert cachedir.folder("things") == kept.parent, "the remedy works"


def test_what_is_another_users_is_refused(home: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    with pytest.raises(PermissionError, match=f"{home / 'kparity'} belongs to user .*set XDG_CACHE_HOME"):
        cachedir.folder("things")
    with pytest.raises(PermissionError, match="belongs to user"):
        cachedir.read(kept)


@pytest.mark.parametrize("part", ["kparity", "kparity/things"])
def test_a_link_is_as_good_as_what_it_points_to(home: Path, kept: Path, part: str) -> None:
    elsewhere = home / "elsewhere"
    (home / part).rename(elsewhere)
    (home / part).symlink_to(elsewhere)
    assert cachedir.folder("things").samefile(elsewhere if part.endswith("things") else elsewhere / "things")
    elsewhere.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        cachedir.folder("things")
    shutil.rmtree(elsewhere)
    with pytest.raises(OSError):
        cachedir.folder("things")


def test_a_file_in_the_place_of_a_folder_and_another_users_link_are_refused(home: Path) -> None:
    (home / "kparity").write_text("")
    with pytest.raises(PermissionError, match="is no folder; remove it"):
        cachedir.folder("things")
    if os.geteuid():
        pytest.skip("only root gives links away")
    (home / "kparity").unlink()
    (home / "mine").mkdir()
    (home / "kparity").symlink_to(home / "mine")
    os.lchown(home / "kparity", STRANGER, STRANGER)
    with pytest.raises(PermissionError, match=r"the link .* is another user's"):
        cachedir.folder("things")


def link_to_itself(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


FAULTS: dict[str, Callable[[Path], object]] = {
    "group may write": lambda path: path.chmod(0o620),
    "others may write": lambda path: path.chmod(0o602),
    "a link": link_to_itself,
    "a pipe": fifo,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_others_may_have_written_is_not_read(kept: Path, fault: str) -> None:
    assert cachedir.read(kept) == b"what it was"
    FAULTS[fault](kept)
    with pytest.raises(OSError):
        cachedir.read(kept)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(kept: Path, error: BaseException, monkeypatch) -> None:
    def half(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:3])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(type(error)):
        cachedir.write(kept, b"what it will be")
    assert cachedir.read(kept) == b"what it was"
    assert [path.name for path in kept.parent.iterdir()] == ["thing"]


def test_what_killed_writers_left_is_swept(kept: Path) -> None:
    old, young = (kept.parent / f"{name}{cachedir.PARTIAL}" for name in ("old", "young"))
    for each in (old, young):
        each.mkdir()
        (each / "model.gguf").write_bytes(b"half")
    before = time.time() - cachedir.STALE_S - 60
    os.utime(old, (before, before))
    os.utime(kept, (before, before))
    cachedir.write(kept.parent / "other", b"")
    assert not old.exists() and young.exists() and kept.exists()


OF_SEALED: dict[str, Callable[[Path], object]] = {
    "one bit": lambda path: path.write_bytes(b"machine bode"),
    "cut": lambda path: path.write_bytes(b"mach"),
    "no seal": lambda path: path.with_name("module.so.sha256").unlink(),
    "an empty seal": lambda path: path.with_name("module.so.sha256").write_bytes(b""),
}


@pytest.mark.parametrize("fault", [*FAULTS, *OF_SEALED])
def test_what_is_not_what_was_sealed_is_made_anew(home: Path, fault: str) -> None:
    path = cachedir.folder("things") / "module.so"
    assert not cachedir.intact(path)

    def make() -> None:
        with cachedir.scratch(path.parent) as unfinished:
            (unfinished / "a").write_bytes(b"machine code")
            cachedir.seal(unfinished / "a", path)
        assert cachedir.intact(path)

    make()
    (FAULTS | OF_SEALED)[fault](path)
    assert not cachedir.intact(path)
    if fault != "a folder":
        make()


def test_whoever_can_do_without_the_cache_does(home: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "kparity").chmod(0o777)
    file = home / "file"
    file.write_bytes(b"abc")
    monkeypatch.setattr(digest, "_LARGE", 0)
    assert digest.file_sha256(file).startswith("ba7816bf")
    assert not (home / "kparity" / "sha256").exists()
    if native.checkout() is not None and native.compiler() is not None:
        assert "can be written by others; run `chmod go-w" in str(native.missing())
