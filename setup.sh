#!/bin/sh
# Sets kparity up in .venv of this folder and does what it is told:
#
#   sh setup.sh probe [OPTIONS]   install what every command needs, from this folder (pip install -e '.[all]'), then
#                                 `kparity probe` (--backends cuda,wgpu,cpu without options)
#   sh setup.sh test [OPTIONS]    install with the development tools, then ruff, mypy and pytest (in one process with
#                                 OPTIONS, which are pytest's)
#
# What the system lacks (a C++ compiler, Python headers, a Vulkan driver) is installed through apt where that is
# possible without a password, and named otherwise. PYTHON chooses the interpreter (3.10 to 3.14).
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

say() { printf 'setup: %s\n' "$*" >&2; }

has_manifest() { find /usr/share/vulkan/icd.d /etc/vulkan/icd.d -name '*.json' 2>/dev/null | grep -q .; }

# Packages of Debian and Ubuntu that are missing here.
missing() {
    command -v "$python" >/dev/null 2>&1 || echo python3
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || echo python3-venv
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
        >/dev/null 2>&1 || echo python3-dev
    command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || echo g++
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || has_manifest || echo mesa-vulkan-drivers
}

provide() {
    supported
    wanted=$(missing | tr '\n' ' ')
    [ -n "$wanted" ] || return 0
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root="sudo -n"
    if command -v apt-get >/dev/null 2>&1 && $as_root true 2>/dev/null; then
        say "installing $wanted"
        $as_root apt-get update -qq
        # shellcheck disable=SC2086 # one word per package
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $wanted >/dev/null
    else
        say "please install: $wanted (Debian and Ubuntu: sudo apt-get install $wanted), then run this again"
        exit 2
    fi
}

supported() {
    command -v "$python" >/dev/null 2>&1 || return 0 # it is about to be installed
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || {
        say "$("$python" --version 2>&1) is not supported; set PYTHON to one of 3.10 to 3.14"
        exit 2
    }
}

install() {
    supported
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    say "installing kparity (this compiles its C++ part)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

check() {
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    if [ $# -gt 0 ]; then
        .venv/bin/python -m pytest "$@"
        return
    fi
    # Two processes for what can share the machine, with one thread each for matrices: threads that wait for each other
    # take half as long again. Then by itself what holds times against limits.
    code=0
    OPENBLAS_NUM_THREADS=1 \
        .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" || code=$?
    .venv/bin/python -m pytest -m alone || code=$?
    return $code
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
probe)
    provide
    install -e ".[all]"
    [ $# -gt 0 ] || set -- --backends cuda,wgpu,cpu
    exec .venv/bin/kparity probe "$@"
    ;;
test)
    provide
    install -e ".[dev]"
    check "$@"
    ;;
*)
    say "usage: sh setup.sh probe|test [OPTIONS]"
    exit 2
    ;;
esac
