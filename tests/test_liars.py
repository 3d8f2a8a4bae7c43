"""Silent-fallback regression tests: every lying backend is rejected aloud, and the next one serves."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli import TAG, run

LIARS = {
    "interleaved": "KP-KERNEL|KP-POS-COSINE",
    "noscale": "KP-BOS-COSINE|KP-EXACT-SCALE",
    "halfscale": "KP-EXACT-SCALE|KP-BOS-COSINE",
    "nan": "KP-BOS-NONFINITE",
    "column": "KP-EXACT-BITS|KP-BOS-COSINE",
    "swapped": "KP-EXACT-BITS|KP-BOS-COSINE",
    "stale": "KP-RESET|KP-PREFILL|KP-REPLAY",
    "replay": "KP-REPLAY",
    "loud": "KP-POS-NORM",
    "late": "KP-POS-NONFINITE",
    "batch": "KP-PREFILL",
    "unwritten": "KP-BOS-COSINE|KP-BOS-NONFINITE",
    "hidden": "KP-KERNEL",
    "tie": "KP-ARGMAX",
    "second": "KP-TURNS",
    "poser": "KP-FALSE-GPU",
    "crash": "KP-PROBE-CRASH",
    "hang": "KP-PROBE-HANG",
    "exit": "KP-PROBE-EXIT",
    "oom": "KP-PROBE-OOM",
    "lost": "KP-DEVICE-LOST",
    "error": "KP-PROBE-ERROR",
    "missing": "KP-IMPORT",
}
"""Liar → the codes that may name it; more than one where an earlier gate may see it too."""


@pytest.mark.parametrize("liar", LIARS)
def test_liar_is_rejected_and_the_next_backend_serves(liar: str) -> None:
    done = run("probe", "--backends", f"liar-{liar},cpu", "--timeout", "6" if liar == "hang" else "60", liars=True)
    lines = done.stderr.splitlines()
    shape = rf"\[{TAG}\] liar-{liar} path rejected, attempting fallback: \[({LIARS[liar]})\] \S.*"
    assert re.fullmatch(shape, lines[0]), done.stderr
    assert lines[-1].startswith("Backend: cpu ("), done.stderr
    assert done.returncode == (0 if liar == "missing" else 1), done.stderr


def test_a_renamed_cpu_on_a_host_without_a_gpu_is_rejected() -> None:
    from kparity.probe.gates import host_has_gpu

    if host_has_gpu():
        pytest.skip("this host has a GPU: its presence cannot refute the claim")
    done = run("probe", "--backends", "liar-renamed,cpu", liars=True)
    assert f"[{TAG}] liar-renamed path rejected, attempting fallback: [KP-FALSE-GPU]" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Backend: cpu (")


def test_an_honest_backend_of_another_package_serves() -> None:
    done = run("probe", "--backends", "liar-honest,cpu", "--json", liars=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["serving"] == "liar-honest"


def test_bos_depth_passes_what_it_cannot_see_and_says_so() -> None:
    done = run("probe", "--backends", "liar-interleaved", "--depth", "bos", "--json", liars=True)
    row = json.loads(done.stdout)["rows"][0]
    assert row["status"] == "accepted"
    notes = [gate["note"] for gate in row["gates"] if gate["verdict"] == "INCONCLUSIVE"]
    assert len(notes) == 8 and all("cannot see RoPE" in note for note in notes)


def test_a_device_that_changes_after_its_probe_is_caught() -> None:
    done = run("run", "--backends", "liar-changed,cpu", "--prompt", "In the beginning", "--max-tokens", "2", liars=True)
    assert f"[{TAG}] liar-changed path rejected, attempting fallback: [KP-CHANGED]" in done.stderr
    assert "Backend: cpu (" in done.stderr
    assert done.returncode == 0


def test_a_forced_liar_refuses() -> None:
    done = run("run", "--backend", "liar-interleaved", "--prompt", "In the beginning", liars=True)
    assert done.returncode == 3
    assert re.search(rf"refusing, it was required: \[({LIARS['interleaved']})\]", done.stderr)
    assert "Backend:" not in done.stderr and done.stdout == ""
