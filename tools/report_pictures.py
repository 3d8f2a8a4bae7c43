"""The pictures of docs/report.md: ``python -m tools.report_pictures`` (Chromium, axe-playwright-python, Pillow).

A pair that fails, RoPE in the other convention against the reference, is climbed and traced; its page is looked at in
light, in the dark and on a telephone.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
RIGHT, WRONG = "reference", "mutant:rope/convention-swapped"
TEXT = "In the beginning God created the heaven and the earth. And the earth was without form, and void"
VIEWS = {
    "light": (1000, "light", "h1", "#d0 h3:nth-of-type(3)"),
    "dark": (1000, "dark", "#d0 .positions", "#d0 .tokens"),
    "grid": (1000, "light", "section[data-kind=trace] h2", "section[data-kind=trace] .legend"),
    "phone": (360, "light", "#d0 .positions", "#d0 .tokens"),
}
"""Picture → width, colours, and what its first and last line are of."""
COLOURS, LARGEST = 128, 150_000
"""Of a picture, and its bytes."""


def kparity(folder: Path, *arguments: str) -> None:
    """One command; a gate may fail, that being what is shown."""
    done = subprocess.run([sys.executable, "-m", "kparity", *arguments], cwd=folder, check=False)
    if done.returncode > 1:
        raise SystemExit(f"kparity {' '.join(arguments)} ended with {done.returncode}")


def made(folder: Path) -> Path:
    """The page of the pair."""
    kparity(folder, "ladder", "--ref", RIGHT, "--cand", WRONG, "--positions", "256", "--keep-going", "-q",
            "--json", "ladder.json")  # fmt: skip
    for name, engine in (("right", RIGHT), ("wrong", WRONG)):
        kparity(folder, "trace", "capture", "-e", engine, "--prompt", TEXT, "--tensors", "-o", f"{name}.trace", "-q")
    kparity(folder, "trace", "diff", "wrong.trace", "right.trace", "-q", "--json", "trace.json")
    kparity(folder, "bisect", "--ref", RIGHT, "--cand", WRONG, "-q", "--json", "bisect.json")
    kparity(folder, "probe", "--require", "cpu", "-q", "--receipt", "receipt.json")
    kparity(folder, "report", ".", "-o", "report.html")
    return folder / "report.html"


def picture(browser: Any, page: Path, width: int, scheme: str, first: str, last: str) -> bytes:
    """PNG of the page from one element to another, in few colours."""
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    view.goto(page.as_uri())
    top, low = (view.locator(each).first.bounding_box() for each in (first, last))
    clip = {"x": 0, "y": top["y"] - 2, "width": width, "height": low["y"] + low["height"] - top["y"] + 14}
    raw, small = view.screenshot(full_page=True, clip=clip), io.BytesIO()
    view.close()
    image = import_module("PIL.Image").open(io.BytesIO(raw)).convert("RGB")
    image.quantize(COLOURS, dither=0).save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> int:
    """Make them; exit code 1 where one is too large."""
    code, playwright = 0, import_module("playwright.sync_api")
    with tempfile.TemporaryDirectory() as folder, playwright.sync_playwright() as library:
        page, browser = made(Path(folder)), library.chromium.launch(executable_path=shutil.which("chromium"))
        for name, view in VIEWS.items():
            data = picture(browser, page, *view)
            (DOCS / f"report-{name}.png").write_bytes(data)
            code |= len(data) > LARGEST
            print(f"docs/report-{name}.png: {len(data)} bytes")
    return code


if __name__ == "__main__":
    sys.exit(main())
