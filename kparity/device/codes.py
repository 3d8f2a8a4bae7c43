"""Every reason for which a backend may not serve: a stable code, its cause, its remedy (``kparity explain CODE``).

What belongs to one backend stands in its class (``Backend.reasons``), the rest here.
"""

from __future__ import annotations

from collections.abc import Mapping

from kparity.device import registry
from kparity.device.declared import Declared
from kparity.device.remedies import Reason, missing_package
from kparity.errors import UnknownName


def _compiler(name: str, what: str) -> Reason:
    return Reason(
        f"{name} is not here",
        f"The compile gates need {name} and did not find it.",
        f"Install {what}; no device is needed.",
    )


GENERAL: dict[str, Reason] = {
    # A device that is not there: what a backend lacks is declared in its class.
    "KP-IMPORT": Reason("the backend's module cannot be imported",
        "Importing the adapter, or a library that it needs, raised an error; the line quotes it.",
        "Repair or reinstall the library that the error names."),
    "KP-UNAVAILABLE": Reason("the backend cannot be opened",
        "The adapter said why; the line quotes it.",
        "See the line."),
    # A device that is not what it should be.
    "KP-NOT-GPU": Reason("the device is not a GPU",
        "--require-gpu was given, and the device is a CPU or a software rasteriser (llvmpipe, SwiftShader, PoCL).",
        "Install the GPU's driver so that its device comes first, choose it by index, or drop --require-gpu."),
    "KP-FALSE-GPU": Reason("the device is no GPU, whatever it says",
        "The adapter reports a GPU, but the device has the name of a software device, the host has no GPU at all, or "
        "the GPU's driver counts no work, time or memory that would fit for its process; the line says which.",
        "Do not use this backend: its reports cannot be trusted."),
    "KP-NOT-VERIFIED": Reason("nothing but the backend's own word speaks for a GPU",
        "--require-gpu was given, and no driver tells what the backend's process does: neither fdinfo of DRM, nor KFD, "
        "nor NVML; containers hide these, and so do old kernels.",
        "Give the container the host's processes (--pid=host), update kernel or driver, or add --trust-claims."),
    "KP-UNSUPPORTED": Reason("the device cannot run the model",
        "A kernel of the model needs more than the device grants (binding size, grid, threads); the line names it.",
        "Use another backend or a smaller model."),
    "KP-MODEL": Reason("the model's file cannot be read as this backend reads it",
        "The file has values or keys that the engine refuses, and the reference did not say so; the line names them.",
        "kparity model inspect shows what the file holds; fetch or convert it again."),
    "KP-COMPILE": Reason("a kernel does not compile on this device",
        "The device's compiler refused a kernel; the line names file and line.",
        "Update the driver; report the line with the driver's version."),
    "KP-COMPILE-NVCC": _compiler("nvcc", "CUDA's toolkit, and put its bin folder on PATH"),
    "KP-COMPILE-NVRTC": _compiler("NVRTC", "the Python package nvidia-cuda-nvrtc"),
    "KP-COMPILE-NVDISASM": _compiler("nvdisasm", "the Python package nvidia-cuda-nvdisasm"),
    "KP-COMPILE-CLANG": _compiler("clang", "clang 19 or newer (Debian: clang-19 and lld-19)"),
    "KP-COMPILE-HIPRTC": _compiler("hipRTC", "ROCm's runtime compiler (Debian: libamdhip64-5 and libhiprtc-builtins5)"),
    # A wrong result.
    "KP-BOS-NONFINITE": Reason("NaN or infinity in the first logits",
        "A kernel was not launched, read uninitialised memory, or overflowed (f16 with relu² does).",
        "kparity probe --json shows which gate fails first; do not use this backend with this driver."),
    "KP-BOS-COSINE": Reason("the first logits are wrong",
        "At position 0 neither RoPE nor the mask matters: look at weight layout, scales, activation function, norms.",
        "Do not use this backend; compare the gate 'exact' in kparity probe --json."),
    "KP-GRAPH": Reason("the graph was not built as the file says",
        "A constant of a kernel (RoPE base, eps, heads, activation, clamp) or the RoPE table on the device is not "
        "what the model's file says: host code read a key wrongly, or not at all.",
        "Do not use this release with this model; the line names the constant and both values."),
    "KP-EXACT-BITS": Reason("integer accumulators differ",
        "Sums of ternary × int8 products are exact; a difference is a layout, tail, overflow or synchronisation "
        "error.",
        "Do not use this backend; the verdict names the shape and the first wrong element."),
    "KP-EXACT-SCALE": Reason("right accumulators, wrong scales",
        "A weight scale or an activation scale is missing, swapped or rounded too early."),
    "KP-KERNEL": Reason("a kernel is outside its error bound",
        "A kernel that serves gives more error on random inputs than its arithmetic can have; the norms around it "
        "may hide it from the logits.",
        "Do not use this backend; kparity check --op OP shows every case of the op that the verdict names."),
    "KP-POS-COSINE": Reason("right first token, wrong later",
        "RoPE convention, mask or the stride of the KV cache: all of them are invisible at position 0.",
        "Do not use this backend; the verdict names the first bad position."),
    "KP-POS-NORM": Reason("the logits are scaled by a factor",
        "Cosine cannot see a factor: a missing scale on the last norm or the head."),
    "KP-POS-NONFINITE": Reason("NaN or infinity at a later position",
        "As KP-BOS-NONFINITE, after the first token."),
    "KP-PREFILL": Reason("batched prefill differs from stepwise decode",
        "The M > 1 kernels or the boundary between two chunks are wrong."),
    "KP-REPLAY": Reason("the recording is not what was recorded",
        "A captured graph or command buffer lost a launch, or launches overlap; one by one they are right.",
        "Do not use this backend with recorded programs; update the driver."),
    "KP-RESET": Reason("a reset does not reset",
        "State outlives a reset (cache, position, recorded command), or a kernel races with itself.",
        "Do not use this backend for more than one request."),
    "KP-RESIDENT": Reason("what lies on the device is not the file",
        "An upload lost bytes, memory does not keep them, or a kernel wrote over them; the line names tensor and row.",
        "Do not use this backend; test the device's memory where other models fail too."),
    "KP-DECODE": Reason("greedy decode leaves the reference",
        "The device chooses a token that the reference would not choose, even allowing for near ties.",
        "Do not use this backend; the verdict names the position and both ids."),
    "KP-ARGMAX": Reason("the chosen token is not the largest logit",
        "The argmax kernel breaks ties the wrong way, misses part of the vocabulary, or its result is read too "
        "early."),
    "KP-TURNS": Reason("a second turn or a neighbour changes the result",
        "A prefill on a filled cache starts its positions or its mask anew, or rows of a batch mix.",
        "Do not use this backend for chats or batches."),
    "KP-CANARY": Reason("a known step changed while it served",
        "The same step on the same keys gave other bits than at first: the device, its memory or its driver has gone "
        "wrong since; what was computed after the last good one is in doubt.",
        "Throw away the output from the position that the line names on, and probe the device again."),
    "KP-GUARD": Reason("a call in production was wrong",
        "kparity.guard held a sampled call of a kernel against its reference, or every call against its column sums, "
        "and found an element outside its bound; or the call could not be judged.",
        "What the kernel gave since the last call that was judged right is in doubt; run kparity check on it."),
    "KP-DEPTH": Reason("wrong at a late position",
        "A ring, window, part of the keys or recording that is right at first: the verdict names the position and the "
        "context.",
        "Do not use this backend for a context that reaches so far; --context asks for a shorter one."),
    "KP-VACUOUS": Reason("the gates could not have failed",
        "The model's logits are mostly zero or all alike, or its layers change nothing: a pass without RoPE, cache or "
        "feed-forward gives what the right one gives, so that such errors in a backend would pass too.",
        "Probe with another model (the embedded one has no such fault); kparity model inspect shows what the file "
        "holds; fetch or convert it again."),
    "KP-SOAK": Reason("right at first, wrong under load",
        "Two engines on the device, or many steps, change the result: shared scratch, the order of a queue, a race.",
        "Do not use this backend for more than one model at a time; the line says after how much of which work."),
    "KP-CHANGED": Reason("the device changed after its probe",
        "The serving process repeats positions, a prompt and steps on its own device, and got something else.",
        "Probe again without --cached."),
    "KP-KNOWN-BAD": Reason("a contract knows this device as bad",
        "A known issue of a contract matches the device and is not closed; the line names the issue and its symptom.",
        "Fix what the issue names, then run kparity contract check on its contract: a closing test that passes on "
        "this host opens the way. kparity contract show tells the whole story."),
    # A process that did not survive.
    "KP-PROBE-CRASH": Reason("the backend crashed its process",
        "The probe's child process died of a signal (SIGSEGV in a driver, usually).",
        "Update or reinstall the driver; the line names the stage at which it died."),
    "KP-PROBE-HANG": Reason("the backend did not answer in time",
        "The probe's child process said nothing for longer than a token, a kernel or a launch takes, or --timeout "
        "was over; it was ended.",
        "Raise --timeout where one was given; otherwise the driver hangs: the line names the stage."),
    "KP-PROBE-EXIT": Reason("the backend ended its process",
        "The probe's child process exited without a verdict: a library called exit, or Python could not start it.",
        "See the quoted last line of its log."),
    "KP-PROBE-OOM": Reason("out of memory",
        "The host killed the probe's child process or an allocation failed.",
        "Use a smaller model or more memory."),
    "KP-PROBE-MESSAGE": Reason("the backend's process said what is no message",
        "Something wrote to the pipe on which the probe's child process reports, or the process reports what it "
        "should not: a gate out of turn, a measure that the contract does not know, a message without an end.",
        "Look at what the adapter and its libraries write to file descriptors; the line quotes the beginning."),
    "KP-PROBE-GATES": Reason("the backend's process ended without every gate",
        "It reported its end, and gates of the depth are missing: some gates are no pass.",
        "Report it with the line; do not use this backend."),
    "KP-PROBE-REFERENCE": Reason("there is no reference",
        "The process that computes the reference failed: nothing can be compared. The line says how.",
        "Free memory or use a smaller model; kparity model inspect looks into the file."),
    "KP-PROBE-ERROR": Reason("an unexpected error in the adapter",
        "The line quotes the exception.",
        "Report it."),
    "KP-WORKER-DIED": Reason("the process of a backend or an engine crashed or did not answer",
        "The process that held it died of a signal, exited, or was ended at its time limit.",
        "The line quotes the last line of its log; what the others gave still counts."),
    "KP-BENCH-BASELINE": Reason("the baseline was asked for and stands beside nothing",
        "torch has products beside a GEMV with one row; llama.cpp beside a ternary one of whole blocks.",
        "Choose such cases: --ops 'tgemv and M=1,'."),
    "KP-BENCH-UNCHECKED": Reason("parity was not checked",
        "The benchmark ran with --no-parity: what it timed may be wrong, and its speed does not count.",
        "Leave --no-parity out."),
    "KP-LLAMACPP-NOLIB": missing_package("xllamacpp", "llamacpp"),
    "KP-LLAMACPP-ABI": Reason("this llama.cpp has another C interface",
        "The structures of its C interface do not begin as those that kparity knows, or it did not take its options.",
        "Add ?headers=DIR with the folder of that build's own llama.h, or use another release (docs/engines.md)."),
    "KP-HTTP-NOLIB": missing_package("httpx", "http"),
    "KP-HTTP-NOSERVER": Reason("no server answers at the address",
        "The connection was refused or broke off, the name is unknown, or nothing came in time; the line says which.",
        "Start the server and give its address; ?timeout=SECONDS behind it waits longer for an answer."),
    "KP-HTTP-UNTOLD": Reason("a server tells fewer log-probabilities than before",
        "It told the whole distribution of the first position; of a later one some are too small for it, or left out.",
        "Ask for fewer, ?probs=N: then greedy ids are compared."),
    "KP-TRANSFORMERS-NOLIB": missing_package("transformers", "hf"),
    "KP-DEVICE-LOST": Reason("the device was lost",
        "The driver reset or removed the device while it ran.",
        "Check the kernel log (dmesg)."),
    "KP-DEVICE-OOM": Reason("the device is out of memory",
        "An allocation on the device failed.",
        "Use a smaller model or context."),
    "KP-DEVICE-FAULT": Reason("the device reported an error",
        "A launch, a copy or a validation failed.",
        "See the quoted message."),
}  # fmt: skip


def own() -> dict[str, Reason]:
    """Code → reason: those of the backends of this package, and those of none."""
    return {code: reason for each in registry.builtin().values() for code, reason in each.reasons.items()} | GENERAL


def reasons() -> dict[str, Reason]:
    """The same with those of other packages, each of which is asked in a child; they replace none."""
    others = (registry.declared(name) or Declared() for name in registry.names() if name not in registry.BUILTIN)
    return {code: reason for each in others for code, reason in each.reasons.items()} | own()


def explain(code: str, more: Mapping[str, Reason] | None = None) -> Reason:
    """The reason behind a code, whatever its case, ``more`` among them; raises UnknownName with the nearest code."""
    key, known = code.strip().strip("[]").upper(), {**own(), **(more or {})}
    if key not in known:
        known |= reasons()
    if key not in known:
        raise UnknownName("code", key, known)
    return known[key]
