"""Reads what ``kparity bench compare`` takes: receipts, bare or in a DSSE envelope, and JSON of pytest-benchmark."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kparity.errors import WrongInput
from kparity.receipts.document import PREDICATE

FACTS = ("device", "driver", "model", "threads")
"""What two measurements must have in common unless told otherwise."""
EXPECTED = "expected a receipt of kparity bench or the JSON of pytest-benchmark"


@dataclass(frozen=True)
class Measured:
    """One measurement: seconds of each sample, what it was measured on, and why it does not count."""

    name: str
    samples_s: list[float]
    facts: Mapping[str, str]
    fault: str = ""


@dataclass(frozen=True)
class Document:
    """A file that was read."""

    path: Path
    kind: str
    commit: str
    dirty: bool | None
    measured: list[Measured] = field(default_factory=list)


def read(path: Path) -> Document:
    """Read one file; raises WrongInput where it is not there, no JSON, or no such document."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WrongInput(f"{path} is no JSON ({error}); {EXPECTED}") from error
    try:
        found = _document(path, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WrongInput(
            f"{path} lacks what a benchmark holds ({type(error).__name__}: {error}); {EXPECTED}"
        ) from error
    twice = [name for name, count in Counter(each.name for each in found.measured).items() if count > 1]
    if twice:
        raise WrongInput(f"{path} holds {twice[0]} twice: it is not one run")
    return found


def _document(path: Path, document: Any) -> Document:
    if isinstance(document, dict) and "payloadType" in document:
        document = json.loads(base64.b64decode(document["payload"], validate=True))
    if isinstance(document, dict) and document.get("predicateType") == PREDICATE:
        predicate = document["predicate"]
        if predicate["kind"] != "bench":
            raise WrongInput(f"{path} is a receipt of kparity {predicate['kind']}, which holds no speed; {EXPECTED}")
        harness = predicate["harness"]
        return Document(path, "receipt", harness["commit"], harness["dirty"], list(_of_receipt(predicate)))
    if isinstance(document, dict) and "benchmarks" in document and "machine_info" in document:
        commit = document["commit_info"]
        return Document(path, "pytest-benchmark", commit.get("id") or "unknown", commit.get("dirty"),
                        list(_of_suite(path, document)))  # fmt: skip
    raise WrongInput(f"{path} is another kind of document; {EXPECTED}")


def _of_receipt(predicate: Mapping[str, Any]) -> Iterator[Measured]:
    """Measurements of every run, and the rows of ops."""
    model = (predicate.get("model") or {}).get("sha256") or ""
    for run in predicate["runs"]:
        facts = {**facts_of(run["device"]), "model": model}
        verdict = (run.get("parity") or {}).get("verdict")
        fault = "" if verdict == "PASS" else f"the parity verdict is {verdict or 'missing'}"
        timed = run.get("timed_output") or {}
        if not fault and timed.get("passed") is not True:
            fault = "the output of the timed run was not verified"
        for each in run["measurements"]:
            wrong = fault or "; ".join([*run.get("errors", []), *each.get("errors", [])])
            yield Measured(f"{run['backend']} {each['name']}", _seconds(each["samples_s"]), facts, wrong)
    yield from (_of_row(row) for row in predicate.get("ops") or [] if row.get("samples_device_s"))


def _of_row(row: Mapping[str, Any]) -> Measured:
    """A row of the per-op benchmark: seconds of one launch."""
    samples = [each / row["launches_per_sample"] for each in _seconds(row["samples_device_s"])]
    name = " ".join(part for part in (row["backend"], row.get("case") or row["op"], row.get("state") or "") if part)
    fault = "; ".join(row["errors"]) or ("" if row["verified"] else "its output was not verified")
    return Measured(name, samples, facts_of(row), fault)


def _of_suite(path: Path, document: Mapping[str, Any]) -> Iterator[Measured]:
    """Benchmarks of pytest-benchmark; where one does not tell its device, the machine's processor stands for it."""
    cpu = (document["machine_info"].get("cpu") or {}).get("brand_raw") or document["machine_info"].get("node", "")
    for each in document["benchmarks"]:
        if not each["stats"].get("data"):
            raise WrongInput(
                f"{path} holds no raw samples of {each['name']}; use --benchmark-json or --benchmark-save-data"
            )
        info = each.get("extra_info") or {}
        facts = {**facts_of(info.get("device") or {"device": cpu}), "model": info.get("model", "")}
        fault = "" if info.get("verified", True) else "its output was not verified"
        yield Measured(each["fullname"], _seconds(each["stats"]["data"]), facts, fault)


def facts_of(device: Mapping[str, Any]) -> dict[str, str]:
    """Device, driver and threads from ``DeviceInfo.as_dict``, or from a row of ops, which has the same keys."""
    parts = [str(device.get(name) or "") for name in ("device", "kind", "api", "uuid")]
    threads = re.search(r"(\d+) threads?\b", str(device.get("detail") or ""))
    return {
        "device": ", ".join(part for part in parts if part),
        "driver": str(device.get("driver") or ""),
        "threads": threads[1] if threads else "",
    }


def _seconds(samples: Any) -> list[float]:
    """Raw samples; raises ValueError for anything but positive, finite numbers."""
    found = [float(each) for each in samples]
    if not all(math.isfinite(each) and each > 0 for each in found):
        raise ValueError("a sample is not a positive number of seconds")
    return found
