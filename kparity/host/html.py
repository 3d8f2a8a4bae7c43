"""Pages: HTML files that need nothing else, readable on a telephone, in the dark and by keyboard."""

from __future__ import annotations

from importlib import resources
from typing import Any

from kparity.host import install


def engine() -> Any:
    """The library Jinja2; raises WrongInput where it is missing."""
    return install.library("jinja2", "reports", "a page")


def render(package: str, **values: Any) -> str:
    """The page of the template ``page.html.j2`` in a package, which extends ``base.html.j2``, with values escaped."""
    jinja2 = engine()
    texts = {"base.html.j2": __package__ or "", "page.html.j2": package}
    loader = jinja2.FunctionLoader(lambda name: resources.files(texts[name]).joinpath(name).read_text("utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.get_template("page.html.j2").render(values)
    return page
