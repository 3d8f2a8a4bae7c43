"""rmsnorm in torch operations, written apart from the reference: a multiplication by the inverse root."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[y] from [x, weight]."""
    x, weight = inputs
    return [x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + case["eps"]) * weight]
