"""What continuous integration reads: JUnit XML, CTRF, SARIF, and the annotations and the step summary of GitHub."""

from __future__ import annotations

import html
import json
import os
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import kparity
from kparity.host import streams
from kparity.host.text import markdown_table, printable

SHOWN = 10
"""Annotations of a kind that GitHub shows of a step."""
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not: compilers colour their logs with it."""


@dataclass(frozen=True)
class Test:
    """A test of a suite; it passed where there is neither a ``failure`` nor a reason why it was ``skipped``."""

    classname: str
    name: str
    seconds: float
    failure: str = ""
    type: str = ""
    details: str = ""
    skipped: str = ""
    place: str = ""
    """The file that it judges, where that is the user's own."""

    @property
    def status(self) -> str:
        """In a word."""
        return "failed" if self.failure else "skipped" if self.skipped else "passed"


Suites = Mapping[str, Sequence[Test]]


def junit(name: str, seconds: float, suites: Suites) -> str:
    """JUnit XML of suites by name."""
    root = ET.Element("testsuites", name=name, time=f"{seconds:.3f}")
    for suite, tests in suites.items():
        counts = {"failures": sum(bool(each.failure) for each in tests), "errors": 0}
        counts["skipped"] = sum(bool(each.skipped) for each in tests)
        shown = {key: str(count) for key, count in {"tests": len(tests), **counts}.items()}
        total = f"{sum(each.seconds for each in tests):.3f}"
        element = ET.SubElement(root, "testsuite", {"name": _clean(suite), **shown, "time": total})
        for each in tests:
            _add(element, each)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add(suite: ET.Element, test: Test) -> None:
    names = {"classname": _clean(test.classname), "name": _clean(test.name)}
    element = ET.SubElement(suite, "testcase", {**names, "time": f"{test.seconds:.3f}"})
    if test.failure:
        failure = ET.SubElement(element, "failure", message=_clean(test.failure), type=_clean(test.type or "error"))
        failure.text = _clean(test.details or test.failure)
    elif test.skipped:
        ET.SubElement(element, "skipped", message=_clean(test.skipped))


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("�", text)


def ctrf(name: str, seconds: float, suites: Suites) -> str:
    """The Common Test Report Format, as JSON: the same tests."""
    every, stop = [(suite, each) for suite, tests in suites.items() for each in tests], int(time.time() * 1e3)
    count = {word: sum(each.status == word for _, each in every) for word in ("passed", "failed", "skipped")}
    tests = [
        {
            "name": printable(f"{each.classname} {each.name}"), "status": each.status, "suite": [printable(suite)],
            "duration": round(each.seconds * 1e3, 3),
            **({"message": printable(each.failure or each.skipped)} if each.status != "passed" else {}),
            **({"trace": printable(each.details, "\n")} if each.failure and each.details else {}),
        }
        for suite, each in every
    ]  # fmt: skip
    summary = {
        "tests": len(every), **count, "pending": 0, "other": 0, "start": stop - int(seconds * 1e3), "stop": stop,
    }  # fmt: skip
    tool = {"name": name, "version": kparity.__version__}
    whole = {"reportFormat": "CTRF", "specVersion": "0.0.0", "results": {"tool": tool, "summary": summary,
             "tests": tests}}  # fmt: skip
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def sarif(name: str, suites: Suites) -> str:
    """SARIF 2.1.0: a result for each test that failed, at the line of the user's file where the failure names one."""
    failed = [each for tests in suites.values() for each in tests if each.failure]
    rules = list(dict.fromkeys(_rule(each) for each in failed))
    results = [
        {
            "ruleId": _rule(each), "ruleIndex": rules.index(_rule(each)), "level": "error",
            "message": {"text": printable(f"{each.name}: {each.failure}")}, "locations": [_location(each)],
        }
        for each in failed
    ]  # fmt: skip
    driver = {"name": name, "version": kparity.__version__, "rules": [{"id": each} for each in rules]}
    whole = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
             "runs": [{"tool": {"driver": driver}, "results": results}]}  # fmt: skip
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _rule(test: Test) -> str:
    return test.type or "failure"


def _location(test: Test) -> dict[str, Any]:
    name = printable(f"{test.classname} {test.name}")
    found: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": name, "kind": "function"}]}
    if test.place:
        line = re.search(rf"{re.escape(test.place)}:([1-9]\d*)", test.failure)
        region = {"startLine": int(line[1]) if line else 1}
        found["physicalLocation"] = {"artifactLocation": {"uri": quote(test.place)}, "region": region}
    return found


Level = Literal["error", "warning", "notice"]


def annotation(level: Level, title: str, message: str) -> str:
    """A workflow command of GitHub, in which no text can end the line or begin another property."""
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{escaped}"


def plain_markdown(text: Any) -> str:
    """Text as one line of Markdown in which nothing is markup, HTML or the end of a table's cell."""
    escaped = html.escape(printable(" ".join(str(text).split())), quote=False)
    return re.sub(r"([\\`*_\[\]~])", r"\\\1", escaped).replace("|", "&#124;")


def github(
    title: str, annotations: Sequence[tuple[Level, str, str]], head: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Annotations (level, title, message) as lines on stderr, and a table at the end of the file that
    ``GITHUB_STEP_SUMMARY`` names, where it names one.
    """
    for level, name, message in annotations[:SHOWN]:
        streams.log(annotation(level, name, message))
    if len(annotations) > SHOWN:
        streams.log(annotation("notice", title, f"and {len(annotations) - SHOWN} more; the JUnit file has all of them"))
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        table = markdown_table(head, [[plain_markdown(cell) for cell in row] for row in rows], left=len(head))
        try:
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(f"### {plain_markdown(title)}\n\n{table}\n\n")
        except OSError as error:
            streams.log(f"GITHUB_STEP_SUMMARY={place} cannot be written: {error.strerror}")
