"""The count of false alarms can count: right backends are not rejected, wrong ones are, and a cut run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kparity.backends.cpu import CpuBackend
from kparity.errors import DeviceFault, Unavailable, WrongInput
from kparity.model import Model, load_model
from tests.cli import LIARS
from tests.gguf_files import TINY, write
from tests.liars.kparity_liars import DroppedColumn, NanLogits
from tools import false_alarms


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    found = load_model(write(tmp_path_factory.mktemp("model") / "tiny.gguf", TINY))
    yield found
    found.close()


def cpu(threads: int) -> Any:
    return lambda: CpuBackend(isa="scalar", threads=threads)


@pytest.fixture
def ran(model: Model, tmp_path: Path) -> Any:
    """Goes on with the log of the test; what it then sums up to."""

    def run(openers: dict[str, Any], windows: int = 2, seconds: float = 600) -> Any:
        log, setting = false_alarms.Log(tmp_path / "log"), {"model": "tiny", "act": "token", "kv": "f16"}
        false_alarms.run(log, openers, model, setting, windows, time.monotonic() + seconds)
        return false_alarms.summary(log.header, log.records, log.missing)

    return run


def test_right_backends_pass_and_equal_bits_count_once(ran: Any) -> None:
    found = ran({"one": cpu(1), "two": cpu(2)})
    assert (found["probes"], found["rejected"], found["distinct"]) == (4, 0, 2)
    assert found["rate_at_most"] == pytest.approx(1.6448536**2 / (2 + 1.6448536**2))
    measures = {row["threshold"]: row for row in found["measures"]}
    assert {"bos_cosine", "exact_mismatches", "positions_noise", "reset_differences"} <= set(measures)
    assert all(row["probes"] == 4 for row in measures.values())
    assert 0.99 <= measures["bos_cosine"]["worst"] <= measures["bos_cosine"]["median"] <= 1
    text = false_alarms.as_markdown(found)
    assert "**0 of 4 probes rejected**" in text and "2 of the probes are distinct" in text and "| one | 2 | 0 |" in text


class Lost(CpuBackend):
    """A device that fails at its first reading."""

    def download(self, buffer: Any) -> Any:
        raise DeviceFault("the device was removed", "KP-DEVICE-LOST")


@pytest.mark.parametrize(
    ("liar", "code"),
    [(DroppedColumn.open, "KP-"), (NanLogits.open, "KP-BOS-NONFINITE"), (Lost.open, "KP-DEVICE-LOST")],
)
def test_a_wrong_backend_is_counted(liar: Any, code: str, ran: Any) -> None:
    found = ran({"right": cpu(1), "liar": liar})
    assert (found["probes"], found["rejected"]) == (4, 2)
    assert {(row["backend"], row["rejected"]) for row in found["by_backend"]} == {("right", 0), ("liar", 2)}
    assert all(row["code"].startswith(code) and row["reason"] for row in found["rejects"])
    assert found["rate_at_most"] > 0.5
    assert "**2 of 4 probes rejected**" in false_alarms.as_markdown(found) and code in false_alarms.as_markdown(found)


def test_a_cut_run_goes_on_where_it_was(ran: Any, tmp_path: Path) -> None:
    cut = [ran({"one": cpu(1)}, seconds=0), *(ran({"one": cpu(1)}, windows=count) for count in (1, 2))]
    assert [found["probes"] for found in cut] == [0, 1, 2]
    assert [json.loads(line)["window"] for line in (tmp_path / "log").read_text().splitlines()[1:]] == [0, 1]


def test_probes_in_processes_of_their_own_count_like_others(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(LIARS))
    log, setting = false_alarms.Log(tmp_path / "log", "held-out"), {"model": "tiny", "act": "token", "kv": "f32"}
    names = ["cpu:scalar:1", "liar-column", "hip"]
    for _ in range(2):  # what was done is not done again
        false_alarms.run_cold(log, names, model, setting, false_alarms.COLD, time.monotonic() + 600)
    right, liar = log.records
    assert not right["rejected"] and right["gates"] == 13 and right["backend"] == "cpu:scalar:1, cold"
    assert right["window"] == false_alarms.HELD_OUT + false_alarms.COLD - 1 and [*log.missing] == ["hip, cold"]
    assert right["measures"]["exact_scaled_ulp"] > 0 and right["measures"]["positions_min"] == 72
    assert liar["rejected"] and liar["code"] == "KP-BOS-COSINE" and "cosine" in liar["reason"]


def test_probes_of_other_kernels_are_not_mixed_in(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "log"
    false_alarms.Log(path)
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, "kernels_sha256": "0"}) + "\n")
    with pytest.raises(WrongInput, match="other kernels"):
        false_alarms.Log(path)
    assert false_alarms.main(["--resume", str(path)]) == 2 and "name another file" in capsys.readouterr().err


def test_what_is_missing_is_said_and_nothing_run_is_not_green(ran: Any, tmp_path: Path) -> None:
    def absent() -> Any:
        raise Unavailable("no such device", "buy one", "KP-X")

    found = ran({"absent": absent})
    assert (found["probes"], found["rate_at_most"]) == (0, None)
    assert found["missing"] == {"absent": "no such device; buy one"}
    assert "No probe ran" in false_alarms.as_markdown(found)
    assert false_alarms.main(["--resume", str(tmp_path / "none"), "--seconds", "0"]) == 3
    assert false_alarms.main(["--resume", str(tmp_path / "none"), "--only", "cpuu"]) == 2


def test_windows_differ_and_are_reproducible() -> None:
    embedded = load_model(None)
    windows = [false_alarms.window(embedded, seed, 72) for seed in range(8)]
    assert len({tuple(tokens) for tokens in windows}) == 8
    assert all(len(tokens) == 72 and tokens[0] == embedded.hparams.bos for tokens in windows)
    assert windows[3] == false_alarms.window(embedded, 3, 72)
    held_out = false_alarms.window(embedded, false_alarms.HELD_OUT, 72)
    assert len(held_out) == 72 and tuple(held_out) not in {tuple(tokens) for tokens in windows}
    embedded.close()
    seeds = [{spec.seed for spec in models.values()} for models in (false_alarms.RANDOM, false_alarms.OTHERS)]
    assert not seeds[0] & seeds[1]


def test_every_right_backend_is_of_this_machine_or_missing_with_a_reason() -> None:
    assert {"cpu:scalar:1", "cpu:scalar:2", "opencl:pocl:32", "opencl:pocl:64", "opencl:intel:32", "wgpu", "torch",
            "numpy"} <= set(false_alarms.right_backends())  # fmt: skip
