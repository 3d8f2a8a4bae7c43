"""Whether a GPU computed, from what drivers count: each source by samples in the form that its kernel documents."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kparity import contracts
from kparity.device import registry, usage
from kparity.device.nvml import NOT_AVAILABLE, Nvml
from kparity.device.usage import Counters, Evidence, Reading, of_clients, pci_address
from kparity.errors import Refused
from kparity.gates.device import proved
from kparity.probe import cache, runner
from kparity.probe.dispatcher import Selection, probe_all, select
from kparity.probe.messages import Request
from tests.cli import LIARS

PID = 4321
MIB = 1 << 20
HEAD = "pos:\t0\nflags:\t02100002\nmnt_id:\t26\nino:\t284\n"
# The example of proc_pid_fdinfo(5) for i915, of Documentation/gpu/xe for xe; the others as Documentation/gpu/
# drm-usage-stats.rst has the form and amdgpu_fdinfo.c, nouveau_drm.c and panfrost_drv.c the keys.
I915 = """drm-driver:\ti915
drm-client-id:\t39
drm-pdev:\t0000:00:02.0
drm-total-system0:\t6044 KiB
drm-shared-system0:\t0
drm-active-system0:\t0
drm-resident-system0:\t6044 KiB
drm-purgeable-system0:\t1688 KiB
drm-total-stolen-system0:\t0
drm-engine-render:\t346249 ns
drm-engine-copy:\t0 ns
drm-engine-capacity-video:\t2
drm-engine-video-enhance:\t0 ns
"""
XE = """drm-driver:\txe
drm-client-id:\t3
drm-pdev:\t0000:03:00.0
drm-total-system:\t0
drm-total-gtt:\t192 KiB
drm-shared-gtt:\t0
drm-resident-gtt:\t192 KiB
drm-total-vram0:\t23992 KiB
drm-shared-vram0:\t16 MiB
drm-resident-vram0:\t23992 KiB
drm-cycles-rcs:\t28257900
drm-total-cycles-rcs:\t7655183225
drm-cycles-bcs:\t0
drm-total-cycles-bcs:\t7655183225
drm-engine-capacity-vcs:\t2
"""
AMDGPU = """pasid:\t32770
drm-driver:\tamdgpu
drm-pdev:\t0000:0b:00.0
drm-client-id:\t17
drm-memory-vram:\t41216 KiB
drm-memory-gtt:\t2060 KiB
drm-memory-cpu:\t0 KiB
amd-memory-visible-vram:\t41216 KiB
drm-engine-gfx:\t11000000 ns
drm-engine-compute:\t9000000 ns
"""
NOUVEAU = "drm-driver:\tnouveau\ndrm-pdev:\t0000:01:00.0\ndrm-client-id:\t5\ndrm-total-vram:\t40 MiB\n"
PANFROST = "drm-driver:\tpanfrost\ndrm-client-id:\t8\ndrm-engine-fragment:\t0 ns\ndrm-cycles-fragment:\t0\n" \
    "drm-maxfreq-fragment:\t799999987 Hz\ndrm-total-memory:\t9 MiB\n"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (I915, Reading("fdinfo of i915", "0000:00:02.0", True, 346249, 6044 << 10)),
        (XE, Reading("fdinfo of xe", "0000:03:00.0", True, None, (192 + 23992) << 10)),
        (AMDGPU, Reading("fdinfo of amdgpu", "0000:0b:00.0", True, 20_000_000, (41216 + 2060) << 10)),
        (NOUVEAU, Reading("fdinfo of nouveau", "0000:01:00.0", None, None, 40 * MIB)),
        (PANFROST, Reading("fdinfo of panfrost", "", False, 0, 9 * MIB)),
        ("drm-driver:\tvgem\n", Reading("fdinfo of vgem", "")),
        (I915.replace("346249", "many").replace("0 ns", "0 weeks"),
         Reading("fdinfo of i915", "0000:00:02.0", None, None, 6044 << 10)),
    ],
)  # fmt: skip
def test_fdinfo_is_read(text: str, reading: Reading) -> None:
    assert of_clients([HEAD + text]) == [reading]
    assert of_clients([HEAD + text, "pos:\t0\n", "", HEAD + text])[:1] == [reading]


def test_a_client_of_several_descriptors_counts_once_and_two_count_twice() -> None:
    assert len(of_clients([I915, I915])) == 1
    assert len(of_clients([I915, I915.replace("39", "40"), XE])) == 3


def machine(root: Path, files: dict[str, str], first: bool = True) -> Path:
    """A tree of /proc and /sys in which the process has these device files open, with what fdinfo says of each."""
    for at, (node, text) in enumerate(files.items()):
        for folder in ("fd", "fdinfo"):
            (root / f"proc/{PID}" / folder).mkdir(parents=True, exist_ok=True)
        (root / f"proc/{PID}/fd/{at}").symlink_to(node)
        (root / f"proc/{PID}/fdinfo/{at}").write_text(HEAD + text)
    (root / "proc/self/ns").mkdir(parents=True)
    (root / "proc/self/ns/pid").symlink_to(usage.FIRST_NAMESPACE if first else "pid:[4026532777]")
    return root


def kfd(root: Path, size: int) -> None:
    """What /sys/class/kfd has of a process of ROCm: Documentation/ABI/testing/sysfs-class-kfd… and kfd_process.c."""
    node, process = root / "sys/class/kfd/kfd/topology/nodes/1", root / f"sys/class/kfd/kfd/proc/{PID}"
    for folder in (node, process):
        folder.mkdir(parents=True)
    (node / "gpu_id").write_text("50812\n")
    (node / "properties").write_text("cpu_cores_count 0\nsimd_count 416\ndomain 0\nlocation_id 2816\n")
    (process / "vram_50812").write_text(f"{size}\n")


def nvml(*cards: tuple[int, dict[int, int] | None, set[int]]) -> Any:
    """A library that says of its cards: bytes in use, pid -> bytes, and who was seen at work."""

    def into(pointer: Any, **values: Any) -> int:
        for name, value in values.items():
            setattr(pointer._obj, name, value)
        return 0

    def handle(index: int, pointer: Any) -> int:
        return into(pointer, value=index + 1)

    def of(each: Any) -> tuple[int, dict[int, int] | None, set[int]]:
        return cards[each.value - 1]

    def processes(each: Any, count: Any, array: Any) -> int:
        listed = of(each)[1]
        if listed is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        for at, (pid, size) in enumerate(listed.items()):
            array[at].pid, array[at].memory = pid, size
        return into(count, value=len(listed))

    def samples(each: Any, array: Any, count: Any, _since: Any) -> int:
        for at, pid in enumerate(sorted(of(each)[2])):
            array[at].pid, array[at].sm = pid, 42
        return into(count, value=len(of(each)[2]))

    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetCount_v2=lambda count: into(count, value=len(cards)),
        nvmlDeviceGetHandleByIndex_v2=handle,
        nvmlDeviceGetPciInfo_v3=lambda each, pci: into(pci, domain=0, bus=0x40 + each.value, device=0),
        nvmlDeviceGetMemoryInfo=lambda each, memory: into(memory, used=of(each)[0]),
        nvmlDeviceGetComputeRunningProcesses_v3=processes,
        nvmlDeviceGetProcessUtilization=samples,
    )


def verdict(evidence: Evidence, model: int = 30 * MIB, claimed_ns: float = 8e6) -> str:
    found, lines = proved(evidence, model, claimed_ns, contracts.load(contracts.PROBE))
    assert lines
    return found


RENDER = "/dev/dri/renderD128"
IDLE = AMDGPU.replace("11000000 ns", "0 ns").replace("9000000 ns", "0 ns")
UNUSED = "".join(line for line in AMDGPU.splitlines(keepends=True) if "engine" not in line)
NVIDIA = {"/dev/nvidiactl": "", "/dev/nvidia0": ""}
ROCM = {"/dev/kfd": "", RENDER: IDLE}
LAPTOP = {**NVIDIA, RENDER: I915.replace("346249", "0")}
SAYS: dict[str, tuple[dict[str, str], str]] = {
    "a GPU that works": ({RENDER: AMDGPU}, "verified"),
    "only the files of a terminal": ({"/dev/pts/0": "", "/dev/null": ""}, "refuted"),
    "the control file of a driver alone": ({"/dev/nvidiactl": "", "/dev/nvidia-uvm": ""}, "refuted"),
    "a file opened and nothing done": ({RENDER: IDLE}, "refuted"),
    "a token of work": ({RENDER: AMDGPU.replace("11000000 ns", "900 ns").replace("9000000 ns", "0 ns")}, "refuted"),
    "work without the model": ({RENDER: AMDGPU.replace("41216 KiB", "64 KiB")}, "refuted"),
    "cycles and memory": ({RENDER: XE.replace("23992", "33992")}, "verified"),
    "memory alone": ({RENDER: NOUVEAU}, "verified"),
    "less memory than the model, of a driver that counts no work": (
        {RENDER: NOUVEAU.replace("40", "4")},
        "not verified",
    ),
    "a driver that counts nothing": ({"/dev/dxg": ""}, "not verified"),
    "NVIDIA without NVML": (NVIDIA, "not verified"),
    "memory of amdgpu and no engine that worked": ({RENDER: UNUSED}, "refuted"),
    "the same beside a queue of ROCm": ({RENDER: UNUSED, "/dev/kfd": ""}, "not verified"),
}


@pytest.mark.parametrize("case", SAYS)
def test_what_drivers_count_is_judged(case: str, tmp_path: Path) -> None:
    files, wanted = SAYS[case]
    assert verdict(Counters(machine(tmp_path, files)).of(PID)) == wanted


@pytest.mark.parametrize(("size", "wanted"), [(40 * MIB, "verified"), (MIB, "not verified")])
def test_rocm_is_seen_by_its_own_driver(size: int, wanted: str, tmp_path: Path) -> None:
    kfd(machine(tmp_path, ROCM), size)
    found = Counters(tmp_path).of(PID)
    assert Reading("KFD", "0000:0b:00.0", memory=size) in found.readings and verdict(found) == wanted


@pytest.mark.parametrize(
    ("before", "now", "first", "files", "wanted"),
    [
        ((500, {}, set()), (900, {PID: 400 * MIB}, {PID}), True, NVIDIA, "verified"),
        ((500, {}, set()), (900, {PID: 400 * MIB}, set()), True, LAPTOP, "verified"),
        ((500, {}, set()), (500, {77: 400 * MIB}, {77}), True, NVIDIA, "refuted"),
        ((500, {}, set()), (500 + 40 * MIB, {}, set()), False, NVIDIA, "not verified"),
        ((500, {}, set()), (500 + 40 * MIB, None, set()), True, LAPTOP, "not verified"),
        ((500, {}, set()), (500, {}, set()), False, LAPTOP, "not verified"),
        ((500, {}, set()), (500, {PID: NOT_AVAILABLE}, set()), True, NVIDIA, "not verified"),
        ((500, {}, set()), (500 + 40 * MIB, {}, set()), False, {"/dev/null": ""}, "refuted"),
    ],
    ids=["listed", "listed beside an idle Intel GPU", "another process", "hidden in a container", "no list at all",
         "hidden and not grown", "memory not told", "growth of somebody else's"],
)  # fmt: skip
def test_nvml_is_asked(before: Any, now: Any, first: bool, files: dict[str, str], wanted: str, tmp_path: Path) -> None:
    counters = Counters(machine(tmp_path, files, first), Nvml(nvml(before)))
    assert counters.before == {"0000:41:00.0": 500}
    counters.nvml = Nvml(nvml(now))
    assert verdict(counters.of(PID)) == wanted


@pytest.mark.parametrize(
    ("then", "later", "wanted"),
    [(40, 0, "verified"), (90, 50, "verified"), (40, 40, "not verified"), (40, 30, "not verified"),
     (0, -40, "not verified")],
    ids=["it came and went", "beside a neighbour's", "a neighbour's", "a part of it", "a neighbour that went"],
)  # fmt: skip
@pytest.mark.parametrize("files", [NVIDIA, LAPTOP])
def test_memory_of_a_card_counts_where_it_goes_with_the_process(
    files: dict[str, str], then: int, later: int, wanted: str, tmp_path: Path
) -> None:
    def used(mib: int) -> Any:
        return nvml((500 * MIB + mib * MIB, {}, set()))

    counters = Counters(machine(tmp_path, files, first=False), Nvml(used(0)))
    counters.nvml = Nvml(used(then))
    found = counters.of(PID)
    assert verdict(found) == "not verified"  # as long as it runs
    counters.nvml = Nvml(used(later))
    assert verdict(counters.after(found)) == wanted


def test_what_another_card_counts_is_no_proof_of_this_one(tmp_path: Path) -> None:
    found = Counters(machine(tmp_path, {RENDER: AMDGPU})).of(PID)
    contract = contracts.load(contracts.PROBE)
    for place, wanted in (("", "verified"), ("0000:0b:00.0", "verified"), ("0000:0c:00.0", "not verified")):
        assert proved(found, 30 * MIB, 8e6, contract, None, place)[0] == wanted, place


@pytest.mark.parametrize(("busy", "wanted"), [(400_000_000, "verified"), (4_000_000, "not verified")])
def test_time_on_engines_fits_the_time_on_processors(busy: int, wanted: str, tmp_path: Path) -> None:
    """A host that computes every step and gives its GPU something small to do: 1 s of its own in steps."""
    machine(tmp_path, {RENDER: AMDGPU})
    found = []
    for ticks, spent in ((100, 0), (200, busy)):
        stat = f"{PID} (a) b) S 1 " + " ".join(["0"] * 9) + f" {ticks * 3 // 4} {ticks // 4} 0 0 20 0"
        (tmp_path / f"proc/{PID}/stat").write_text(stat)
        text = HEAD + AMDGPU.replace("11000000", str(11_000_000 + spent))
        (tmp_path / f"proc/{PID}/fdinfo/0").write_text(text)
        found.append(Counters(tmp_path).of(PID))
    assert found[1].cpu_ns == 2 * found[0].cpu_ns == 2_000_000_000 * 100 // usage.os.sysconf("SC_CLK_TCK")
    walk = (found[0], found[1])
    assert proved(found[1], 30 * MIB, 8e6, contracts.load(contracts.PROBE), walk)[0] == wanted


def test_an_nvml_that_lacks_or_fails_is_none() -> None:
    assert Nvml(SimpleNamespace()).cards() == []
    assert Nvml(SimpleNamespace(nvmlInit_v2=lambda: 9)).cards() == []
    whole = nvml((1, {}, set()))
    for name in vars(whole):
        Nvml(SimpleNamespace(**{**vars(whole), name: lambda *_: 999})).cards()


def test_where_the_system_tells_nothing_nothing_is_verified(tmp_path: Path) -> None:
    found = Counters(tmp_path).of(PID)
    assert found.files is None and verdict(found) == "not verified"


def test_two_cards_of_one_model_have_no_identity(tmp_path: Path) -> None:
    for place, ids in {"0000:41:00.0": ("0x10de", "0x2684"), "0000:42:00.0": ("0x10de", "0x2204")}.items():
        folder = tmp_path / "sys/bus/pci/devices" / place
        folder.mkdir(parents=True)
        for name, value in zip(("vendor", "device"), ids, strict=True):
            (folder / name).write_text(f"{value}\n")
    assert pci_address(0x10DE, 0x2684, tmp_path) == "pci 0000:41:00.0"
    assert pci_address(0x1002, 0x2684, tmp_path) == ""
    (tmp_path / "sys/bus/pci/devices/0000:42:00.0/device").write_text("0x2684\n")
    assert pci_address(0x10DE, 0x2684, tmp_path) == ""


@pytest.fixture
def host_with_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host on which no claim of a GPU is refuted by the absence of any; its backends are the liars'."""
    monkeypatch.syspath_prepend(str(LIARS))
    monkeypatch.setenv("PYTHONPATH", str(LIARS))
    monkeypatch.setattr("kparity.gates.open.host_has_gpu", lambda: True)
    registry.targets.cache_clear()
    return monkeypatch


@pytest.mark.parametrize("require_gpu", [False, True])
def test_a_host_that_computes_is_no_gpu_beside_one(require_gpu: bool, host_with_gpu: pytest.MonkeyPatch) -> None:
    """Right in every number, and with the name of a GPU that is there."""
    (row,) = probe_all(["liar-renamed"], Request(depth="bos", require_gpu=require_gpu), log=print).rows
    assert (row.status, row.code, row.gpu_proof) == ("rejected", "KP-FALSE-GPU", "refuted")
    assert "no device file of a GPU driver open" in row.reason and row.ran_and_failed
    registry.targets.cache_clear()


@pytest.mark.parametrize(
    ("evidence", "trust", "code"),
    [
        (Evidence((RENDER,), (), tuple(of_clients([IDLE]))), True, "KP-FALSE-GPU"),
        (Evidence(("/dev/dxg",), ("/dev/dxg",)), False, "KP-NOT-VERIFIED"),
        (Evidence(("/dev/dxg",), ("/dev/dxg",)), True, ""),
        (Evidence((RENDER,), (), (Reading("fdinfo of amdgpu", "", True, 10**12, 10**12),)), False, ""),
    ],
)
def test_a_required_gpu_is_verified_or_trusted_by_name(
    evidence: Evidence, trust: bool, code: str, host_with_gpu: pytest.MonkeyPatch
) -> None:
    host_with_gpu.setattr(Counters, "of", lambda self, pid: evidence)
    request = Request(depth="bos", require_gpu=True, trust_claims=trust)
    outcome = probe_all(["liar-renamed"], request, log=print)
    (row,) = outcome.rows
    assert row.code == code and outcome.serving == ("" if code else "liar-renamed")
    assert outcome.exit_code == 3  # of BOS alone at best
    assert row.gpu_proof == ("refuted" if code == "KP-FALSE-GPU" else "not verified" if evidence.silent else "verified")
    registry.targets.cache_clear()


def test_a_gpu_of_unknown_identity_is_never_the_remembered_one(host_with_gpu: pytest.MonkeyPatch) -> None:
    host_with_gpu.setattr(Counters, "of", lambda self, pid: Evidence(("/dev/dxg",), ("/dev/dxg",)))
    (row,) = probe_all(["liar-renamed"], Request(depth="bos"), log=print).rows
    assert row.accepted and row.device is not None
    found = runner.Found(row, None, {sys.executable: ""})
    assert cache.confirmed(found, found)
    row.device["uuid"] = ""
    assert not cache.confirmed(found, found)
    registry.targets.cache_clear()


@pytest.mark.parametrize("liar", ["renamed", "nameless"])
def test_the_process_that_serves_has_the_device_that_was_probed(liar: str, host_with_gpu: pytest.MonkeyPatch) -> None:
    """By name where nothing else is told; and where no name differs, that nothing tells two of them apart is said."""
    host_with_gpu.setattr(Counters, "of", lambda self, pid: Evidence(("/dev/dxg",), ("/dev/dxg",)))
    lines: list[str] = []

    def served() -> Selection:
        return select([f"liar-{liar}"], depth="bos", log=lines.append)

    chosen = served()
    unknown = "whether this process has the card that was probed is not known"
    assert any(unknown in each for each in chosen.rows[-1].evidence) == (liar == "nameless")
    assert any("identity unknown" in each for each in chosen.rows[-1].evidence) == (liar == "nameless")
    chosen.close()
    kind = registry.backend_class(f"liar-{liar}")
    host_with_gpu.setattr(kind, "told", {**kind.told, "device": "NVIDIA H200 NVL"})
    with pytest.raises(Refused):
        served()
    assert "KP-CHANGED" in lines[-1] and "device NVIDIA H200 NVL for NVIDIA H200" in lines[-1]
    registry.targets.cache_clear()


def test_a_gpu_that_is_used_in_the_probe_alone_does_not_serve(host_with_gpu: pytest.MonkeyPatch) -> None:
    told = Evidence((RENDER,), (), (Reading("fdinfo of amdgpu", "", True, 10**12, 10**12),))
    host_with_gpu.setattr(Counters, "of", lambda self, pid: Evidence(()) if pid == os.getpid() else told)
    lines: list[str] = []
    with pytest.raises(Refused):
        select(["liar-renamed"], depth="bos", log=lines.append)
    assert "KP-FALSE-GPU" in lines[-1] and "in the serving process" in lines[-1]
    registry.targets.cache_clear()


@pytest.mark.parametrize(("share", "code"), [(0.5, ""), (0.001, "KP-NOT-VERIFIED")])
def test_the_parent_watches_time_while_steps_run(share: float, code: str, host_with_gpu: pytest.MonkeyPatch) -> None:
    """Engines worked enough in all; in the rounds of steps they did, or the processors did."""
    looks = iter(range(10))

    def told(counters: Counters, pid: int) -> Evidence:
        at = next(looks)  # as the rounds begin, as they end, and at last
        worked = int((10**12, 10**12 + share * 10**9, 10**13)[at])
        return Evidence(
            (RENDER,), (), (Reading("fdinfo of amdgpu", "", True, worked, 10**12),), cpu_ns=(at + 1) * 10**9
        )

    host_with_gpu.setattr(Counters, "of", told)
    (row,) = probe_all(["liar-renamed"], Request(require_gpu=True), log=print).rows
    assert row.code == code and any("of its process's time on processors" in each for each in row.evidence), row
    registry.targets.cache_clear()
