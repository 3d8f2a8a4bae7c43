"""Pages: HTML files that need nothing else, readable on a telephone, in the dark and by keyboard."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from kparity.host import install
from kparity.host.text import printable


def engine() -> Any:
    """The library Jinja2; raises WrongInput where it is missing."""
    return install.library("jinja2", "reports", "a page")


def render(package: str, page_name: str = "page.html.j2", /, **values: Any) -> str:
    """The page of a template in a package, which extends ``base.html.j2``, with values escaped and printable. Nothing
    is loaded and no script runs but that of the template.
    """
    jinja2 = engine()

    def text(name: str) -> str:
        return (
            resources.files(__package__ or "" if name == "base.html.j2" else package).joinpath(name).read_text("utf-8")
        )

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: printable(value, "\n") if type(value) is str else value,
    )  # fmt: skip
    page: str = environment.get_template(page_name).render(values)
    for kind in ("style", "script"):
        allowed = [f"'sha256-{_digest(each)}'" for each in re.findall(f"<{kind}>(.*?)</{kind}>", page, re.S)]
        page = page.replace(f"{kind}-src 'none'", f"{kind}-src {' '.join(allowed) or chr(39) + 'none' + chr(39)}", 1)
    return page


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
