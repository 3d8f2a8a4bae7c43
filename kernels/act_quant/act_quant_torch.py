"""act_quant in torch operations, written apart from the reference: reductions over a padded view."""

from typing import Any

from kparity.ops.spec import Case, padded


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[q, scale, qsum] from [x]."""
    m, k, kp = case["M"], case["K"], padded(case["K"])
    x = torch.nn.functional.pad(inputs[0], (0, kp - k))
    x = x.view(m, -1, {"token": kp, "block256": 256, "block32": 32}[case["mode"]])
    magnitude = x.abs()
    if case["mode"] == "token":
        s = 127.0 / magnitude.amax(dim=-1, keepdim=True).clamp(min=1e-5)
        scale = s.reciprocal()
    elif case["mode"] == "block32":
        top = magnitude.amax(dim=-1, keepdim=True)
        s = torch.where(top == 0, 0.0, 127.0 / top)
        scale = (top / 127.0).half().float()
    else:
        peak = x.gather(-1, magnitude.argmax(dim=-1, keepdim=True))
        dead = peak == 0
        s = torch.where(dead, 0.0, -127.0 / peak)
        scale = torch.where(dead, 0.0, s.reciprocal())
    q = (x * s).round().clamp(-128, 127)  # round is half to even
    qsum = q.sum(dim=-1)  # whole numbers below 2^24
    return [q.view(m, kp).to(torch.int8), scale[..., 0], qsum.to(torch.int32)]
