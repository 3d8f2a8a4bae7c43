"""rope_store in torch operations, written apart from the reference: rotated copies and indexed assignments."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[q, kcache, vcache] from [qkv, pos, freq, kcache, vcache]; the caches are written in place."""
    qkv, pos, freq, kcache, vcache = inputs
    h, g, r = case["H"], case["G"], case["R"]
    queries, keys, values = qkv.view(case["M"], h + 2 * g, case["D"]).split([h, g, g], dim=1)
    angle = torch.outer(pos.to(torch.float32), freq)[:, None, :]  # [M, 1, R/2]
    neox = case["mode"] == "neox"
    angles = torch.cat((angle, angle), dim=-1) if neox else angle.repeat_interleave(2, dim=-1)
    cosine, sine = angles.cos(), angles.sin()

    def turned(x: Any) -> Any:
        if neox:
            left, right = x[..., :r].chunk(2, dim=-1)
            rotated = torch.cat((-right, left), dim=-1)
        else:
            pairs = x[..., :r].unflatten(-1, (-1, 2))
            rotated = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        return torch.cat((x[..., :r] * cosine + rotated * sine, x[..., r:]), dim=-1)

    stored = ((pos >= 0) & (pos < case["L"])).nonzero()[:, 0]
    at = pos[stored].long()
    for cache, rows in ((kcache, turned(keys)), (vcache, values)):
        cache[at] = rows[stored].flatten(1).to(cache.dtype)
    return [turned(queries), kcache, vcache]
