"""The laws of the house, read from the source: each rule names its violations, and fails on a bad example."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kparity import errors, ops
from kparity.device import registry

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ("kparity", "backends", "kernels")
SOURCES = (*PACKAGE, "csrc", "tests", "bench", "tools", "training")
LONGEST = 500
WIDEST = 120
VENDORS = {"cupy", "cupy_backends", "wgpu", "pyopencl", "torch"}
HEAVY = {*VENDORS, "click", "rich", "yaml", "jsonschema", "tokenizers", "gguf", "kparity._native"}

# Imports point down, or stay in their room: one floor a room, from the ground up.
ROOMS = (
    "data", "_native", "errors", "host", "process", "ptx", "ops", "numerics", "device", "backends", "kernels",
    "model", "engine", "plain", "engines", "contracts", "traces", "testing", "watch", "gates", "ladder", "diagnose",
    "probe", "check", "bisect", "receipts", "serve", "bench", "mutate", "burnin", "fleet", "doctor", "report",
    "pytest_plugin", "cli", "__main__",
)  # fmt: skip
FLOORS = {room: floor for floor, room in enumerate(ROOMS)}


@cache
def files(*suffixes: str) -> dict[str, str]:
    """Path in the repository -> text, of the sources with these suffixes."""
    found = {}
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return found


def packaged(texts: dict[str, str]) -> dict[str, str]:
    return {path: text for path, text in texts.items() if path.split("/")[0] in PACKAGE}


def imports(text: str, inside: str = "") -> Iterator[tuple[str, bool]]:
    """Every module that a text imports, with whether it does at module level; ``from a import b`` gives ``a.b``."""
    tree = ast.parse(text)
    nested = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in nested) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside.split(".")[: -node.level]) + "." if node.level else ""
            module = base + (node.module or "")
            yield from ((f"{module}.{alias.name}".replace("..", "."), id(node) not in nested) for alias in node.names)


def module_of(path: str) -> str:
    """``backends/cuda.py`` -> ``kparity.backends.cuda``."""
    parts = list(Path(path).with_suffix("").parts)
    parts = parts if parts[0] == "kparity" else ["kparity", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int | None:
    """The floor of a module of the package; None for the package itself and for what is not listed."""
    parts = module.split(".")
    return FLOORS.get(parts[1]) if parts[0] == "kparity" and len(parts) > 1 else None


def upward_imports(texts: dict[str, str]) -> list[str]:
    """Imports from a higher floor, and modules without a floor."""
    found = []
    for path, text in packaged(texts).items():
        if path == "kparity/__init__.py":  # the front door names what is behind it, and imports it when it is used
            continue
        here = floor_of(module_of(path))
        if here is None:
            found.append(f"{path}: no floor; add it to FLOORS")
            continue
        for module, _ in imports(text, module_of(path)):
            there = floor_of(module)
            if there is not None and there > here:
                found.append(f"{path} (floor {here}) imports {module} (floor {there})")
    return found


def strange_neighbours(texts: dict[str, str]) -> list[str]:
    """Kernels that see another op or a backend, backends that import a kernel, anything that imports the CLI."""
    found = []
    for path, text in packaged(texts).items():
        folder, _, rest = path.partition("/")
        for module, _ in imports(text, module_of(path)):
            parts = module.split(".")
            if parts[:2] == ["kparity", "kernels"] and folder == "kernels":
                wrong = len(parts) < 3 or parts[2] not in ("support", rest.split("/")[0])
            elif parts[:2] == ["kparity", "cli"]:
                wrong = not path.startswith(("kparity/cli/", "kparity/__main__.py"))
            else:
                wrong = {folder, *parts[1:2]} == {"backends", "kernels"} and parts[0] == "kparity"
            if wrong:
                found.append(f"{path} imports {module}")
    return found


def vendor_imports(texts: dict[str, str]) -> list[str]:
    """Vendor libraries outside of ``backends/``, or imported before a backend is opened."""
    return [
        f"{path} imports {module}" + (" at module level" if path.startswith("backends/") else "")
        for path, text in packaged(texts).items()
        for module, at_module_level in imports(text)
        if module.split(".")[0] in VENDORS and (at_module_level or not path.startswith("backends/"))
    ]


def bare_imports(texts: dict[str, str]) -> list[str]:
    """``import backends``: works in a checkout and fails from a wheel."""
    return [
        f"{path} imports {module}"
        for path, text in texts.items()
        for module, _ in imports(text)
        if module.split(".")[0] in ("backends", "kernels")
    ]


OTHER_NAMES = re.compile(r"kind|dialect|\.type\b|stem|baselines")
"""What may be called like a backend: kinds of devices, dialects, torch's devices, files of ``csrc/``, baselines."""


def named_backends(texts: dict[str, str]) -> list[str]:
    """Comparisons with the name of a backend, and tables of such names: what is true of one stands in its class."""
    found = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if path.startswith("kparity/") else ():
            if isinstance(node, (ast.Compare, ast.MatchValue)):
                parts, least = list(ast.walk(node)), 1
            elif isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
                parts, least = node.keys if isinstance(node, ast.Dict) else node.elts, 2
            else:
                continue
            words = [part.value for part in parts if isinstance(part, ast.Constant)]
            other = "gpu" in words if least == 2 else OTHER_NAMES.search(ast.unparse(node))  # no backend is called gpu
            if len(set(words) & set(registry.BUILTIN)) >= least and not other:
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)[:80]}")
    return found


def too_long(texts: dict[str, str]) -> list[str]:
    return [f"{path}: {lines} lines" for path, text in texts.items() if (lines := text.count("\n")) >= LONGEST]


GENERATED = {
    "docs/performance.md", "docs/diagnose.md", "docs/mutation.md", "docs/mutation-ptx.md", "docs/false_alarms.md",
    "docs/harness.md",
}  # fmt: skip
"""Pages that a script writes."""


def too_wide(texts: dict[str, str]) -> list[str]:
    """Lines of more than 120 characters; of Markdown without tables, and without what programs print."""
    found = []
    for path, text in texts.items():
        if path.endswith(".md"):
            text = re.sub(
                r"^```.*?^```|^\|.*?$|^    .*?$", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S
            )
        lines = enumerate(text.splitlines(), 1)
        found += [f"{path}:{number}: {len(line)} characters" for number, line in lines if len(line) > WIDEST]
    return found


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.S))


WAVEFRONT = re.compile(
    r"[%/]\s*(?:32|64)u?\b|&\s*(?:31|63|0x1f|0x3f)u?\b|>>\s*[56]u?\b|\bwarpSize\b|\b__(?:shfl|ballot|any|all|activemask|syncwarp)",
    re.I,
)
DIALECT = re.compile(
    r"\b(?:threadIdx|blockIdx|blockDim|__global__|__shared__|__device__|__syncthreads|get_(?:global|local|group)_id|__kernel|barrier)\b"
)


def matches(pattern: re.Pattern[str], texts: dict[str, str]) -> list[str]:
    """Lines of GPU texts that a pattern finds outside of comments."""
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts.items()
        for number, line in enumerate(without_comments(text).splitlines(), 1)
        if pattern.search(line)
    ]


def undocumented(texts: dict[str, str]) -> list[str]:
    """Public classes and functions without a docstring; methods, where the class is nobody's subclass."""
    found = []
    for path, text in packaged(texts).items():
        tree = ast.parse(text)
        if text.strip() and not ast.get_docstring(tree):
            found.append(f"{path}: no docstring")
        public = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        for node in list(public):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not node.bases:
                public += [method for method in node.body if isinstance(method, ast.FunctionDef)]
        found += [
            f"{path}:{node.lineno}: {node.name} has no docstring"
            for node in public
            if not node.name.startswith("_") and not ast.get_docstring(node)
        ]
    return found


GOOD_AND_BAD = [
    (upward_imports, "kparity/ops/spec.py", "from kparity.errors import BadModel", "from kparity.engine import Engine"),
    (upward_imports, "kparity/numerics/compare.py", "import kparity.ops.spec", "import kparity.device.registry"),
    (upward_imports, "kparity/model/decode.py", "from . import layout", "from ..probe import gates"),
    (upward_imports, "kparity/gates/bos.py", "import kparity.errors", "def f():\n    from kparity import cli"),
    (upward_imports, "kparity/unheard_of.py", None, "import os"),
    (strange_neighbours, "kernels/rope/__init__.py",
     "from kparity.kernels.support import U32", "from kparity.kernels.add import OP"),
    (strange_neighbours, "kernels/rope/__init__.py",
     "from kparity.ops.spec import Op", "from kparity.backends import numpy"),
    (strange_neighbours, "backends/cuda.py", "from kparity import assemble", "from kparity.kernels import rope"),
    (strange_neighbours, "kparity/engine/engine.py", "from kparity import ops", "from kparity.cli.main import main"),
    (vendor_imports, "kparity/engine/engine.py", "import numpy", "def f():\n    import torch.nn"),
    (vendor_imports, "backends/cuda.py", "def f():\n    import cupy", "from cupy import cuda"),
    (bare_imports, "tests/test_x.py", "import kparity.backends", "import backends.numpy"),
    (bare_imports, "kparity/engine/engine.py", "from kparity import kernels", "from kernels.rope import OP"),
    (named_backends, "kparity/x.py", "if info.kind == 'cpu': pass", "if backend.name == 'cpu': pass"),
    (named_backends, "kparity/x.py", "open_backend('cpu')", "if name in ('cuda', 'other'): pass"),
    (named_backends, "kparity/x.py", "A = {'gpu': 1, 'torch': 2, 'numpy': 3}", "A = {'torch': 2, 'numpy': 3}"),
    (named_backends, "kparity/x.py", None, "match name:\n    case 'wgpu': pass"),
    (too_long, "csrc/x.cpp", "\n" * 499, "\n" * 500),
    (too_wide, "csrc/x.h", "// " + "x" * 117, "// " + "x" * 118),
    (too_wide, "x.md", f"```\n{'x' * 121}\n```\n| {'x' * 121}", f"```\n```\n{'x' * 121}"),
    (undocumented, "kparity/x.py", '"""X."""\ndef _f(): ...', '"""X."""\ndef f(): ...'),
    (undocumented, "kparity/x.py", '"""X."""\nclass A(B):\n    """A."""\n    def f(self): ...',
     '"""X."""\nclass A:\n    """A."""\n    def f(self): ...'),
    (undocumented, "kparity/x.py", "", "import os"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "path", "good", "bad"), GOOD_AND_BAD)
def test_each_rule_tells_good_from_bad(rule, path: str, good: str | None, bad: str) -> None:
    assert good is None or rule({path: good}) == []
    assert rule({path: bad})


@pytest.mark.parametrize(
    "bad", ["lane % 32", "lane / 64u", "lane & 31u", "x >> 5", "warpSize", "__shfl_down_sync(m, v, 1)", "__ballot(p)"]
)
def test_the_wavefront_pattern_tells_good_from_bad(bad: str) -> None:
    assert matches(WAVEFRONT, {"x.cu": f"int a = {bad};"})
    assert not matches(WAVEFRONT, {"x.cu": f"/* {bad}\n {bad} */ int a = lane % LANES; // {bad}"})
    assert matches(DIALECT, {"x.cu": "int i = threadIdx.x;"}) and not matches(DIALECT, {"x.cu": "BARRIER();"})


@pytest.mark.parametrize(
    "rule", [upward_imports, strange_neighbours, vendor_imports, bare_imports, named_backends, undocumented]
)
def test_python_keeps_the_rules(rule) -> None:
    assert len(files(".py")) > 30
    assert rule(files(".py")) == []


def test_files_are_short() -> None:
    assert too_long(files(".py", ".cpp", ".h", ".cu", ".wgsl")) == []


def test_lines_are_short() -> None:
    """Of what no formatter formats: ruff holds the lines of Python."""
    pages = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in prose()}
    assert len(pages) > 8
    assert too_wide({**files(".cpp", ".h", ".cu", ".wgsl"), **pages}) == []


def prose() -> list[Path]:
    """The Markdown of the repository that people write."""
    found = [ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in ("docs", "bench", "examples"))]
    return [path for paths in found for path in paths if path.relative_to(ROOT).as_posix() not in GENERATED]


def test_gpu_texts_know_no_wavefront_and_no_dialect() -> None:
    texts = packaged(files(".cu"))
    assert len(texts) >= len(ops.NAMES)
    assert matches(WAVEFRONT, texts) == []
    assert matches(DIALECT, texts) == []


def test_every_op_has_a_text_in_every_dialect() -> None:
    folders = {path.parent.name for path in (ROOT / "kernels").glob("*/__init__.py")} - {"prelude"}
    assert folders == {*ops.BUILTIN}
    missing = [
        f"kernels/{op}/{name}"
        for op in ops.NAMES
        for name in ("__init__.py", f"{op}.cu", f"{op}.wgsl", f"{op}.h", f"{op}_torch.py")
        if not (ROOT / "kernels" / op / name).is_file()
    ]
    assert missing == []
    for prelude in ("cuda", "hip", "opencl"):
        assert (ROOT / "kernels" / "prelude" / f"{prelude}.h").is_file()


def test_every_backend_is_one_file_of_its_name() -> None:
    stems = {path.stem for path in (ROOT / "backends").glob("[!_]*.py")}
    assert {stem.replace("_", "-") for stem in stems} >= set(registry.BUILTIN)
    for name in registry.BUILTIN:
        found = registry.backend_class(name)
        assert found.name == name and found.__module__ == f"kparity.backends.{name.replace('-', '_')}"
        assert found.dialect in ("gpu", "wgsl", "native", "torch", "numpy")


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, kparity; print([m for m in {sorted(HEAVY)} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


def test_the_exception_tree_is_what_it_says() -> None:
    public = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    tree = re.findall(r"^[ │├└─]*(\w+)  ", errors.__doc__ or "", flags=re.M)
    assert set(tree) == set(public), "the tree at the top of errors.py does not show every class once"
    for name, value in public.items():
        assert issubclass(value, errors.KparityError), name
        assert value.__doc__ and value.exit_code in (2, 3), name
    assert issubclass(errors.BadModel, errors.WrongInput) and errors.Refused.exit_code == 3
    nearest = errors.UnknownName("backend", "wgpuu", ["cpu", "wgpu"])
    assert nearest.nearest == "wgpu" and "did you mean 'wgpu'" in str(nearest)
    assert errors.UnknownName("backend", "zzz", ["cpu"]).nearest is None
    missing = errors.Unavailable("no driver", "install it", "KP-X")
    assert str(missing) == "no driver; install it" and missing.code == "KP-X"
    failed = errors.CompileFailed("kernels/a/a.cu", 3, "\n  undeclared x \nmore")
    assert str(failed) == "kernels/a/a.cu:3: undeclared x"
