#!/bin/sh
# Runs the tests of the native module on a build with AddressSanitizer and UndefinedBehaviorSanitizer (GCC):
#
#   sh tools/sanitize.sh [TESTS]      in an environment of `setup.sh test`; the build takes three minutes on two cores
set -eu
cd "$(dirname "$0")/.."
root=$PWD
[ $# -gt 0 ] || set -- tests/test_cpu.py tests/test_repack.py tests/test_compare.py tests/test_gguf_hostile.py \
    tests/test_ops.py tests/test_engine.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
CXX=g++ CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1" \
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --config-settings=cmake.build-type=Debug --config-settings=build-dir="$work/build" --target "$work/site" .
cp -r tests pyproject.toml "$work" # away from the checkout, whose own kparity/ would be found first
ln -s "$root/csrc" "$work/csrc"
cd "$work"
# Leaks are the interpreter's: it frees little at its end. The finder of an editable install would win over the build.
ASAN_OPTIONS=detect_leaks=0 KPARITY_BACKENDS=cpu \
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
    "$root/.venv/bin/python" -c '
import sys
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, "site")
import pytest
from kparity import _native
assert "/site/" in _native.__file__, _native.__file__
sys.exit(pytest.main(sys.argv[1:]))' -q -p no:cacheprovider "$@"
