"""attention in torch operations, written apart from the reference: all scores at once, masked."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[out, lse] from [q, kcache, vcache, pos]."""
    q, kcache, vcache, pos = inputs
    count = min(int(pos.max()) + 1, case["L"])  # what lies beyond the last visible position may be NaN
    if count <= 0:
        return [torch.zeros_like(q), torch.full(q.shape[:2], -torch.inf, device=q.device)]
    shared = case["H"] // case["G"]
    k, v = (cache[:count].to(torch.float32).repeat_interleave(shared, dim=1) for cache in (kcache, vcache))
    scores = torch.einsum("mhd,lhd->mhl", q, k) * case["D"] ** -0.5
    hidden = torch.arange(count, device=q.device)[None, :] > pos[:, None]  # [M, count]
    scores = scores.masked_fill(hidden[:, None, :], -torch.inf)
    weights = scores.softmax(dim=-1)
    out = torch.einsum("mhl,lhd->mhd", weights, v).masked_fill((pos < 0)[:, None, None], 0.0)
    lse = scores.logsumexp(dim=-1)
    return [out, lse.masked_fill(lse == torch.inf, torch.nan)]  # a score of +inf is inf - inf everywhere else
