"""A backend is one file: a package outside declares all that is true of it in one class, and every command knows it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from kparity.bench.ops.run import Request as OpsRequest
from kparity.bench.ops.session import Session
from kparity.device import fingerprint, registry
from kparity.device.adapter import DeviceInfo
from kparity.device.codes import explain, reasons
from kparity.device.registry import named_software
from kparity.probe import cache
from kparity.probe.dispatcher import parse_order
from kparity.probe.messages import Request
from kparity.receipts import document
from kparity.receipts.kernel_ids import dialect_of, dialects, is_gpu_kernel
from kparity.receipts.rules.device import contradictions
from kparity.receipts.verify import verify
from tests.cli import TAG, python, run

FILE = '''
import os

import msgspec

from kparity.backends.numpy import NumpyBackend
from kparity.device.remedies import Reason


class MirrorBackend(NumpyBackend):
    """The specification behind a name of its own."""

    name = "mirror"
    api = "Mirror"
    id_dialects = ("mirror",)
    drives_gpu = True
    place = 1
    packages = ("kparity-mirror",)
    extra = "mirror"
    libraries = ("libc.so.6",)
    manifests = ("FOLDER/drivers",)
    nodes = ("/dev/null",)
    driver_files = ("FOLDER/driver.so",)
    environment = ("MIRROR_*",)
    software = ("quicksilver",)
    options = ("polish",)
    reasons = {
        "KP-MIRROR-COVERED": Reason(
            "the mirror is covered", "A cloth hangs over it.", "take the cloth off",
            ("MIRROR_COVERED=", "sudo cloth --off"),
        ),
    }

    @classmethod
    def open(cls, index=0, polish=0):
        if os.environ.get("MIRROR_COVERED"):
            raise cls.unavailable("KP-MIRROR-COVERED", "a cloth hangs over mirror 0")
        backend = cls()
        told = {"backend": "mirror", "api": "Mirror", "device": "glass", "detail": f"polished {polish} times"}
        backend.info = msgspec.structs.replace(backend.info, **told)
        return backend
'''

Mirrored = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package, as an installer lays it out."""
    package, info = tmp_path / "kparity_mirror", tmp_path / "kparity_mirror-1.5.dist-info"
    for each in (package, info, tmp_path / "drivers"):
        each.mkdir()
    (package / "__init__.py").write_text(FILE.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kparity-mirror\nVersion: 1.5\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[kparity.backends]\nmirror = kparity_mirror:MirrorBackend\n")
    (tmp_path / "driver.so").touch()
    (tmp_path / "drivers" / "silver.icd").write_text("/driver.so\n")
    return tmp_path


@pytest.fixture
def mirrored(folder: Path) -> Mirrored:
    """The command line of a machine that has it."""

    def command(*arguments: str, **env: str) -> CompletedProcess[str]:
        return run(*arguments, env={"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), **env})

    return command


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package on this process's path; entry points are read once per process."""
    monkeypatch.syspath_prepend(folder)
    registry.targets.cache_clear()
    yield folder
    sys.modules.pop("kparity_mirror", None)
    registry.targets.cache_clear()


def test_it_is_probed_and_its_receipt_is_verified(mirrored: Mirrored, folder: Path, installed: Path) -> None:
    path = folder / "receipt.json"
    options = ("--json", "--cached", "--receipt", str(path))
    done = mirrored("probe", "--backends", "mirror,cpu", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "Backend: mirror (Mirror, glass, polished 0 times), proved to position 511"
    assert json.loads(done.stdout)["serving"] == "mirror"
    assert mirrored("receipt", "verify", str(path)).returncode == 0
    found = document.read(path)
    kernels = found["predicate"]["runs"][0]["kernels"]
    assert kernels and all(dialect_of(each["id"], "mirror") == "mirror" for each in kernels)
    assert verify(found, require_parity=True) == []
    kernels[0]["id"] = "add_cuda_generic"
    assert "RCPT-KERNEL-ID" in {finding.code for finding in verify(found)}
    again = [json.loads(mirrored("probe", "--backends", "mirror", *options, **env).stdout)["rows"][0]["cached"]
             for env in ({}, {"MIRROR_TILT": "3"})]  # fmt: skip
    assert again == [True, False]


def test_preflight_shows_what_it_needs_and_where_it_is_missing_its_own_code(mirrored: Mirrored, folder: Path) -> None:
    (found,) = json.loads(mirrored("preflight", "--backends", "mirror", "--json", MIRROR_TILT="3").stdout)
    assert found["available"] and found["packages"] == {"kparity-mirror": "1.5"}
    assert found["libraries"]["libc.so.6"] and found["nodes"] == {"/dev/null": "accessible"}
    assert found["manifests"] == [str(folder / "drivers" / "silver.icd")]
    assert found["environment"] == {"MIRROR_TILT": "3"}
    done = mirrored("probe", "--backends", "mirror,cpu", MIRROR_COVERED="1")
    reason = "[KP-MIRROR-COVERED] unavailable: a cloth hangs over mirror 0"
    assert done.stderr.splitlines()[0] == f"[{TAG}] mirror path rejected, attempting fallback: {reason}"
    shown = mirrored("preflight", "--backends", "mirror", MIRROR_COVERED="1")
    assert shown.returncode == 3
    for line in ("NOT AVAILABLE", "export MIRROR_COVERED=''", "sudo cloth --off", "variable  MIRROR_COVERED=1"):
        assert line in shown.stdout
    code = mirrored("explain", "kp-mirror-covered").stdout
    assert "the mirror is covered" in code and "remedy: take the cloth off" in code
    assert "KP-MIRROR-COVERED" in mirrored("explain").stdout


def test_its_ops_are_checked_and_timed(mirrored: Mirrored, folder: Path) -> None:
    path = folder / "ops.json"
    for command in ("check -b mirror -o add --quick", f"bench --backends mirror --seconds 0.1 --receipt {path} --ops"):
        done = mirrored(*command.split(), *(["add and D=257"] if "bench" in command else []))
        assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for row in document.read(path)["predicate"]["ops"] if row.get("kernel")]
    assert rows and {row["backend"] for row in rows} == {"mirror"} and "_mirror_" in rows[0]["kernel"]
    assert verify(document.read(path)) == []


def test_every_rule_reads_its_class(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mirror" in registry.names() and "mirror" not in registry.default_order()
    assert parse_order("mirror,cpu", no_gpu=True) == ["cpu"]
    assert dialects("mirror") == ("mirror",) and is_gpu_kernel("add_mirror_x", "mirror")
    assert not is_gpu_kernel("add_mirror_x") and not is_gpu_kernel("add_avx2_x", "mirror")
    posing = DeviceInfo("mirror", "Quicksilver 9", "gpu", "Mirror", "1", "")
    assert named_software(posing) and not named_software(DeviceInfo("cuda", "Quicksilver 9", "gpu", "CUDA", "1", ""))
    device = msgspec.structs.replace(posing.plain, api="CUDA")
    told = [finding.why for finding in contradictions("mirror", device, "/device")]
    assert told[0] == "mirror speaks Mirror, not CUDA" and "Quicksilver 9 is no GPU" in told
    assert explain("KP-MIRROR-COVERED") is reasons()["KP-MIRROR-COVERED"]
    session = Session(**OpsRequest(["mirror"], threads=2, isa="avx2").options("mirror"))
    assert session.backend.info.detail == "polished 0 times"  # of options that it does not take it is not told
    session.close()
    opened = registry.open_backend("mirror", polish=2, threads=3)
    assert opened.info.detail == "polished 2 times"


def test_whatever_changes_its_verdict_changes_the_key(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return cache.Keys(Request()).path("mirror").name

    def changed(path: Path, text: str) -> bool:
        before, _ = key(), path.write_text(text)
        return before != key()

    helper = installed / "kparity_mirror" / "inner" / "helper.py"
    helper.parent.mkdir()
    assert key() == key()
    assert changed(helper, "SILVER = 1\n") and changed(helper, "SILVER = 2\n")
    assert changed(installed / "driver.so", "another driver") and changed(installed / "drivers" / "more.icd", "x")
    assert changed(installed / "kparity_mirror" / "weights.bin", "what it may read")
    record = installed / "kparity_mirror-1.5.dist-info" / "RECORD"
    record.write_text("kparity_mirror/__init__.py,,\nkparity_silver.py,,\n")
    assert changed(installed / "kparity_silver.py", "A = 1\n") and changed(installed / "kparity_silver.py", "A = 2\n")
    (installed / "src").mkdir()
    told = {"url": (installed / "src").as_uri(), "dir_info": {"editable": True}}
    (record.parent / "direct_url.json").write_text(json.dumps(told))
    assert changed(installed / "src" / "more.py", "A = 1\n")
    library = installed / "shim.so"
    library.write_text("1")
    monkeypatch.setenv("LD_PRELOAD", f"/nowhere/a.so:{library}")
    assert changed(library, "2"), "another library under its name"
    monkeypatch.setenv("VK_DRIVER_FILES", str(installed / "card.json"))
    assert changed(installed / "card.json", str({"library_path": str(library)})) and changed(library, "3")
    for name in ("MIRROR_TILT", "VK_LOADER_DEBUG", "LD_PRELOAD", "GALLIUM_DRIVER", "LP_NUM_THREADS", "MESA_DEBUG",
                 "OMP_NUM_THREADS", "HSA_XNACK", "CUDA_DEVICE_ORDER", "POCL_MAX_PTHREAD_COUNT", "OCL_ICD_VENDORS",
                 "HIP_LAUNCH_BLOCKING", "ROCR_VISIBLE_DEVICES", "KPARITY_CPU_ISA"):  # fmt: skip
        before = key()
        monkeypatch.setenv(name, "7")
        assert key() != before, name
    before = key()
    monkeypatch.setattr(fingerprint.platform, "release", lambda: "another kernel")
    assert key() != before


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("lazy_glass.py", "SILVER = 1\n", "SILVER = 2\n"),  # a module of nobody's distribution, imported late
        ("card", "glass", "another card"),  # another device under the same key
        ("more", "", "import other_glass"),  # what nobody imported when the verdict was found
    ],
)
def test_a_remembered_verdict_is_of_the_device_that_opens_and_of_what_it_loads(
    path: str, before: str, after: str, mirrored: Mirrored, folder: Path
) -> None:
    place = folder / "late"
    place.mkdir()
    text = FILE.replace("FOLDER", str(folder)).replace('"glass"', f'open("{place}/card").read()')
    opening = f'sys.path.append("{place}"); exec(open("{place}/more").read())'
    text = text.replace("        backend = cls()", f"        import sys; {opening}\n        backend = cls()")
    text += "\n    def close(self):\n        import lazy_glass\n"
    (folder / "kparity_mirror" / "__init__.py").write_text(text)
    for name in ("lazy_glass.py", "other_glass.py", "more", "card"):
        (place / name).write_text(before if name == path else "")
    changed = place / path

    def cached() -> bool:
        done = mirrored("probe", "--backends", "mirror", "--depth", "bos", "--json", "--cached")
        assert done.returncode in (0, 3), done.stderr
        return bool(json.loads(done.stdout)["rows"][0]["cached"])

    assert [cached(), cached()] == [False, True]
    times = changed.stat()
    changed.write_text(after)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [cached(), cached()] == [False, True]


def test_an_opened_device_changes_no_fingerprint() -> None:
    """Vendor libraries set variables of their own when they are imported: none of them may be one that counts."""
    code = """
from contextlib import suppress
from kparity.device import fingerprint, registry
from kparity.errors import Unavailable
before = fingerprint.host()
for name in registry.BUILTIN:
    with suppress(Unavailable):
        registry.open_backend(name).close()
assert fingerprint.host() == before
"""
    python(code)


def test_a_module_alone_is_its_own_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "lonely_mirror.py").write_text("A = 1\n")
    first = fingerprint.adapter("lonely_mirror:Backend")
    (folder / "lonely_mirror.py").write_text("A = 2\n")
    assert first and fingerprint.adapter("lonely_mirror:Backend") not in ("", first)
    assert fingerprint.adapter("no_such_mirror:Backend") == ""


def test_a_built_in_name_cannot_be_taken(installed: Path) -> None:
    info = installed / "kparity_mirror-1.5.dist-info" / "entry_points.txt"
    info.write_text("[kparity.backends]\ncuda = kparity_mirror:MirrorBackend\n")
    registry.targets.cache_clear()
    with pytest.raises(Exception, match="'cuda' is registered twice"):
        registry.names()


def test_a_package_that_cannot_be_imported_harms_nobody(installed: Path) -> None:
    (installed / "kparity_mirror" / "__init__.py").write_text("raise SystemExit('gone')\n")
    sys.modules.pop("kparity_mirror", None)
    assert registry.declared("mirror") is None and "KP-CUDA-NODRIVER" in reasons()
    assert dialects("mirror") is None and not is_gpu_kernel("add_mirror_x", "mirror")
    assert cache.Keys(Request()).of("mirror")["adapter"]


def test_the_help_names_the_default_order() -> None:
    assert ",".join(registry.default_order()) in "".join(run("probe", "--help").stdout.split())
