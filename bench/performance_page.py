"""docs/performance.md from what is saved: the same document gives the same page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import performance_sections as sections
from performance_results import MET, MISSED, UNKNOWN, Claim, Results, facts
from performance_runs import SECTIONS
from performance_sections import Section, table

TITLES: Mapping[str, str] = {
    "ops": "Single ops on the processor",
    "decode": "Decode against llama.cpp",
    "prefill": "Prefill against llama.cpp",
    "attention": "Attention",
    "growth": "Cost as work grows",
    "comparison": "The comparison of two arrays",
    "harness": "The harness itself",
    "backends": "Every backend of this machine",
}
MAKERS: Mapping[str, Callable[[Results], Section]] = {name: getattr(sections, name) for name in TITLES}
HEADS = ("target", "asked", "measured", "verdict")
METHOD = """\
Made by `python bench/performance.py` from [performance.json](../bench/receipts/performance.json), which holds every
run with its command, time, load and thinned samples; how times are taken is told in [bench.md](bench.md). Medians, with
95 % intervals of the median in brackets. A number counts only where the output of the timed run was right; "—" is what
was not measured or does not count. Weights are random, of the shape of BitNet b1.58 2B-4T, TQ2_0 with a tied f16 head;
llama.cpp reads the same file in the same run, with the same threads. Figures of the past have columns of their own."""


def page(document: Mapping[str, Any]) -> str:
    """The whole page; sections of which nothing was measured say so."""
    results = Results(document)
    made = {name: make(results) for name, make in MAKERS.items()}
    claims = [claim for _, found in made.values() for claim in found]
    lines = ["# Performance", "", METHOD, "", *_machine(results), "## Targets", "", *_summary(claims)]
    for name, (body, found) in made.items():
        lines += [f"## {TITLES[name]}", "", *_commands(results, name), *body]
        lines += table(HEADS, [claim.line() for claim in found]) if found else []
        missed = dict.fromkeys(claim.target for claim in found if claim.verdict == MISSED)
        for target in missed:
            lines += [facts()["remarks"][target], ""] if target in facts()["remarks"] else []
    return "\n".join(lines).rstrip() + "\n"


def _machine(results: Results) -> list[str]:
    """Machine, commits, dates and loads of the runs."""
    records = [record for record in results.runs.values() if "result" in record]
    hosts = [record["result"]["host"] for record in records if "host" in record["result"]]
    if not hosts:
        return ["Nothing was measured.", ""]
    machines = dict.fromkeys(
        f"{each['cpu']}, {each['cpus']} processors, {each['memory_bytes'] / 2**30:.0f} GiB, {each['system']}"
        for each in hosts
    )
    commits = dict.fromkeys(
        f"`{record['commit'][:12]}`{' with changes' if record['dirty'] else ''}" for record in records
    )
    days = sorted({record["begun"][:10] for record in records})
    loads = [record["load"] for record in sorted(records, key=lambda record: str(record["begun"]))]
    refused = {name: record["verify"] for name, record in results.runs.items() if record.get("verify")}
    rows = [
        ("machine", "; ".join(machines)),
        ("commit", ", ".join(commits)),
        ("measured on", " to ".join(dict.fromkeys((days[0], days[-1])))),
        ("load", f"{loads[0]:.2f} before the first run, up to {max(loads):.2f} before later ones: their own traces"),
        ("taken by the host", _stolen(results)),
        ("runs", f"{len(records)}, {sum(record['seconds'] for record in records) / 60:.0f} minutes"),
        ("receipts", "; ".join(f"{name}: {', '.join(codes)}" for name, codes in refused.items()) or "all verified"),
    ]
    return table(("", ""), rows)


def _summary(claims: list[Claim]) -> list[str]:
    """How many targets are met, and every one that is not."""
    count = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in (MET, MISSED, UNKNOWN)}
    lines = [f"{count[MET]} met, {count[MISSED]} missed, {count[UNKNOWN]} not measured."]
    missed = [claim.line() for claim in claims if claim.verdict != MET]
    return [*lines, "", *(table(HEADS, missed) if missed else [])]


def _commands(results: Results, section: str) -> list[str]:
    """The commands of a section, with what went wrong."""
    records = [(name, results.runs[name]) for name in SECTIONS[section] if name in results.runs]
    if not records:
        return ["Not measured yet.", ""]
    lines = ["```console", *(f"$ {record['command']}" for _, record in records), "```", ""]
    for name, record in records:
        if "result" not in record or record["code"]:
            why = "no result" if "result" not in record else f"exit code {record['code']}"
            lines += [f"{name}: {why}: {' '.join(record['said'])}", ""]
    return lines


def _stolen(results: Results) -> str:
    """What share of the processors' time the host gave to others during the runs, and how often one was repeated."""
    shares = {name: record["stolen"] for name, record in results.runs.items() if "stolen" in record}
    if not shares:
        return "not known"
    worst = max(shares, key=lambda name: shares[name])
    again = sum(record.get("tries", 1) - 1 for record in results.runs.values())
    return (
        f"{100 * float(np.median(list(shares.values()))):.1f} % of the processors' time in the median run, "
        f"{100 * shares[worst]:.1f} % in the worst ({worst}); repeated for more than "
        f"{100 * facts()['calm']['stolen']:g} %: {again} times"
    )
