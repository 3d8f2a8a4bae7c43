"""How many groups of a kernel one multiprocessor holds, from the public limits of each architecture."""

from __future__ import annotations

from dataclasses import dataclass

from tools.toolchains import Resources, Target

KIB = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor, of the tables in "CUDA Programming Guide", section 5.1
    (https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html)."""

    warps: int
    groups: int
    shared: int
    """Bytes; each group takes a KiB of them for the system."""
    registers: int = 65536
    """Given out to a warp 256 at a time."""


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 * KIB),
    "sm_90": Multiprocessor(64, 32, 228 * KIB),
    "sm_120": Multiprocessor(48, 24, 100 * KIB),
}
SIMDS = {"gfx942": 4, "gfx1100": 2, "gfx1201": 2}
"""SIMDs of a compute unit: "AMD Instinct MI300 Instruction Set Architecture" (2025) and "RDNA3 Instruction Set
Architecture" (2023), chapter 2 of each. How many wavefronts a SIMD holds is what clang says of the code."""


def lanes(target: Target, found: Resources, block: int) -> int:
    """Work-items that one multiprocessor (AMD: compute unit) holds at once, if a launch has enough of them."""
    if target.arch in MULTIPROCESSORS:
        limit = MULTIPROCESSORS[target.arch]
        warps = -(-block // 32)
        per_warp = -(-found.registers * 32 // 256) * 256
        groups = min(limit.groups, limit.warps // warps, limit.registers // (per_warp * warps),
                     limit.shared // (found.shared + KIB))  # fmt: skip
        return groups * block
    return (found.occupancy or 0) * SIMDS[target.arch] * target.wave // block * block
