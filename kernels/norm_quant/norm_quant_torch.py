"""norm_quant in torch operations, written apart from the reference: torch's own activations, reductions over a view."""

from typing import Any

from kparity.ops.spec import Case, padded


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[h, q, scale, qsum] from [a, b, weight] or [gu, weight], or [q, scale, qsum] from [x, weight]."""
    m, dp = case["M"], padded(case["D"])
    *given, weight = inputs
    if case["pre"] == "none":
        h = given[0]
    elif case["pre"] == "add":
        h = torch.add(*given)
    else:
        gate, up = given[0].chunk(2, dim=-1)
        functional = torch.nn.functional
        h = (functional.silu(gate) if case["pre"] == "silu" else functional.relu(gate).square()) * up
        h = h.clamp(-65504.0, 65504.0) if case["clamp"] else h
    y = h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + case["eps"]) * weight

    y = torch.nn.functional.pad(y, (0, dp - case["D"])).view(
        m, -1, {"token": dp, "block256": 256, "block32": 32}[case["mode"]]
    )
    magnitude = y.abs()
    if case["mode"] == "token":
        s = 127.0 / magnitude.amax(dim=-1, keepdim=True).clamp(min=1e-5)
        scale = s.reciprocal()
    elif case["mode"] == "block32":
        top = magnitude.amax(dim=-1, keepdim=True)
        s = torch.where(top == 0, 0.0, 127.0 / top)
        scale = (top / 127.0).half().float()
    else:
        peak = y.gather(-1, magnitude.argmax(dim=-1, keepdim=True))
        dead = peak == 0
        s = torch.where(dead, 0.0, -127.0 / peak)
        scale = torch.where(dead, 0.0, s.reciprocal())
    q = (y * s).round().clamp(-128, 127)  # round is half to even
    qsum = q.sum(dim=-1)  # whole numbers below 2^24
    found = [q.view(m, dp).to(torch.int8), scale[..., 0], qsum.to(torch.int32)]
    return found if case["pre"] == "none" else [h, *found]
