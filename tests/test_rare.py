"""Faults that show in one step of many."""

from __future__ import annotations

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
