"""The devices that contracts know as bad: refused before anything is computed on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kparity.adapter import DeviceInfo
from kparity.contracts.known import Issue
from kparity.probe.verdict import Gate


def gate_known(info: DeviceInfo, issues: Iterable[Mapping[str, Any]]) -> Gate | None:
    """A failed ``open`` where a known issue is about this device, else None. ``issues`` are ``Issue.as_dict()``."""
    facts = info.as_dict()
    found = [issue for issue in (Issue(**fields) for fields in issues) if issue.matches(facts)]
    if not found:
        return None
    more = f"; and {', '.join(issue.id for issue in found[1:])}" if len(found) > 1 else ""
    return Gate("open", "FAIL", code="KP-KNOWN-BAD", reason=f"{found[0].reason}{more}")
