"""The report: what it says of which documents, what it refuses, and the page in Chromium, hostile and large."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from kparity.bisect.record import Bisection, Found, SlotError, Way
from kparity.diagnose.document import Document as Diagnosed
from kparity.diagnose.repeats import Repeat
from kparity.ladder.record import Diagnosis, Document, Finding
from kparity.report import documents, page
from kparity.report.ladder import meaning, scatter
from kparity.traces.diff import GateDiff, SlotDiff, TraceDiff
from kparity.traces.slots import GLOBAL, HEADS, TABLE
from tests.cli import run
from tests.edits import put
from tests.made_receipts import edited, probe_receipt
from tests.test_ladder import climbed

pytest.importorskip("jinja2", reason="Jinja2 is not installed")
HOSTILE = "</script><img src=x onerror=hit=1>\x1b[31m\u202eevil\u2066'\"`${hit=1}{{7*7}}&lt;"
"""Markup, control characters and marks of direction, in every text of a document."""


@cache
def climb(fault: str) -> Document:
    """A climb of every rung against an engine with a fault."""
    return climbed("healthy", fault, keep_going=True)


def traced(layers: int, wrong: tuple[int, str] | None = (2, "q_rope"), text: str = "a/b.trace") -> TraceDiff:
    """What is said of two traces of so many layers, of which one slot does not follow."""
    slots = []
    for layer in range(layers):
        for name in TABLE.keys() - {*GLOBAL}:
            key = f"{layer}.{name}" + (".0" if name in HEADS else "")
            excess = 900.0 if (layer, name) == wrong else 0.5 if layer else None
            slots.append(SlotDiff(
                key=key, rows=8, error=0.01, error_in=0.01, explained=0.02, excess=excess, amplification=1.0,
                cosine=0.99, max_abs=float("inf"), worst_position=5, sigma_ratio=1.0,
                agrees=None if excess is None else excess < 4, allowed="",
            ))  # fmt: skip
    gate, failed = GateDiff("PASS", text, 3, [], ""), bool(wrong)
    first = next((each for each in slots if each.agrees is False), None)
    return TraceDiff(
        verdict="FAIL" if failed else "PASS", reason=text, a=text, b=text, tokens_compared="all tokens",
        sample_size_parity=gate, std_ratio=gate, first=first, slots=slots, not_compared={text: text}, notes=[text],
    )  # fmt: skip


def bisected(text: str = "the rows are wrong") -> Bisection:
    """What is said of a pair that differs in a kernel."""
    where = Found(
        kind="kernel", op="rope", sentence=text, position=2, layer=0, slot="q_rope", case=text, pattern=text,
        heals=True, replay=text,
    )  # fmt: skip
    return Bisection(
        form="kparity-bisect-v1", kparity="1", request=climb("late").request, exit_code=1, found=where, evaluations=11,
        ways=[Way(name=text, runs=3, first_bad=2)], tokens=96, layers=6, notes=[text], seconds=1.0,
        slots=[SlotError(key="0.q_rope", error=float("nan"), explained=1e-6, worst_position=2)],
    )  # fmt: skip


def diagnosed(text: str = "RoPE turns other pairs") -> Diagnosed:
    """Why a pair differs, and that one side does not repeat itself."""
    found = Finding(pattern=text, cause=text, evidence=text, confidence=0.99, next=text, fix=text)
    told = Diagnosis(rung="positions", findings=[found], tried=[text], notes=[text])
    return Diagnosed(
        form="kparity-diagnosis-v1", kparity="1", verdict="FAIL", exit_code=1, request=climb("late").request,
        position=2, reference=None, candidate=None, reason=text, diagnosis=told, seconds=1.0,
        repeats=[Repeat(run=text, positions=3, different=1, first=2, digest="")],
    )  # fmt: skip


def saved(folder: Path, *found: Document | TraceDiff | Bisection | Diagnosed, receipt: Any = None) -> Path:
    for at, each in enumerate(found):
        (folder / f"{at}.json").write_bytes(msgspec.json.encode(each))
    if receipt is not None:
        (folder / "receipt.json").write_text(json.dumps(receipt))
    return folder


def failing(folder: Path) -> str:
    """The page of a climb and two traces that failed, of one that passed, and of a receipt."""
    late = replace(climb("late"), diagnosis=diagnosed().diagnosis)
    every = late, traced(6), climb("twin"), bisected(), diagnosed()
    return page.html(documents.read(saved(folder, *every, receipt=probe_receipt("cpu"))))


def shown(browser: Any, folder: Path, text: str, **options: Any) -> tuple[Any, list[str]]:
    """The page in Chromium, and everything that went wrong, or over the network."""
    path, problems = folder / "report.html", list[str]()
    path.write_text(text, encoding="utf-8")
    view = browser.new_page(viewport={"width": 1200, "height": 900}, **options)
    view.on("console", lambda said: problems.append(said.text))
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.on("dialog", lambda dialog: problems.append(dialog.message))
    view.on("request", lambda asked: problems.append(asked.url) if asked.url != path.as_uri() else None)
    view.goto(path.as_uri())
    return view, problems


def test_the_verdict_and_what_it_means_are_those_of_the_records(tmp_path: Path) -> None:
    text = failing(tmp_path)
    assert "<title>kparity report: FAIL, fake:late against fake:healthy" in text
    first, second = meaning(climb("late"))
    assert "the rung masks failed" not in first and "failed, first at position 40 of" in first
    assert (
        "right up to position 39, wrong from 40 on" in second and first in text and "3 differ, the first is 2" in text
    )
    assert meaning(climb("twin"))[0].startswith("fake:twin gave what fake:healthy gives on every rung up to decode:")
    assert meaning(climbed("dies", "healthy"))[0].startswith("Nothing is decided: masks, the reference failed")
    assert "At fault: kernel, layer 0, q_rope, op rope, first at position 2; the rows are wrong." in text
    assert text.count("What fits best (99 %): RoPE turns other pairs; evidence: RoPE turns other pairs.") == 2
    assert "1 of 1 receipts may be believed" in text and "1 of 100 slots that were judged do not follow" in text


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [(("twin",), "PASS"), (("twin", "late"), "FAIL"), (("twin", "cut"), "INCONCLUSIVE"),
     (("twin", "next"), "INCONCLUSIVE"), (("twin", "foreign"), "PASS"), (("twin", "forged"), "FAIL")],
)  # fmt: skip
def test_what_cannot_be_read_lets_nothing_pass(kept: tuple[str, ...], verdict: str, tmp_path: Path) -> None:
    """A document that is cut, or of another version, could hold a failure; a JSON file of others could not."""
    for name in kept:
        text = msgspec.json.encode(climb(name if name in ("twin", "late") else "twin")).decode()
        forged = json.dumps(edited(put("runs.0.measurements.1.unit_s", 1e-5), "cuda"))
        other = {
            "cut": text[:-9],
            "next": text.replace("ladder-v1", "ladder-v2", 1),
            "foreign": "[3]",
            "forged": forged,
        }
        (tmp_path / f"{name}.json").write_text(other.get(name, text))
    done = run("report", str(tmp_path), "-o", str(tmp_path / "out.html"))
    assert done.returncode == (2 if verdict == "INCONCLUSIVE" else 0) and "Traceback" not in done.stderr
    assert f"<title>kparity report: {verdict}" in (tmp_path / "out.html").read_text()
    assert all(f"{name}.json" in done.stderr for name in {*kept} & {"cut", "next", "foreign"})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [("a.json", "{", "is not a JSON document of kparity that can be read"), ("a.txt", "x", "holds no JSON file"),
     ("a.json", '{"schema": "kparity-ladder-v9"}', "has the schema 'kparity-ladder-v9'"),
     ("a.json", '{"schema": ["kparity-ladder-v1"]}', "no document that is shown"),
     ("a.json", '{"schema": "kparity-ladder-v1"}', "missing required field"), ("a.json", "[]", "no document that"),
     ("a.json", '{"predicateType": "https://kparity.dev/receipt/v1"}', "RCPT-SCHEMA")],
)  # fmt: skip
def test_bad_input_is_one_sentence(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    for place in (tmp_path, *([tmp_path / name] if name.endswith("json") else [])):
        done = run("report", str(place), "-o", str(tmp_path / "out.html"))
        assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "out.html").exists()


def test_no_output_takes_the_place_of_what_is_shown(tmp_path: Path) -> None:
    saved(tmp_path, climb("twin"))
    before = (tmp_path / "0.json").read_bytes()
    for output in (tmp_path / "0.json", tmp_path, tmp_path / "none" / "x.html"):
        for place in (tmp_path, tmp_path / "0.json"):
            done = run("report", str(place), "-o", str(output))
            assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "0.json").read_bytes() == before
    assert run("report", str(tmp_path / "absent"), "-o", str(tmp_path / "x")).returncode == 2


def test_errors_are_drawn_where_they_lie() -> None:
    """Squares touch, none leaves the drawing, and an octave has the median and the largest of its errors."""
    assert scatter([]) is None and scatter([(0.0, 1.0, 5), (1.0, 0.0, 2)]) is None
    found = scatter([(1.0, 0.25, 3), (1.5, 0.25, 1), (1.5, 0.5, 5), (4.0, 1e-3, 7)])
    assert found is not None and [each.shade for each in found.squares] == [4, 1, 6, 7]
    left, right = found.squares[:2]
    assert left.x + left.width == pytest.approx(right.x) and left.y == pytest.approx(right.y)
    assert all(each.y >= 0 and each.y + each.height <= 300.1 and each.x >= 40 for each in found.squares)
    assert [(each.size, each.count, each.median, each.most) for each in found.octaves] == [
        (1.0, 9, 0.5, 0.75), (4.0, 7, 1e-3, pytest.approx(1e-3 * 4 / 3)),
    ]  # fmt: skip


def test_the_page_is_used_by_keyboard(browser: Any, tmp_path: Path) -> None:
    """Everything that does something is reached by Tab; arrow keys choose a position, and a slot; nothing is wrong."""
    view, problems = shown(browser, tmp_path, failing(tmp_path))
    view.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    stops = view.locator("a, summary, select, input, button, [tabindex='0']")
    seen = set()
    for _ in range(stops.count()):
        view.keyboard.press("Tab")
        seen.add(view.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus is not seen"
    assert len(seen) == stops.count()
    cells, tokens = view.locator("#d0 .cells"), view.locator("#d0 .tokens tbody")
    cells.focus()
    told = []
    for key, place in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 63), ("Home", 0)):
        view.keyboard.press(key)
        assert cells.get_attribute("aria-valuenow") == str(place)
        told.append(tokens.inner_text())
        assert f"Position {place}, fed with" in view.locator("#d0 output").inner_text()
    assert len({*told}) == 4 and told[0] == told[5]
    top = climb("late").positions[0].top
    assert top and tokens.locator("tr").count() == len(top.ids) and told[0].startswith(str(top.ids[0]))
    view.locator("#d0 select").select_option("l2")
    view.locator("#d0 [data-go='1']").click()
    assert (
        cells.get_attribute("aria-valuenow") == "40"
        and "FAIL, likeliest token SAME.✗ L2 distance" in view.locator("#d0 output").inner_text()
    )
    bad = view.locator(".grid td.x")
    assert (
        bad.get_attribute("tabindex") == "0" and "layer 2 q_rope: does not follow" in view.locator(".says").inner_text()
    )
    bad.focus()
    view.keyboard.press("ArrowRight")
    assert "layer 3 q_rope: follows from its inputs" in view.locator(".says").inner_text()
    assert view.evaluate("document.activeElement.getAttribute('aria-label')").startswith("layer 3 q_rope")
    view.close()
    assert problems == []


def hostile(value: Any) -> Any:
    """JSON with every free text replaced, and every number that may be null."""
    if isinstance(value, dict):
        fixed = ("schema", "status", "verdict", "name", "sign", "profile", "rung", "version", "key", "tokens_compared",
                 "tie", "steps")  # fmt: skip
        return {key: each if key in fixed and value.keys() != {"name", "positions", "spreads"} else hostile(each)
                for key, each in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [hostile(each) for each in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_hostile_is_shown_and_does_nothing(scheme: str, browser: Any, tmp_path: Path) -> None:
    """Texts with markup and controls, numbers that are null, parts that are missing; at the width of a telephone."""
    late, nan = (hostile(json.loads(msgspec.json.encode(climb(fault)))) for fault in ("late", "nan"))
    late["pieces"] = {str(token): HOSTILE for token in range(96)}
    nan |= {"floor": None, "reference": None, "limits": {}, "errors": [], "decode": [], "tokens": [], "three_way": None}
    for name in ("limit", "value"):
        nan["rungs"][3]["measures"][0][name] = None
    (tmp_path / "receipt.json").write_text(json.dumps(edited(put("host.cpu", HOSTILE), "cuda")))
    late["positions"][3]["mse"] = late["positions"][3]["top"]["candidate"][0] = late["limits"]["kl"][1] = None
    saved(tmp_path, traced(3, text=HOSTILE), bisected(HOSTILE), diagnosed(HOSTILE))
    for name, each in (("late", late), ("nan", nan)):
        (tmp_path / f"{name}<b>.json").write_text(json.dumps(each))
    text = page.html(documents.read(tmp_path))
    view, problems = shown(browser, tmp_path, text, color_scheme=scheme)
    view.set_viewport_size({"width": 360, "height": 800})
    for box in view.locator(".positions").all():
        box.locator("select").select_option("mse")
        box.locator("input").fill("3")
        box.locator("input").blur()
    assert view.evaluate("[typeof hit, document.images.length, document.scripts.length]") == ["undefined", 0, 2]
    assert view.evaluate("document.documentElement.scrollWidth") <= 360
    said = view.inner_text("main")
    assert "</script><img src=x onerror=hit=1>\\x1b[31m\\u202eevil\\u2066'\"`${hit=1}{{7*7}}&lt;" in said
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text) and "not finite" in said
    assert problems == []
    view.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hit = 1'}))")
    assert view.evaluate("typeof hit") == "undefined" and "Content Security Policy" in problems[0]
    view.close()


@pytest.mark.alone
def test_two_thousand_positions_and_thirty_layers_open_within_two_seconds(browser: Any, tmp_path: Path) -> None:
    """From the call to the first position that was chosen; the best of three, in a browser that is open."""
    late = climb("late")
    many = [replace(late.positions[at % len(late.positions)], position=at) for at in range(2000)]
    text, best = page.html(documents.read(saved(tmp_path, replace(late, positions=many), traced(30)))), 99.0
    for _ in range(3):
        began = perf_counter()
        view, problems = shown(browser, tmp_path, text)
        view.locator(".cells").focus()
        view.keyboard.press("End")
        assert view.locator(".cells").get_attribute("aria-valuenow") == "1999" and problems == []
        best = min(best, perf_counter() - began)
        assert view.locator(".cells i").count() == 2000 and view.locator(".grid td").count() == 600
        view.close()
    assert best < 2, f"{best:.2f} s for {len(text)} characters"
