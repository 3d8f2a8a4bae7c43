"""What a verdict depends on: digests of kernels, models and drivers, cheap enough for every answer."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlparse

import msgspec

from kparity.device import registry
from kparity.device.adapter import Backend
from kparity.device.declared import Declared
from kparity.errors import WrongInput
from kparity.host.files import LARGEST
from kparity.ops.assemble import file_of, uses

CODE = (".py", ".cu", ".wgsl", ".h")
"""How the sources end that take part in a computation."""
COMPUTING = (*CODE, ".cpp", ".so")
"""The same of files that another package brings."""

ENVIRONMENT = (
    "LD_*", "GLIBC_*", "MALLOC_*", "PYTHON*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "NPY_*", "XDG_DATA_*",
    "XDG_CONFIG_*",
)  # fmt: skip
"""Variables that choose other libraries or change how they compute, whatever the backend; its own are in its class."""
DRIVEN_BY = re.compile(r"\.(so[\d.]*|json|icd|conf)$")
"""How the files end that count in a folder which a variable names."""


def environment(names: Iterable[str]) -> dict[str, str]:
    """The variables that are set, of these names and prefixes (``VK_*``)."""
    patterns = tuple(names)
    return {name: os.environ[name] for name in sorted(os.environ) if any(fnmatchcase(name, p) for p in patterns)}


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _identity(path: Path) -> str:
    """Path, target, and what tells a change; the content too where the kernel makes it up."""
    if str(path).startswith(("/proc", "/sys")):
        return f"{path}={path.read_text(errors='replace')}"
    return f"{path}={path.resolve()}:{state(path)}"


def state(path: str | Path) -> str:
    """Size, inode and times of a file, one of which only the kernel sets; empty where there is none. Reads nothing."""
    try:
        status = Path(path).stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def loaded() -> dict[str, str]:
    """Path -> state of every module and library that this process has loaded, whoever asked for it; the modules of
    Python itself, which its version stands for, are left out.
    """
    own = sysconfig.get_path("stdlib")
    paths = {str(file) for each in [*sys.modules.values()] if (file := getattr(each, "__file__", None))}
    paths = {path for path in paths if not path.startswith(own) or "-packages" in path}
    maps = Path("/proc/self/maps")
    for line in maps.read_text(errors="replace").splitlines() if maps.exists() else ():
        fields = line.split(maxsplit=5)  # range, rights, offset, device, inode, path
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            paths.add(fields[5])
    return {path: found for path in sorted(paths) if (found := state(path))}


def _named_files(value: str) -> Iterator[str]:
    """The identities of files that a variable names, and of those of its folders that can be libraries or manifests."""
    for part in re.split(r"[:;, \t]+", value):
        path = Path(part)
        if not part or not path.is_absolute() or not path.exists():
            continue
        folder = path.is_dir() and os.access(path, os.R_OK)
        for each in sorted(path.iterdir()) if folder else [path]:
            if each.is_file() and (not folder or DRIVEN_BY.search(each.name)):
                yield _identity(each)
                if each.suffix in (".json", ".icd"):
                    yield from _named_libraries(each)


def _variables(names: Iterable[str]) -> Iterator[str]:
    """What is set, and the files that it names: another content under the same name is another value."""
    for name, value in environment(names).items():
        yield f"{name}={value}"
        if not name.startswith("PYTHON"):  # of its folders that counts which is loaded
            yield from _named_files(value)


def _named_libraries(manifest: Path) -> list[str]:
    """Libraries that an ICD manifest names, by their identity: a driver update changes them and not the manifest."""
    folders = ("", "/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/")
    names = re.findall(r"[\w./+-]+\.so[\w.]*", manifest.read_text(errors="replace"))
    places = ((Path(folder + name) for folder in folders) for name in names)
    libraries = (next((path for path in each if path.is_absolute() and path.exists()), None) for each in places)
    return [_identity(library) for library in libraries if library]


def drivers(backend: type[Backend] | Declared) -> str:
    """Digest of what drives a backend's devices: the variables that choose between them, driver files with their times,
    manifests and the libraries that they name, and the versions of its Python packages. Opens nothing.
    """
    parts = [*_variables(backend.environment)]
    parts += [f"{name}={version(name)}" for name in backend.packages]
    for pattern in (*backend.driver_files, *(f"{folder}/*" for folder in backend.manifests)):
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            parts.append(_identity(path))
            if str(path.parent) in backend.manifests and path.is_file():
                parts += _named_libraries(path)
    return _digest(parts)


def host() -> str:
    """Digest of the devices and drivers of this machine, without opening any of them: those of every backend of this
    package, PCI devices, processor and kernel, and the variables that change what libraries compute.
    """
    parts = [*_variables(("LD_*", "OMP_*", "OPENBLAS_CORETYPE"))]  # not what a command sets for itself
    parts += [
        platform.release(),
        platform.version(),
        sys.version,
        _cpu_model(),
        *map(drivers, registry.builtin().values()),
    ]
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        parts.append(":".join(_first_line(device / name) for name in ("vendor", "device", "class")) + f"@{device.name}")
    return _digest(parts)


def _first_line(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _cpu_model() -> str:
    text = _first_line(Path("/proc/cpuinfo"))
    keep = ("model name", "flags", "microcode", "Features")
    return "\n".join(dict.fromkeys(line for line in text.splitlines() if line.startswith(keep)))


def version(package: str) -> str:
    """Version of an installed distribution, or an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def sources() -> list[Path]:
    """Every file of the package that takes part in a computation."""
    paths: set[Path] = set()
    for package in ("kparity", "kparity.kernels", "kparity.backends"):
        # The file of a package, not its path: an editable install has several folders in the path of one package.
        spec = find_spec(package)
        if spec is not None and spec.origin:
            paths |= {path.resolve() for path in Path(spec.origin).parent.rglob("*")}
    return sorted(path for path in paths if path.suffix in (*CODE, ".yaml"))


@lru_cache(maxsize=1)
def _sources() -> list[str]:
    return [f"{path.name}={_sha256(path)}" for path in sources()]


def code() -> str:
    """Digest of every source of the package, the same wherever it was built and lies."""
    return _digest(sorted(_sources()))


def tree(folder: Path, pattern: str = "**/*") -> str:
    """Digest of the files with code in a folder, hidden ones left out; empty where there is none."""
    paths = [path.relative_to(folder) for path in sorted(folder.glob(pattern)) if path.suffix in COMPUTING]
    seen = [path for path in paths if not path.as_posix().startswith(".") and "/." not in path.as_posix()]
    sizes = [(path, (folder / path).stat().st_size) for path in seen if (folder / path).is_file()]
    parts = [f"{path}={_sha256(folder / path) if size <= LARGEST else size}" for path, size in sizes]
    return _digest(parts) if parts else ""


@lru_cache(maxsize=1)
def kernels() -> str:
    """Digest of everything that computes: kernel texts, adapters, graph, gates and the native module."""
    parts = list(_sources())
    native = find_spec("kparity._native")
    if native is not None and native.origin:
        parts.append(_sha256(Path(native.origin)))
    return _digest(parts)


def distribution(group: str, name: str) -> str:
    """Digest of the state of every file of the distributions that register a name in a group of entry points, in
    whatever folder it lies, and of the versions of what they require.
    """
    parts = []
    for entry in metadata.entry_points(group=group, name=name):
        if entry.dist is None:
            continue
        parts += [f"{path}={state(path)}" for path in sorted(_files(entry.dist, entry.module))]
        parts += [f"{each}={version(each)}" for each in _required(entry.dist)]
    return _digest(parts)


def _files(dist: metadata.Distribution, module: str) -> set[Path]:
    """The files of its record, of the folder that an editable install is of, and of the package of its entry point."""
    found = {Path(str(dist.locate_file(path))) for path in dist.files or ()}
    spec = find_spec(module.partition(".")[0])
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    found |= {Path(spec.origin)} if spec and spec.origin else set()
    told = msgspec.json.decode(dist.read_text("direct_url.json") or "{}")
    if told.get("dir_info", {}).get("editable"):
        folders.append(Path(unquote(urlparse(told["url"]).path)))
    for folder in folders:
        for path, inner, names in os.walk(folder):
            inner[:] = [each for each in inner if each[0] != "." and each not in ("__pycache__", "node_modules")]
            found |= {Path(path, name) for name in names}
    return {path for path in found if path.suffix != ".pyc"}


def _required(dist: metadata.Distribution) -> list[str]:
    """The names of what a distribution requires, and of what that does, extras left out."""
    found: list[str] = []
    waiting = [dist]
    for each in waiting:
        for line in each.requires or ():
            name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
            if name in found or "extra ==" in line:
                continue
            found.append(name)
            with suppress(metadata.PackageNotFoundError):
                waiting.append(metadata.distribution(name))
    return sorted(found)


def adapter(target: str) -> str:
    """Digest of modules and texts of the package that brings an adapter (``module:Class``), or empty."""
    spec = find_spec(target.partition(":")[0].partition(".")[0])
    if spec is None:
        return ""
    whole = Path(spec.origin or "")
    folders = [tree(Path(folder)) for folder in spec.submodule_search_locations or ()]
    return _digest(folders or [tree(whole.parent, whole.name)])


@lru_cache(maxsize=256)
def text_sha256(op_name: str, dialect: str, package: str = "kparity.kernels") -> str:
    """SHA-256 of the files that a kernel of an op is made from, in the dialect of its id (``cuda``, ``wgsl``,
    ``avx2``, …).

    GPU texts are taken with their prelude, they and WGSL with what they use, native kernels with the headers that
    theirs includes and with the native module, which is what runs. ``package`` holds the texts. Raises WrongInput
    where no backend of kparity has such ids, or the op has no text in the dialect.
    """
    language = next((each.dialect for each in registry.builtin().values() if dialect in each.kernel_dialects()), "")
    own = _origin(package).parent / (file_of(op_name, language) if language else dialect)
    if not own.is_file():
        raise WrongInput(f"{op_name} has no text in the dialect {dialect}: {own} is not there; check the kernel's id")
    preludes = _origin("kparity.kernels").parent / "prelude"
    files = _with_parts(preludes / f"{dialect}.h", preludes) if language == "gpu" else []
    files += [*_with_parts(own, preludes), *([_origin("kparity._native")] if language == "native" else [])]
    return _digest([f"{path.name}={_sha256(path)}" for path in files])


def _origin(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or not spec.origin:
        raise WrongInput(f"{module} is not installed; install the package that brings it")
    return Path(spec.origin)


def _with_parts(text: Path, preludes: Path) -> list[Path]:
    """A text with what it includes (``#include "…"``) and uses (``//#use …``), each once."""
    texts = [text]
    for each in texts:
        content = each.read_text(encoding="utf-8")
        named = [each.parent / name for name in re.findall(r'^#include "(.+)"$', content, re.MULTILINE)]
        named += [preludes.parent / path for path in uses(content, each.suffix[1:])]
        texts += [path for path in named if path.is_file() and path not in texts]
    return texts
