#!/bin/sh
# Fills the two folders that bench/on_gpu.sh takes to a GPU host without network:
#
#   sh bench/pack_gpu.sh [--full] [DIR]      DIR/.whl: wheels, COMMIT, COMMIT.tree    DIR/.gl: loaders of Vulkan and OpenGL (.deb)
#
# DIR is the checkout without an argument; both folders are git-ignored there. The host is x86-64 Linux with its own
# torch and CuPy (CuPy's wheel alone has 66 MiB and is not packed). Without --full only what a host with a scientific
# Python lacks is packed: wgpu, pyopencl, gguf, msgspec, jsonschema and what these need. --full packs every dependency
# and the build tools, CuPy and torch excepted. HOST_PYTHON is the host's Python version (3.12). Existing folders are
# emptied first.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
host_python=${HOST_PYTHON:-3.12}
python=${PYTHON:-python3}
[ ! -x "$root/.venv/bin/python" ] || python=${PYTHON:-$root/.venv/bin/python}

lean="wgpu rendercanvas cffi pycparser pyopencl pytools platformdirs siphash24 typing_extensions gguf tqdm requests msgspec
      jsonschema jsonschema-specifications referencing rpds-py attrs"
full="numpy click rich markdown-it-py mdurl pygments PyYAML tokenizers huggingface_hub pytest pluggy iniconfig packaging hypothesis
      sortedcontainers scikit-build-core pathspec pybind11 ninja cmake"
loaders="libvulkan1 libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2"
x11="libx11-6 libxext6 libxcb1 libxau6 libxdmcp6 libbsd0 libmd0" # NVIDIA's Vulkan driver is linked to them on some hosts

say() { printf 'pack: %s\n' "$*" >&2; }

names=$lean
dir=$root
for argument in "$@"; do
    case $argument in
    --full) names="$lean $full" ;;
    -*)
        say "usage: sh bench/pack_gpu.sh [--full] [DIR]"
        exit 2
        ;;
    *) dir=$argument ;;
    esac
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rm -rf "$dir/.whl" "$dir/.gl"
mkdir -p "$dir/.whl" "$dir/.gl"

platforms=
for tag in manylinux_2_39 manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 \
    manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
    platforms="$platforms --platform ${tag}_x86_64"
done
# shellcheck disable=SC2086 # lists of words
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$host_python" $platforms -d "$dir/.whl" $names 2>&1 | grep -v 'is ignored: it is neither' >&2 || true
packed=$(find "$dir/.whl" -type f -name '*.whl' | wc -l)
# shellcheck disable=SC2086
set -- $names
if [ "$packed" -ne $# ]; then
    say "$packed wheels for $# names: a download failed"
    exit 1
fi

# The package lists stay in a folder of their own, so that this works for any user and on any processor.
if command -v apt-get >/dev/null 2>&1; then
    lists=$(mktemp -d)
    trap 'rm -rf "$lists"' EXIT
    mkdir -p "$lists/lists/partial"
    options="-oAPT::Architecture=amd64 -oAPT::Architectures=amd64 -oDir::State::Lists=$lists/lists -oAPT::Sandbox::User="
    # shellcheck disable=SC2086
    apt-get -qq $options update && (cd "$dir/.gl" && apt-get -qq $options download $loaders $x11) || say "the loaders could not be fetched"
    for deb in "$dir"/.gl/*%*; do # an epoch in the name: only plain letters survive every way of copying
        [ ! -e "$deb" ] || mv "$deb" "$(printf '%s' "$deb" | sed 's/_[0-9]*%3a/_/')"
    done
else
    say "no apt-get here: .gl stays empty, and the host needs a Vulkan loader of its own"
fi

# What is measured is bound to a commit; the blob ids let the host say which files are not the commit's.
if git -C "$root" rev-parse HEAD >"$dir/.whl/COMMIT" 2>/dev/null; then
    git -C "$root" ls-tree -r --full-tree HEAD >"$dir/.whl/COMMIT.tree"
else
    rm -f "$dir/.whl/COMMIT"
    say "no git checkout: the host cannot tell the commit"
fi

for folder in .whl .gl; do
    bytes=$(find "$dir/$folder" -type f -exec cat {} + | wc -c)
    say "$dir/$folder: $(find "$dir/$folder" -type f | wc -l) files, $((bytes / 1024)) KiB"
done
