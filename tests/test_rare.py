"""Faults that show in one step of many."""

from __future__ import annotations

import pytest

from .cli import TAG, run


def test_a_rare_fault_is_rejected() -> None:
    seen = [run("probe", "-b", "liar-rare", liars=True, env={"KPARITY_TEST_SEED": str(seed)}) for seed in range(3)]
    for done in seen:
        assert done.returncode == 3, done.stderr
        assert f"[{TAG}] liar-rare path rejected" in done.stderr and " differ" in done.stderr, done.stderr


def test_what_repeats_says_which_rate_is_excluded() -> None:
    done = run("probe", "-b", "cpu")
    assert done.returncode == 0 and "456 rows of logits repeated bit for bit" in " ".join(done.stdout.split())
    few = run("probe", "-b", "cpu", "--repeat", "1")
    assert few.returncode == 3 and "160 rows of logits were compared, the contract asks for 300" in few.stderr


@pytest.mark.parametrize("liar", ["tired", "shared"])
def test_what_only_load_shows_is_seen_by_a_soak(liar: str) -> None:
    done = run("probe", "-b", f"liar-{liar}", "--soak", "60s", liars=True)
    assert done.returncode == 3 and f"[{TAG}] liar-{liar} path rejected" in done.stderr, done.stderr
    assert "[KP-SOAK]" in done.stderr and "FAIL soak" in done.stdout
    assert "reset, decode" in done.stdout, "every other gate passed"


def test_a_soak_has_an_end_and_is_held_against_a_least_number_of_rows() -> None:
    done = run("probe", "-b", "cpu", "--soak", "0.01s")
    assert done.returncode == 3 and "[KP-UNSUPPORTED]" in done.stderr and "soak longer" in done.stderr
    for arguments in (("--soak", "soon"), ("--soak", "5s", "--depth", "bos")):
        assert run("probe", "-b", "cpu", *arguments).returncode == 2
