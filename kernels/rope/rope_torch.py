"""rope in torch operations, written apart from the reference: the form with a rotated copy, x·cos + rotated(x)·sin."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[y] from [x, pos, freq]."""
    x, pos, freq = inputs
    turning, rest = x[..., : case["R"]], x[..., case["R"] :]
    angle = torch.outer(pos.to(torch.float32), freq)[:, None, :]  # [M, 1, R/2]
    if case["mode"] == "neox":
        angles = torch.cat((angle, angle), dim=-1)
        left, right = turning.chunk(2, dim=-1)
        rotated = torch.cat((-right, left), dim=-1)
    else:
        angles = angle.repeat_interleave(2, dim=-1)
        pairs = turning.unflatten(-1, (-1, 2))
        rotated = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return [torch.cat((turning * angles.cos() + rotated * angles.sin(), rest), dim=-1)]
