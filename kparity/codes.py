"""Every reason for which a backend may not serve: a stable code, its cause, its remedy (``kparity explain CODE``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kparity.errors import UnknownName


@dataclass(frozen=True)
class Reason:
    """What stands behind a code."""

    title: str
    cause: str
    remedy: str


def _library(package: str, extra: str) -> Reason:
    return Reason(
        f"{package} is not installed",
        f"The adapter drives its API through the Python package {package}, which cannot be imported.",
        f'pip install "kparity[{extra}]"',
    )


def _compiler(name: str, what: str) -> Reason:
    return Reason(
        f"{name} is not here",
        f"The compile gates need {name} and did not find it.",
        f"Install {what}; no device is needed.",
    )


REASONS: dict[str, Reason] = {
    # A device that is not there.
    "KP-CPU-NONATIVE": Reason(
        "the native module is missing",
        "kparity was installed without its compiled part (kparity._native).",
        "Reinstall kparity with a C++17 compiler and CMake present: pip install --force-reinstall kparity",
    ),
    "KP-CPU-NODEVICE": Reason(
        "there is one CPU device",
        "An index above 0 was asked for; the CPU backend is the whole machine.",
        "Use index 0.",
    ),
    "KP-CUDA-NOLIB": _library("cupy-cuda13x", "cuda"),
    "KP-CUDA-NODRIVER": Reason(
        "no CUDA driver",
        "libcuda.so.1, which the NVIDIA driver installs, was not found by the dynamic linker.",
        "Install the NVIDIA driver; in a container, start it with the NVIDIA runtime (--gpus all).",
    ),
    "KP-CUDA-NODEVICE": Reason(
        "a CUDA driver, but no device",
        "No device has this index: none is installed, CUDA_VISIBLE_DEVICES hides it, or permissions do.",
        "Check nvidia-smi -L and CUDA_VISIBLE_DEVICES.",
    ),
    "KP-CUDA-OLDDRIVER": Reason(
        "the CUDA driver is older than the library",
        "CuPy was built for a newer CUDA than the installed driver serves.",
        "Update the NVIDIA driver, or install the CuPy build for the driver's CUDA version.",
    ),
    "KP-CUDA-NOARCH": Reason(
        "no code for this CUDA device",
        "NVRTC does not know the device's compute capability, or the driver does not load what NVRTC makes.",
        "Install the CuPy and NVRTC that fit device and driver (cupy-cuda12x up to sm_70), or update the driver.",
    ),
    "KP-HIP-NOLIB": _library("cupy-rocm-7-0", "rocm"),
    "KP-HIP-NOROCM": Reason(
        "no ROCm runtime",
        "libamdhip64.so was not found by the dynamic linker nor under /opt/rocm/lib.",
        "Install ROCm (its package hip-runtime-amd), or add its lib folder to the linker's path.",
    ),
    "KP-HIP-NOPERMISSION": Reason(
        "/dev/kfd cannot be opened",
        "The kernel driver is loaded, but this user may not use it.",
        "Add the user to the groups render and video: sudo usermod -aG render,video $USER; then log in again.",
    ),
    "KP-HIP-NODEVICE": Reason(
        "a ROCm runtime, but no device",
        "The runtime reports no device with this index, or /dev/kfd does not exist.",
        "Check rocminfo, the amdgpu kernel module and HIP_VISIBLE_DEVICES.",
    ),
    "KP-HIP-NOARCH": Reason(
        "no code for this AMD device",
        "hipRTC does not know the device's architecture, or the runtime does not load what hipRTC makes.",
        "Install a ROCm that supports the device, and the CuPy that goes with it.",
    ),
    "KP-WGPU-NOLIB": _library("wgpu", "vulkan"),
    "KP-WGPU-NODEVICE": Reason(
        "no Vulkan device",
        "wgpu found no adapter: no Vulkan driver (ICD) is installed or it failed to load.",
        "Install the vendor's driver; for a software device on Debian: sudo apt-get install mesa-vulkan-drivers",
    ),
    "KP-WGPU-LIMITS": Reason(
        "the adapter lacks something that the kernels need",
        "A limit of the adapter (bindings per stage, work-group size) is below what WebGPU's defaults promise.",
        "Use another adapter or a newer driver.",
    ),
    "KP-OPENCL-NOLIB": _library("pyopencl", "opencl"),
    "KP-OPENCL-NOPLATFORM": Reason(
        "no OpenCL platform",
        "The ICD loader found no driver under /etc/OpenCL/vendors or OCL_ICD_VENDORS.",
        "Install the vendor's OpenCL driver; for a CPU device: pip install pocl-binary-distribution",
    ),
    "KP-OPENCL-NODEVICE": Reason(
        "OpenCL platforms, but no device",
        "No platform reports a device with this index.",
        "Check clinfo -l.",
    ),
    "KP-TORCH-NOLIB": _library("torch", "torch"),
    "KP-TORCH-NODEVICE": Reason(
        "torch has no such device",
        "torch reports fewer devices than the index that was asked for.",
        "Use a lower index.",
    ),
    "KP-IMPORT": Reason(
        "the backend's module cannot be imported",
        "Importing the adapter, or a library that it needs, raised an error; the line quotes it.",
        "Repair or reinstall the library that the error names.",
    ),
    "KP-UNAVAILABLE": Reason(
        "the backend cannot be opened", "The adapter said why; the line quotes it.", "See the line."
    ),
    # A device that is not what it should be.
    "KP-NOT-GPU": Reason(
        "the device is not a GPU",
        "--require-gpu was given, and the device is a CPU or a software rasteriser (llvmpipe, SwiftShader, PoCL).",
        "Install the GPU's driver so that its device comes first, choose it by index, or drop --require-gpu.",
    ),
    "KP-FALSE-GPU": Reason(
        "the device is no GPU, whatever it says",
        "The adapter reports a GPU, but the device has the name of a software device, or the host has no GPU at all.",
        "Do not use this backend: its reports cannot be trusted.",
    ),
    "KP-UNSUPPORTED": Reason(
        "the device cannot run the model",
        "A kernel of the model needs more than the device grants (binding size, grid, threads); the line names it.",
        "Use another backend or a smaller model.",
    ),
    "KP-COMPILE": Reason(
        "a kernel does not compile on this device",
        "The device's compiler refused a kernel; the line names file and line.",
        "Update the driver; report the line with the driver's version.",
    ),
    "KP-COMPILE-NVCC": _compiler("nvcc", "CUDA's toolkit, and put its bin folder on PATH"),
    "KP-COMPILE-NVRTC": _compiler("NVRTC", "the Python package nvidia-cuda-nvrtc"),
    "KP-COMPILE-CLANG": _compiler("clang", "clang 19 or newer (Debian: clang-19 and lld-19)"),
    "KP-COMPILE-HIPRTC": _compiler("hipRTC", "ROCm's runtime compiler (Debian: libamdhip64-5 and libhiprtc-builtins5)"),
    # A wrong result.
    "KP-BOS-NONFINITE": Reason(
        "NaN or infinity in the first logits",
        "A kernel was not launched, read uninitialised memory, or overflowed (f16 with relu² does).",
        "kparity probe --json shows which gate fails first; do not use this backend with this driver.",
    ),
    "KP-BOS-COSINE": Reason(
        "the first logits are wrong",
        "At position 0 neither RoPE nor the mask matters: look at weight layout, scales, activation function, norms.",
        "Do not use this backend; compare the gate 'exact' in kparity probe --json.",
    ),
    "KP-EXACT-BITS": Reason(
        "integer accumulators differ",
        "Sums of ternary × int8 products are exact; a difference is a layout, tail, overflow or synchronisation error.",
        "Do not use this backend; the verdict names the shape and the first wrong element.",
    ),
    "KP-EXACT-SCALE": Reason(
        "right accumulators, wrong scales",
        "A weight scale or an activation scale is missing, swapped or rounded too early.",
        "Do not use this backend.",
    ),
    "KP-KERNEL": Reason(
        "a kernel is outside its error bound",
        "A kernel that serves gives more error on random inputs than its arithmetic can have; the norms around it may "
        "hide it from the logits.",
        "Do not use this backend; kparity check --op OP shows every case of the op that the verdict names.",
    ),
    "KP-POS-COSINE": Reason(
        "right first token, wrong later",
        "RoPE convention, mask or the stride of the KV cache: all of them are invisible at position 0.",
        "Do not use this backend; the verdict names the first bad position.",
    ),
    "KP-POS-NORM": Reason(
        "the logits are scaled by a factor",
        "Cosine cannot see a factor: a missing scale on the last norm or the head.",
        "Do not use this backend.",
    ),
    "KP-POS-NONFINITE": Reason(
        "NaN or infinity at a later position", "As KP-BOS-NONFINITE, after the first token.", "Do not use this backend."
    ),
    "KP-PREFILL": Reason(
        "batched prefill differs from stepwise decode",
        "The M > 1 kernels or the boundary between two chunks are wrong.",
        "Do not use this backend.",
    ),
    "KP-REPLAY": Reason(
        "the recording is not what was recorded",
        "A captured graph or command buffer lost a launch, or launches overlap; one by one they are right.",
        "Do not use this backend with recorded programs; update the driver.",
    ),
    "KP-RESET": Reason(
        "a reset does not reset",
        "State outlives a reset (cache, position, recorded command), or a kernel races with itself.",
        "Do not use this backend for more than one request.",
    ),
    "KP-DECODE": Reason(
        "greedy decode leaves the reference",
        "The device chooses a token that the reference would not choose, even allowing for near ties.",
        "Do not use this backend; the verdict names the position and both ids.",
    ),
    "KP-ARGMAX": Reason(
        "the chosen token is not the largest logit",
        "The argmax kernel breaks ties the wrong way, misses part of the vocabulary, or its result is read too early.",
        "Do not use this backend.",
    ),
    "KP-TURNS": Reason(
        "a second turn or a neighbour changes the result",
        "A prefill on a filled cache starts its positions or its mask anew, or rows of a batch mix.",
        "Do not use this backend for chats or batches.",
    ),
    "KP-CHANGED": Reason(
        "the device changed after its probe",
        "The serving process repeats the BOS gate on its own device, and it did not give what the probe saw.",
        "Probe again without --cached.",
    ),
    "KP-KNOWN-BAD": Reason(
        "a contract knows this device as bad",
        "A known issue of a contract matches the device and is not closed; the line names the issue and its symptom.",
        "Fix what the issue names, then run kparity contract check on its contract: a closing test that passes on this "
        "host opens the way. kparity contract show tells the whole story.",
    ),
    # A process that did not survive.
    "KP-PROBE-CRASH": Reason(
        "the backend crashed its process",
        "The probe's child process died of a signal (SIGSEGV in a driver, usually).",
        "Update or reinstall the driver; the line names the stage at which it died.",
    ),
    "KP-PROBE-HANG": Reason(
        "the backend did not answer in time",
        "The probe's child process was still running at the time limit and was ended.",
        "Raise --timeout for a large model or a slow device; otherwise the driver hangs.",
    ),
    "KP-PROBE-EXIT": Reason(
        "the backend ended its process",
        "The probe's child process exited without a verdict: a library called exit, or Python could not start it.",
        "See the quoted last line of its log.",
    ),
    "KP-PROBE-OOM": Reason(
        "out of memory",
        "The host killed the probe's child process or an allocation failed.",
        "Use a smaller model or more memory.",
    ),
    "KP-PROBE-ERROR": Reason("an unexpected error in the adapter", "The line quotes the exception.", "Report it."),
    "KP-BENCH-DIED": Reason(
        "a benchmark's process crashed or did not answer",
        "The process that measured this backend died of a signal, exited, or was ended at its time limit.",
        "The line quotes the last line of its log; what the other backends gave still counts.",
    ),
    "KP-BENCH-UNCHECKED": Reason(
        "parity was not checked",
        "The benchmark ran with --no-parity: what it timed may be wrong, and its speed does not count.",
        "Leave --no-parity out.",
    ),
    "KP-LLAMACPP-NOLIB": _library("xllamacpp", "dev"),
    "KP-LLAMACPP-ABI": Reason(
        "this llama.cpp has another C interface",
        "The structures of its C interface do not begin as those that kparity knows, or it did not take its options.",
        "Install another release of xllamacpp.",
    ),
    "KP-DEVICE-LOST": Reason(
        "the device was lost", "The driver reset or removed the device while it ran.", "Check the kernel log (dmesg)."
    ),
    "KP-DEVICE-OOM": Reason(
        "the device is out of memory", "An allocation on the device failed.", "Use a smaller model or context."
    ),
    "KP-DEVICE-FAULT": Reason(
        "the device reported an error", "A launch, a copy or a validation failed.", "See the quoted message."
    ),
}


def explain(code: str, reasons: Mapping[str, Reason] = REASONS) -> Reason:
    """The reason behind a code, whatever its case; raises UnknownName with the nearest code."""
    key = code.strip().strip("[]").upper()
    if key not in reasons:
        raise UnknownName("code", key, reasons)
    return reasons[key]
