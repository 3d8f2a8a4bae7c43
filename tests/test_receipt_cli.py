"""``kparity receipt``: exit codes, lines, tables, SQL, the page."""

from __future__ import annotations

import copy
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kparity.receipts import page, store
from kparity.receipts.diff import differences, speeds
from kparity.receipts.statement import write
from tests.cli import run
from tests.edits import both, change, put
from tests.made_receipts import UNCHECKED, edited, ops_receipt, receipt

pytest.importorskip("duckdb", reason="the extra reports is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Right receipts, a forged one, one without parity, and files that are none."""
    found = tmp_path_factory.mktemp("receipts")
    (found / "below").mkdir()
    write(found / "cuda.json", receipt("cuda", "cpu", salt="1"))
    write(found / "below" / "hip.json", receipt("hip", requested="cuda,hip", salt="2"))
    write(found / "forged.json", edited(put("runs.0.measurements.1.unit_s", 1e-5), "cuda", salt="3"))
    write(found / "ops.json", ops_receipt("wgpu"))
    unchecked = both(put("runs.0.parity", UNCHECKED), put("request.options.no_parity", True))
    write(found / "unchecked.json", edited(unchecked, "wgpu", salt="4"))
    (found / "table.json").write_text('{"schema": "something else"}')
    (found / "cut.json").write_text((found / "cuda.json").read_text()[:700])
    return found


def test_verify_says_why_and_answers_with_its_exit_code(folder: Path, tmp_path: Path) -> None:
    cuda, hip, forged = (f"{folder}/{name}.json" for name in ("cuda", "below/hip", "forged"))
    good = run("receipt", "verify", cuda, hip)
    assert good.returncode == 0 and good.stdout == f"{cuda}: PASS\n{hip}: PASS\n"
    assert good.stderr.startswith("self-reported in what passes: speed, device") and good.stderr.count("\n") == 1
    bad = run("receipt", "verify", forged, cuda, "--json", str(tmp_path / "v.json"))
    assert bad.returncode == 1
    assert f"{forged}: RCPT-RECOMPUTED /predicate/runs/0/measurements/1/unit_s: tg@0" in bad.stdout
    told = json.loads((tmp_path / "v.json").read_text())["receipts"]
    assert [each["passed"] for each in told] == [False, True] and told[0]["findings"][0]["code"] == "RCPT-RECOMPUTED"
    cut = run("receipt", "verify", f"{folder}/cut.json", cuda)
    assert cut.returncode == 2 and "cut.json: unreadable" in cut.stderr and "cuda.json: PASS" in cut.stdout
    nothing = run("receipt", "verify")
    assert nothing.returncode == 3 and nothing.stdout == ""


def test_verify_keeps_every_demand(folder: Path) -> None:
    path = str(folder / "cuda.json")
    done = run("receipt", "verify", path, "--max-age", "0", "--commit", "abc", "--model", path)
    assert done.returncode == 1 and all(code in done.stdout for code in ("RCPT-AGE", "RCPT-COMMIT", "RCPT-MODEL"))
    assert run("receipt", "verify", path, "--require-gpu-kernels", "--require-parity").returncode == 0
    unchecked = run("receipt", "verify", str(folder / "unchecked.json"), "--require-parity")
    loose = run("receipt", "verify", path, "--trust-claims")
    assert loose.returncode == 2 and "loosens --require-gpu-kernels" in loose.stderr
    assert unchecked.returncode == 1 and "INVALID-CORRECTNESS" in unchecked.stdout


def test_the_same_receipt_twice_is_replayed(folder: Path, tmp_path: Path) -> None:
    again = shutil.copy(folder / "cuda.json", tmp_path / "again.json")
    done = run("receipt", "verify", str(folder / "cuda.json"), str(again), "--json", "-")
    codes = [[finding["code"] for finding in each["findings"]] for each in json.loads(done.stdout)["receipts"]]
    assert done.returncode == 1 and codes[0] == [] and set(codes[1]) == {"RCPT-REPLAYED"}


def test_keygen_sign_and_verify(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="the extra reports is not installed")
    key, out = tmp_path / "k.pem", tmp_path / "s.json"
    made = run("receipt", "keygen", str(key))
    assert made.returncode == 0 and re.fullmatch(r"[0-9a-f]{64}\n", made.stdout)
    signed = run("receipt", "sign", str(folder / "cuda.json"), "--key", str(key), "--output", str(out))
    assert signed.returncode == 0 and made.stdout.strip() in signed.stderr
    assert run("receipt", "verify", str(out), "--key", str(tmp_path / "k.pub")).returncode == 0
    without = run("receipt", "verify", str(out))
    assert without.returncode == 0 and "not looked at" in without.stderr
    bare = run("receipt", "verify", str(folder / "cuda.json"), "--key", str(tmp_path / "k.pub"))
    assert bare.returncode == 1 and "RCPT-UNSIGNED" in bare.stdout
    refused = run("receipt", "sign", str(folder / "forged.json"), "--key", str(key))
    assert refused.returncode == 2 and "would be refused: RCPT-RECOMPUTED" in refused.stderr
    assert run("receipt", "keygen", str(key)).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "no/such/folder"), "cannot be read: No such file"),
        (("show", "no-such-file"), "cannot be read"),
        (("verify", "{}/cuda.json", "--key", "no-such-key"), "cannot be read"),
        (("sign", "{}/cuda.json", "--key", "{}/cuda.json"), "no private key"),
        (("show", "{}/table.json"), "no receipt of this version"),
        (("list", "{}", "--sql", "SELECT nothing FROM receipts"), "its columns are file, time"),
        (("list", "{}", "--sql", "SELECT * FROM read_text('/etc/hostname')"), "disabled"),
        (("list", "{}", "--sql", "COPY receipts TO '{}/x.csv'"), "disabled"),
        (("page", "{}", "--output", "no/such/folder/x.html"), "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run("receipt", *(argument.format(folder) for argument in arguments))
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "" and len([line for line in done.stderr.splitlines() if line.startswith("kparity:")]) == 1


def test_list_has_a_row_per_measurement_and_takes_sql(folder: Path) -> None:
    shown = run("receipt", "list", str(folder))
    assert shown.returncode == 0 and "NVIDIA device made for the tests" in shown.stdout
    assert "table.json: not a receipt" in shown.stderr and "cut.json" in shown.stderr
    rows = json.loads(run("receipt", "list", str(folder), "--sql", "SELECT * FROM receipts", "--json").stdout)
    assert list(rows[0]) == list(store.COLUMNS) and len(rows) == 2 + 2 + 1 + 2 + 2 + 2 + 3
    ops = {row["measurement"]: (row["tokens_per_s"], row["parity"]) for row in rows if row["file"] == "ops.json"}
    assert len(ops) == 3 and ops["wgpu tgemv hot"] == (None, "PASS")
    assert {row["file"] for row in rows if not row["valid"]} == {"forged.json"}
    assert {row["backend"] for row in rows if row["parity"] is None} == {"llama.cpp"}
    assert {row["time"] for row in rows} == {"2026-11-20 12:00:00"}
    wanted = "valid AND parity = 'PASS' AND measurement = 'tg@0'"
    sql = f"SELECT backend FROM receipts WHERE {wanted} ORDER BY tokens_per_s DESC"
    best = json.loads(run("receipt", "list", str(folder), "--sql", sql, "--json", "-").stdout)
    assert [row["backend"] for row in best] == ["cuda", "hip", "cpu"]


def test_an_empty_folder_is_inconclusive(tmp_path: Path) -> None:
    assert run("receipt", "list", str(tmp_path)).returncode == 3
    done = run("receipt", "page", str(tmp_path), "--output", str(tmp_path / "x.html"))
    assert done.returncode == 3 and not (tmp_path / "x.html").exists()


def test_the_folder_of_the_repository_is_what_its_page_says() -> None:
    below = Path(__file__).parent.parent / "bench" / "receipts"
    command = re.findall(r"^```\n(kparity .+)\n```$", (below / "README.md").read_text(), re.MULTILINE)
    assert command == ["kparity receipt list bench/receipts"]
    done = run(*command[0].replace("bench/receipts", str(below)).split()[1:])
    tables = sorted(path.name for path in below.glob("*.json"))
    assert all(f"{name}: not a receipt" in done.stderr for name in tables) and len(tables) == 5
    committed = [str(path) for path in below.glob("*/*.json")]
    assert done.returncode == (0 if committed else 3)
    assert not committed or run("receipt", "verify", *committed).returncode == 0


def test_show_is_a_page_with_its_verdict(folder: Path) -> None:
    shown = run("receipt", "show", str(folder / "below" / "hip.json"))
    for said in ("KP-CUDA-NODRIVER", "AMD device made for the tests", "tg@0", "PASS", "0123456789ab"):
        assert said in shown.stdout, said
    assert re.search(r"hip +PASS +(\d\d) of \1 ", shown.stdout)  # as many gates as there are
    assert "RCPT-RECOMPUTED" in run("receipt", "show", str(folder / "forged.json")).stdout
    ops = run("receipt", "show", str(folder / "ops.json")).stdout
    assert "none: single ops" in ops and "wgpu tgemv hot" in ops and "GB/s" in ops


def test_diff_shows_what_differs_and_speeds_last(folder: Path) -> None:
    a, b = receipt("cuda", salt="1")["predicate"], receipt("cuda", salt="2")["predicate"]
    assert differences(a, a) == [] and {each.where.split(".")[0] for each in differences(a, b)} <= {"runs"}
    changed = copy.deepcopy(a)
    both(put("runs.0.device.driver", "581.00"), change("harness", dirty=True, changed=["x.cu"]))(changed)
    assert [(each.where, each.a, each.b) for each in differences(a, changed)] == [
        ("harness.dirty", "False", "True"), ("harness.changed", "", "x.cu"),
        ("runs.cuda.device.driver", "580.65.06", "581.00"),
    ]  # fmt: skip
    rates = speeds(a, b)
    assert [each.name for each in rates] == ["pp128", "tg@0"] and all(0.95 < (each.ratio or 0) < 1.05 for each in rates)
    shown = run("receipt", "diff", str(folder / "cuda.json"), str(folder / "below" / "hip.json"))
    assert shown.returncode == 0 and shown.stdout.index("serving") < shown.stdout.index("tokens/s")
    told = json.loads(run("receipt", "diff", str(folder / "cuda.json"), str(folder / "cuda.json"), "--json").stdout)
    assert told["differences"] == [] and {each["ratio"] for each in told["speeds"]} == {1.0}


# --- the page ---


class Page(HTMLParser):
    """Tags that are open, and the text; nothing may point elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {name for name, _ in attrs} & {"src", "href"}
        self.open += [tag] if tag not in ("meta", "br") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_has_a_bar_for_every_speed_that_counts_and_no_other(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = run("receipt", "page", str(folder), "--output", str(out))
    assert done.returncode == 0 and "5 receipts, 1 of them refused" in done.stderr
    text = out.read_text()
    read = Page(text)
    assert read.open == [] and "<script" not in text and "//" not in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<rect") == 2 + 2 + 1 + 2  # cuda, cpu, llama.cpp, hip
    for said in ("invalid", "RCPT-RECOMPUTED", "INVALID-CORRECTNESS", "NVIDIA device made for the tests", "llama.cpp"):
        assert said in read.said, said
    assert "99999" not in text.replace("99999.0, the samples", ""), "a forged speed is shown only where it is refused"


def test_bars_share_a_scale_and_the_fastest_stands_first(folder: Path) -> None:
    found = page.groups(store.load_folder(folder)[0])
    decode = next(group for group in found if group.name == "tg@0")
    counted = [bar for bar in decode.bars if not bar.refused]
    assert [bar.owner for bar in counted] == ["cuda", "hip", "cpu", "llama.cpp"]
    assert len(decode.bars) == len(counted) + 2 and all(bar.refused for bar in decode.bars[len(counted) :])
    assert max(bar.high for bar in counted) * decode.scale == pytest.approx(page.WIDTH)
    assert all(bar.low <= bar.rate <= bar.high for bar in counted)


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    write(tmp_path / "r.json", edited(put("runs.0.device.device", "<b>fast</b>"), "cuda"))
    assert "<b>" not in page.html(store.load_folder(tmp_path)[0])
