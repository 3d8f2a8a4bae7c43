#!/bin/bash
# Turns a Linux host with a GPU and no network into evidence: builds, tests, probes, benchmarks, and writes receipts to
# a folder.
#
#   bash bench/on_gpu.sh [--smoke] [--part 1|2|3] OUT
#
# In parts where a call may not take long: 1 is the kernels right (tests, op parity, probes, resources, rates), 2 the
# numbers (ops, decode, one change against the other), 3 what takes longest (other backends, sanitizers, counters, every
# case). Each ends within BUDGET seconds (520); the second and third take the build of the first where it is still there
# and of the same sources, and build again otherwise. Without --part all three, one after the other.
#
# OUT gets at most eight files a part: summary_N.json, logs_N.tar.gz, and receipts. The table of a part is printed last.
# Exit code 0: every required step passed; 1: one failed; 2: usage.
#
#   WHEELS   folder of wheels for what the host's Python lacks, with COMMIT (default: .whl of the checkout; bench/pack_gpu.sh fills it)
#   DEBS     folder of .deb files with the Vulkan loader (default: .gl of the checkout)
#   PYTHON   an interpreter that has torch and CuPy (default: python3); nothing that it has is installed again or changed
#   SHAPE    shape of the decode benchmark (default: 2b-4t)
#
# --smoke tries the script where there is no GPU: tiny shapes and few samples, and the steps that need one report that
# it is absent. Clocks, power and modes of the device are read and never set.
set -u
smoke=
parts="1 2 3"
out=
usage() {
    echo "usage: bash bench/on_gpu.sh [--smoke] [--part 1|2|3] OUT" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --smoke) smoke=--smoke ;;
    --part)
        [[ ${2:-} =~ ^[123]$ ]] || usage
        parts=$2
        shift
        ;;
    -*) usage ;;
    *) out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || usage
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
work=${TMPDIR:-/tmp}/kparity-gpu.$(id -u) # a part finds what the part before it has built
mkdir -p -m 700 "$work" && [ -O "$work" ] || exit 2
logs=$work/logs
site=$work/site
steps=$logs/steps.tsv
mkdir -p "$site"
python=$(command -v "${PYTHON:-python3}") || {
    echo "on_gpu: no ${PYTHON:-python3}" >&2
    exit 2
}
budget=${BUDGET:-520}
shape=${SHAPE:-2b-4t}
export WHEELS=${WHEELS:-$root/.whl} PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=$work/pyc PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export XDG_CACHE_HOME=$work/cache PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
debs=${DEBS:-$root/.gl}
[ -z "$smoke" ] || export OMP_NUM_THREADS=1 # torch's threads wait for each other longer than tiny tensors take
cleanup() {
    # shellcheck disable=SC2046 # job ids
    kill $(jobs -p) 2>/dev/null
    [[ $parts != *3 ]] || rm -rf "$work"
}
trap cleanup EXIT

left() { echo $((budget - (SECONDS - started))); }

# note NAME required|optional CODE SECONDS LOG: one line for the summary.
note() { printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$5" >>"$steps"; }

# absent NAME required|optional REASON: a step that cannot run here is a row of its own.
absent() {
    echo "$3" >"$logs/$1.log"
    note "$1" "$2" 77 0 "$1.log"
    printf '== %s: absent: %s\n' "$1" "$3"
}

# step NAME required|optional LIMIT COMMAND...: run it within its limit and what is left of the whole, keep its log, go
# on.
step() {
    local name=$1 need=$2 limit=$3 began=$SECONDS code rest
    shift 3
    rest=$(left)
    if [ "$rest" -lt 8 ]; then
        echo "no time left" >"$logs/$name.log"
        note "$name" "$need" 124 0 "$name.log"
        return
    fi
    [ "$limit" -le "$rest" ] || limit=$rest
    printf '== %s (at %d s, limit %d s)\n' "$name" $((SECONDS - started)) "$limit"
    (cd "$work" && timeout -k 5 "$limit" "$@") >"$logs/$name.log" 2>&1
    code=$?
    # Exit code 3 of a backend that is not there: absent, which is no proof of anything.
    if [ "$code" -eq 3 ] && grep -q "\[KP-[A-Z]*-NO" "$logs/$name.log"; then code=77; fi
    note "$name" "$need" "$code" $((SECONDS - began)) "$name.log"
    [ "$code" -eq 0 ] || tail -n 4 "$logs/$name.log" | LC_ALL=C tr -cd '\11\12\40-\176' | cut -c1-200 | sed 's/^/   /'
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- what the host has and lacks ---

# Loaders are unpacked beside the system's own, and only those that the system has not.
loaders() {
    local deb library
    mkdir -p "$work/gl"
    for deb in "$debs"/*.deb; do
        [ -e "$deb" ] || continue
        if have dpkg; then
            dpkg -x "$deb" "$work/gl"
        else
            (cd "$work" && ar x "$deb" && tar -xf data.tar.* -C "$work/gl" && rm -f data.tar.* control.tar.* debian-binary)
        fi
    done
    mkdir -p "$work/lib"
    find "$work/gl" -type l -name '*.so.*' | while read -r library; do # the links bear the names that programs ask for
        (ldconfig -p 2>/dev/null || /sbin/ldconfig -p) | grep -q "[[:space:]]$(basename "$library") " ||
            cp -L "$library" "$work/lib/"
    done
    export LD_LIBRARY_PATH=$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    # Containers have the driver's libraries without its manifests, or in a folder of their own.
    if [ -z "${VK_DRIVER_FILES:-}" ] && ! ls /etc/vulkan/icd.d/nvidia* /usr/share/vulkan/icd.d/nvidia* >/dev/null 2>&1; then
        for manifest in /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json /usr/local/nvidia/vulkan/icd.d/nvidia_icd.json; do
            [ ! -e "$manifest" ] || export VK_DRIVER_FILES=$manifest
        done
    fi
    if [ -z "${OCL_ICD_VENDORS:-}" ] && ! ls /etc/OpenCL/vendors/nvidia* >/dev/null 2>&1; then
        for library in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/local/cuda/lib64; do
            if [ -e "$library/libnvidia-opencl.so.1" ]; then
                mkdir -p "$work/vendors"
                echo "$library/libnvidia-opencl.so.1" >"$work/vendors/nvidia.icd"
                export OCL_ICD_VENDORS=$work/vendors
                break
            fi
        done
    fi
    echo "added: $(ls "$work/lib" | tr '\n' ' ')"
    echo "VK_DRIVER_FILES=${VK_DRIVER_FILES:-} OCL_ICD_VENDORS=${OCL_ICD_VENDORS:-}"
}

# Wheels of what this Python lacks; what it has stays as it is.
wheels() {
    "$python" - "$WHEELS" >"$work/wanted" <<'END'
import sys
from importlib import metadata
from pathlib import Path

for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
    try:
        metadata.version(wheel.name.split("-")[0])
    except metadata.PackageNotFoundError:
        print(wheel)
END
    [ -s "$work/wanted" ] || return 0
    sed 's|.*/|install |' "$work/wanted"
    xargs -d '\n' "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" <"$work/wanted"
}

# The package itself, for this Python; nothing is fetched. Not again for sources that are built.
build() {
    local sources
    sources=$(cd "$root" && find CMakeLists.txt pyproject.toml kparity backends kernels csrc -type f ! -name '*.pyc' -print0 | sort -z |
        xargs -0 sha256sum | sha256sum)
    [ "$(cat "$work/built" 2>/dev/null)" != "$sources" ] || { echo "built before" && return 0; }
    "$python" -m pip install -q --no-index --no-deps --no-build-isolation --no-compile --no-cache-dir --target "$site" --upgrade \
        --config-settings=build-dir="$work/build" "$root" &&
        "$python" -c 'import kparity, kparity._native; print("built", kparity.__version__, kparity.__file__)' &&
        echo "$sources" >"$work/built"
}

facts() {
    nvidia-smi && nvidia-smi -q -d MEMORY,CLOCK,PERFORMANCE,TEMPERATURE,POWER,ECC
}

host() {
    uname -a
    cat /etc/os-release
    nproc
    grep -m1 'model name' /proc/cpuinfo
    free -g
    "$python" --version
    "$python" -m pip list 2>/dev/null | grep -iE '^(numpy|torch|cupy|cuda|nvidia-cuda|wgpu|pyopencl|pytest|gguf|tokenizers|scikit-build|pybind11|cmake|ninja) ?' |
        cat
    nvcc --version 2>/dev/null | tail -n 2
}

# --- the steps ---

export -f wheels build
export python site work root
kparity=("$python" -m kparity.cli.main)
pytest=("$python" -m pytest -q -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml")
export PYTEST_ADDOPTS=--import-mode=append # what is tested is the package that was built, also in the tests' own children
bench=$root/bench
others=wgpu,opencl
probed=cuda,wgpu,opencl,torch
points=(--pp 32,128,512 --tg 0,512,2048 --seconds 20)
cases="step or large"
few=(--quick)
gpu_marks=required
rounds=4096
if [ -n "$smoke" ]; then
    shape=tiny
    others=opencl
    probed=cuda,opencl
    points=(--pp 16 --tg 0 --seconds 1)
    cases="add and D=1,"
    few=(--quick -o add)
    gpu_marks=optional
    rounds=2
fi

# What every part begins with: the host, the loaders, the package.
begin() {
    started=$SECONDS
    rm -rf "$logs" && mkdir -p "$logs"
    : >"$steps"
    host >"$logs/host.log" 2>&1
    loaders >"$logs/loaders.log" 2>&1
    if have nvidia-smi; then facts >"$logs/nvidia-smi.log" 2>&1; fi
    if [ -s "$logs/nvidia-smi.log" ]; then
        note nvidia-smi optional 0 0 ""
    else
        absent nvidia-smi optional "no nvidia-smi on this host"
    fi
    step build required 150 bash -c 'wheels && build'
}

# Is every kernel right, and is it the kernel that the compilers were asked about?
right() {
    # The model of the decode benchmark is written beside the tests, which leave processors free.
    (cd "$work" && timeout 150 "$python" -c 'import sys; from kparity.bench.shapes import model_file; print(model_file(sys.argv[1]))' "$shape") \
        >"$logs/model.log" 2>&1 &
    step preflight optional 40 "${kparity[@]}" preflight
    step first-look $gpu_marks 60 "$python" "$bench/first_look.py" --rounds $rounds --json "$out/first_look.json"
    step pytest-gpu $gpu_marks 90 env KPARITY_REQUIRE=cuda KPARITY_BACKENDS=cuda "${pytest[@]}" -m gpu "$root/tests"
    # Each backend in a process of its own, side by side: a driver that takes its process down takes no other along.
    local backend need running=()
    for backend in cuda torch wgpu opencl; do
        need=optional
        [ "$backend" != cuda ] || need=required
        step "op-parity-$backend" $need 150 env XDG_CACHE_HOME="$work/cache-$backend" \
            "${kparity[@]}" check -b $backend "${few[@]}" --json "$logs/check-$backend.json" &
        running+=($!)
    done
    wait "${running[@]}"
    step probe-cuda required 60 "${kparity[@]}" probe --require cuda --receipt "$out/probe_cuda.json"
    # shellcheck disable=SC2016 # expanded by the inner shell
    step probe-all optional 90 bash -c 'out=$1; shift; "$@" >"$out"' probe "$out/probe_all.json" \
        "${kparity[@]}" probe --backends $probed --json
    wait
}

# How fast, with the machine to itself; and what one change gives.
fast() {
    step bench-ops required 120 "${kparity[@]}" bench --ops "$cases" --backends cuda --baseline torch --json "$out/ops_cuda.json"
    step bench-decode required 150 "${kparity[@]}" bench --backends cuda --require-gpu --shape "$shape" "${points[@]}" \
        --receipt "$out/decode_cuda.json"
    step receipt-decode $gpu_marks 20 "${kparity[@]}" receipt verify --require-gpu-kernels --require-parity "$out/decode_cuda.json"
    if [ -n "$smoke" ]; then
        step variants optional 100 "$python" "$bench/variants.py" --backend opencl --only whole-128 --shape $shape --seconds 0.1 --json "$out/variants.json"
    else
        step variants optional 200 "$python" "$bench/variants.py" --shape "$shape" --json "$out/variants.json"
    fi
}

# The other backends, sanitizers and counters, and every case with what time is left.
deep() {
    local tool running=() check=("$python" "$bench/once.py" --backend cuda --small 64)
    step bench-ops-others optional 60 "${kparity[@]}" bench --ops "$cases" --backends $others --json "$out/ops_others.json"
    step bench-decode-others optional 90 "${kparity[@]}" bench --backends $others --shape "$shape" "${points[@]}" \
        --receipt "$out/decode_others.json"
    if have compute-sanitizer && have nvidia-smi; then
        for tool in memcheck racecheck; do
            step "sanitizer-$tool" optional 100 compute-sanitizer --tool "$tool" --error-exitcode 9 "${check[@]}" &
            running+=($!)
        done
        wait "${running[@]}"
    else
        for tool in memcheck racecheck; do absent "sanitizer-$tool" optional "no compute-sanitizer, or no device"; done
    fi
    if have ncu && have nvidia-smi; then
        # --clock-control none: the profiler would fix the clocks otherwise. Its own flush makes every launch a cold one.
        step ncu optional 90 ncu --clock-control none --csv --target-processes all --kernel-name 'regex:tgemv|attention' --launch-count 90 \
            --metrics gpu__time_duration.sum,dram__bytes_read.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__throughput.avg.pct_of_peak_sustained_elapsed,sm__warps_active.avg.pct_of_peak_sustained_active,launch__registers_per_thread,launch__occupancy_limit_registers \
            "$python" "$bench/once.py" --backend cuda --expression "step or prefill"
    else
        absent ncu optional "no ncu, or no device"
    fi
    # The long list: what it has not come to is skipped, and says so.
    if have nvidia-smi && [ "$(left)" -gt 40 ]; then
        step sweep-cuda optional "$(left)" "${kparity[@]}" check -b cuda --max-seconds $(($(left) - 25)) --json "$logs/sweep-cuda.json"
    else
        absent sweep-cuda optional "no device, or no time left"
    fi
    if have nvidia-smi; then facts >"$logs/nvidia-smi-after.log" 2>&1; fi
}

# finish PART: summary, logs, table.
finish() {
    local code log
    "$python" "$bench/summary.py" "$out" --steps "$steps" --write "$out/summary_$1.json" >"$logs/summary.txt" 2>"$logs/summary.err"
    code=$?
    gzip -f "$logs"/*.json 2>/dev/null # every record of the checks
    cp "$work"/wanted "$logs/wheels.txt" 2>/dev/null
    for log in "$logs"/*; do # a log that ran away keeps its two ends
        if [ "$(wc -c <"$log")" -gt 4000000 ]; then
            { head -c 1500000 "$log"; printf '\n[...]\n'; tail -c 1500000 "$log"; } >"$log.cut" && mv "$log.cut" "$log"
        fi
    done
    tar -C "$work" -czf "$out/logs_$1.tar.gz" logs
    echo
    cat "$logs/summary.txt" "$logs/summary.err"
    printf 'part %s took %d s; receipts: %s\n' "$1" $((SECONDS - started)) "$(ls "$out" | tr '\n' ' ')"
    return $code
}

result=0
for part in $parts; do
    begin
    case $part in
    1) right ;;
    2) fast ;;
    3) deep ;;
    esac
    finish "$part" || result=1
done
exit $result
