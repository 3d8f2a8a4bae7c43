"""The code that the tests of a contract ran: what their evidence is bound to."""

from __future__ import annotations

from kparity.contracts import Contract, nodes
from kparity.device import fingerprint
from kparity.host import revision


def of(contract: Contract) -> dict[str, str]:
    """Part of the code → SHA-256; empty outside of a project.

    The parts are ``kparity`` as it is installed, and of the project every folder at its root in which a test or an
    enforcing source lies (``tests/``), or the files at the root itself (``*.py``).
    """
    root = contract.root()
    if root is None:
        return {}
    named = [*(nodes.file_of(each.node) for each in nodes.references(contract)), *contract.sections.enforced_by]
    tops = {name.partition("/")[0] + "/" if "/" in name else "*.py" for name in named}
    if root == revision.checkout():  # sources of the package are those that are installed, and csrc is compiled
        tops = {top for top in tops if top.strip("/") not in revision.SOURCES} | {"csrc/"}
    parts = {top: fingerprint.tree(root, "*.py") if top == "*.py" else fingerprint.tree(root / top) for top in tops}
    return {"kparity": fingerprint.code(), **dict(sorted(parts.items()))}
