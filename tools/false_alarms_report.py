"""What the probes of ``false_alarms.py`` amount to: counts per configuration, the measures beside their thresholds, and
a bound on the rate of false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kparity import contracts
from kparity.numerics.statistics import upper_bound

Record = Mapping[str, Any]
CONFIDENCE = 0.95


def counts(records: Sequence[Record], *names: str) -> list[dict[str, Any]]:
    """Probes, rejects and seconds by the values of some fields."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in names), []).append(record)
    return [
        {
            **dict(zip(names, key, strict=True)),
            "probes": len(group),
            "rejected": sum(record["rejected"] for record in group),
            "median_seconds": round(float(np.median([record["seconds"] for record in group])), 3),
        }
        for key, group in sorted(groups.items())
    ]


def distributions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every measure: median, the value that 1 % exceed towards the threshold, the worst, and the share of it used."""
    contract = contracts.load(contracts.PROBE)
    found = []
    for name in dict.fromkeys(name for record in records for name in record["measures"]):
        values = np.array([record["measures"][name] for record in records if name in record["measures"]], np.float64)
        threshold = contract.threshold(name)
        worst_last = np.sort(values if threshold.rule == "at most" else -values)  # a NaN is sorted to the end
        ranks = (len(values) - 1) // 2, math.ceil(0.99 * len(values)) - 1, -1
        median, p99, worst = (abs(float(worst_last[at])) for at in ranks)
        found.append(
            {"threshold": name, "rule": threshold.rule, "limit": threshold.value, "probes": len(values),
             "median": median, "p99": p99, "worst": worst}
        )  # fmt: skip
    return found


def summary(header: Mapping[str, Any], records: Sequence[Record], missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the report shows. Probes that saw the same bits (other threads) count once in the rates: those of
    the same model, options and tokens with the same numbers.
    """
    rejects = [record for record in records if record["rejected"]]
    fields = ("model", "act", "kv", "window")
    evidence = [(*map(record.get, fields), repr(sorted(record["measures"].items()))) for record in records]
    distinct = dict(zip(evidence, (bool(record["rejected"]) for record in records), strict=True))
    bound = upper_bound(sum(distinct.values()), len(distinct), CONFIDENCE) if records else None
    return {
        **header,
        "probes": len(records),
        "distinct": len(distinct),
        "rejected": len(rejects),
        "confidence": CONFIDENCE,
        "rate_at_most": bound,
        "by_backend": counts(records, "backend"),
        "by_setting": counts(records, "model", "act", "kv"),
        "measures": distributions(records),
        "rejects": [{name: value for name, value in record.items() if name != "measures"} for record in rejects],
        "missing": {name: reason for name, reason in missing.items() if all(name != r["backend"] for r in records)},
    }


def as_markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    contract = found["contract"]
    lines = ["# False alarms of the probe", ""]
    if not found["probes"]:
        return "\n".join([*lines, "No probe ran.", ""])
    lines += [
        f"Right backends at every gate of the full probe ({', '.join(found['gates'])}), {contract[0]} {contract[1]}, "
        f"{found['positions']} positions per probe: **{found['rejected']} of {found['probes']} probes rejected**.",
        "",
        f"{found['distinct']} of the probes are distinct: the others saw the same bits (another number of "
        f"threads or lanes) and are no trials of their own. The rate of false alarms is at most "
        f"{found['rate_at_most']:.2%} "
        f"(one-sided Wilson bound at {found['confidence']:.0%}, over the distinct ones). It holds for these devices, "
        "models and tokens. Made by `python -m tools.false_alarms`.",
        "",
        *_table(
            ("backend", "probes", "rejected", "s per probe"),
            [(row["backend"], row["probes"], row["rejected"], row["median_seconds"]) for row in found["by_backend"]],
        ),
        *_table(
            ("model", "activations", "cache", "probes", "rejected"),
            [tuple(row[name] for name in ("model", "act", "kv", "probes", "rejected")) for row in found["by_setting"]],
        ),
        *_table(("measure", "median", "99 %", "worst", "threshold"), [_measure(row) for row in found["measures"]]),
    ]
    if found["rejects"]:
        rows = [(row["backend"], row["model"], f"{row['act']}, {row['kv']}", row["window"], row["code"], row["reason"])
                for row in found["rejects"]]  # fmt: skip
        lines += _table(("rejected", "model", "options", "window", "code", "reason"), rows)
    lines += [f"Not there: {name}: {reason}" for name, reason in found["missing"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _measure(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f"{row[name]:.6g}" for name in ("median", "p99", "worst"))
    return (f"`{row['threshold']}`", *numbers, f"{'≥' if row['rule'] == 'at least' else '≤'} {row['limit']:g}")


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows),
        "",
    ]
