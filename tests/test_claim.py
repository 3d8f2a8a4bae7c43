"""``kparity claim``: a published speed against bytes, bandwidth and receipts; and ``kparity bench --row``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kparity import contracts
from kparity.bench import bandwidths
from kparity.bench.claim import Claim, bytes_of, of_text, read, wrong
from kparity.cli.bench_table import SHARED, community
from kparity.errors import WrongInput
from kparity.receipts.rules.identity import form
from tests import made_receipts
from tests.cli import run

MEMORY, KERNEL, NO_RECEIPT = "the memory of", "a kernel was timed", "no receipt"


def found(**given: object) -> list[str]:
    return list(wrong(Claim(**given)))  # type: ignore[arg-type]


def test_the_bound_of_memory_is_exact() -> None:
    """0.5 GB a token on 1000 GB/s are 2000 tokens/s: not one more, and a batch shares them."""
    told = {"bytes_per_token": 5e8, "bandwidth_gb_s": 1000.0}
    assert not [each for each in found(tokens_per_s=2000.0, **told) if MEMORY in each]
    (beyond,) = [each for each in found(tokens_per_s=2000.1, **told) if MEMORY in each]
    assert "delivers 1000 GB/s, which is 2000 tokens/s at most" in beyond
    assert not [each for each in found(tokens_per_s=7999.0, batch=4, **told) if MEMORY in each]
    assert [each for each in found(tokens_per_s=8001.0, batch=4, **told) if MEMORY in each]


def test_what_is_not_told_is_said_and_the_contract_bounds_it() -> None:
    reasons = found(tokens_per_s=1e5 + 1, bytes_per_token=5e8)
    assert len(reasons) == 3 and "is not told: held against the most of any gpu" in reasons[0] and MEMORY in reasons[1]
    assert len(found(tokens_per_s=1e5 - 1, bytes_per_token=5e8)) == 2
    assert MEMORY in found(tokens_per_s=1e5 - 1, bytes_per_token=5e8, kind="processor")[1]
    assert "its bytes are not told" in found(tokens_per_s=1.0)[0]


@pytest.mark.parametrize(
    ("device", "gb_s"),
    [("NVIDIA H100 80GB HBM3", 3350), ("H100 PCIe", 2000), ("H100", 3900), ("NVIDIA A100-SXM4-80GB", 2039),
     ("NVIDIA GeForce RTX 4090", 1008), ("AMD Instinct MI300X", 5324.8), ("Apple M2", 102.4), ("apple m2 max", 409.6)],
)  # fmt: skip
def test_the_bandwidth_of_a_known_device_need_not_be_told(device: str, gb_s: float) -> None:
    told = {"bytes_per_token": 1e9, "device": device}
    assert not [each for each in found(tokens_per_s=gb_s, **told) if MEMORY in each or "not told" in each]
    (beyond,) = [each for each in found(tokens_per_s=gb_s * 1.01, **told) if MEMORY in each]
    assert device in beyond and "https://" in beyond
    assert not [each for each in found(tokens_per_s=gb_s * 1.01, bandwidth_gb_s=1e5, **told) if MEMORY in each]


@pytest.mark.parametrize("device", ["RTX 4090 Ti", "GeForce RTX", "Pro", "80GB", "a GPU of ours", "M9 Max"])
def test_an_unknown_device_is_said(device: str) -> None:
    (said,) = [each for each in found(tokens_per_s=1.0, bytes_per_token=1.0, device=device) if "not told" in each]
    assert f"nor is {device} in the table of devices" in said


def test_every_known_bandwidth_has_a_source_and_lies_below_what_the_contract_allows() -> None:
    most = contracts.load("receipt-v1").threshold("bandwidth_gpu").value
    for each in bandwidths.table():
        assert "https://" in each.source and 0 < each.gb_s * 1e9 <= most
        assert all(bandwidths.of(name) is each for name in (each.name, *each.also)), each.name


def test_the_bytes_of_a_shape_and_of_a_file() -> None:
    nbytes, whose = bytes_of(Claim(tokens_per_s=1.0, model="2b-4t"))
    weights = 30 * (2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560)
    assert weights * 54 / 256 <= nbytes < weights * 54 / 256 * 1.01 and "2b-4t in TQ1_0" in whose
    file = Path(__file__).parents[1] / "kparity/data/embedded.gguf"
    nbytes, _ = bytes_of(Claim(tokens_per_s=1.0, model=str(file)))
    assert 0.5 * file.stat().st_size < nbytes < file.stat().st_size
    with pytest.raises(WrongInput, match="or name a GGUF file that is there"):
        bytes_of(Claim(tokens_per_s=1.0, model="3b"))


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("240 tokens/s", Claim(tokens_per_s=240)),
        ("we get 1,240.5 tok/s with the 0.4 GB model",
         Claim(tokens_per_s=1240.5, bytes_per_token=0.4e9)),
        ("7 t/s, 1.5 TB/s, a 24 GB card", Claim(tokens_per_s=7, bandwidth_gb_s=1500)),
        ("Our GEMV reaches 90 tokens/s.", Claim(tokens_per_s=90, measured="kernel")),
        ("Our kernel is new. The model runs at 90 tokens per second.", Claim(tokens_per_s=90)),
        ("240 tokens/s of 2 GiB weights or 3 GiB weights", Claim(tokens_per_s=240)),
    ],
)  # fmt: skip
def test_a_text_gives_what_a_strict_pattern_finds(text: str, claim: Claim) -> None:
    assert of_text(text, "it") == claim


@pytest.mark.parametrize(
    ("text", "reason"), [("fast", "claims no tokens/s"), ("1 tok/s, then 2 tok/s", r"has 2 speeds \(1, 2\)")]
)
def test_a_text_without_one_speed_is_refused(text: str, reason: str) -> None:
    with pytest.raises(WrongInput, match=reason):
        of_text(text, "it")


def test_a_receipt_bears_it_out_or_does_not(tmp_path: Path) -> None:
    made = made_receipts.receipt("cpu")
    path = tmp_path / "r.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    statement, _ = form(made)
    assert statement is not None
    rows = [row for row in statement.predicate.runs[0].measurements if row.phase == "decode"]
    most = max(row.rates[2] for row in rows)
    told = {"bytes_per_token": 1.0, "bandwidth_gb_s": 1e3, "receipt": str(path)}
    assert found(tokens_per_s=most * 0.99, **told) == []
    (less,) = found(tokens_per_s=most * 1.01, **told)
    assert "tokens/s at most at batch 1" in less
    made["predicate"]["runs"][0]["measurements"][0]["unit_s"] *= 0.5
    path.write_text(json.dumps(made), encoding="utf-8")
    assert any("RCPT-DIGEST" in each for each in found(tokens_per_s=1.0, **told))


def test_the_command(tmp_path: Path) -> None:
    done = run("claim", "Our GEMV reaches 12,000 tokens/s of a 0.4 GB model on 1008 GB/s")
    assert done.returncode == 1 and all(each in done.stdout for each in (KERNEL, MEMORY, NO_RECEIPT))
    assert done.stdout.splitlines()[-1] == "12000 tokens/s: not to be believed (3)"
    for text, reason in (
        ("tokens_per_s: 0", "tokens_per_s"),
        ("speed: 3", "unknown field `speed`"),
        ("a: [", "line 2"),
    ):
        (tmp_path / "claim.yaml").write_text(text, encoding="utf-8")
        done = run("claim", str(tmp_path / "claim.yaml"))
        assert done.returncode == 2 and reason in done.stderr and done.stdout == "", done.stderr
    (tmp_path / "claim.json").write_text('{"tokens_per_s": 5, "model": "2b-4t"}', encoding="utf-8")
    assert read(str(tmp_path / "claim.json")) == Claim(tokens_per_s=5, model="2b-4t")


def test_a_row_tells_no_speed_whose_output_was_not_right() -> None:
    statement, _ = form(made_receipts.receipt("cpu"))
    assert statement is not None
    head, sides, row = community(statement.predicate, "ab" * 32).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    told = dict(zip(SHARED, cells, strict=True))
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(SHARED) and sides.count("|") == len(SHARED) + 1
    assert told["parity"] == "PASS" and float(told["tokens/s"]) > 0 and told["receipt"] == "ab" * 8
    statement.predicate.runs[0].parity.verdict = "FAIL"
    cells = [cell.strip() for cell in community(statement.predicate, "ab" * 32).splitlines()[2].strip("|").split("|")]
    told = dict(zip(SHARED, cells, strict=True))
    assert told["parity"] == "FAIL" and told["tokens/s"] == told["of bandwidth"] == ""


def test_a_row_needs_its_receipt() -> None:
    done = run("bench", "--row")
    assert done.returncode == 2 and "give --receipt FILE" in done.stderr
    done = run("bench", "--row", "--receipt", "-")
    assert done.returncode == 2 and "--row goes to stdout" in done.stderr
