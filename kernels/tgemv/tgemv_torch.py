"""tgemv in torch operations, written apart from the reference: bytes unpacked by shifts, products in f32."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[y] from [w, wscale, q, ascale, qsum]; the sums of f32 products are exact, because 127·K < 2^24."""
    words, wscale, q, ascale, _qsum = inputs
    m, n = case["M"], case["N"]
    spanned = str(case["wscale"]).startswith("block")
    span = int(str(case["wscale"]).removeprefix("block")) if spanned else 256
    step = 32 if case["ascale"] == "block32" else span  # of the sums
    # The four bytes of a little-endian word hold elements 0..3 in their lowest bits, 4..7 in the next, and so on.
    shifts = torch.tensor([[0], [2], [4], [6]], dtype=torch.uint8, device=words.device)
    codes = words.view(torch.uint8).view(n, -1, 1, 4) >> shifts
    weights = (codes & 3).view(n, -1).to(torch.float32) - 1
    values = q.to(torch.float32)
    if case["out"] == "i32":
        return [(values @ weights.T).to(torch.int32)]
    if not spanned and case["ascale"] == "token":
        return [(values @ weights.T) * (ascale * wscale)]
    sums = torch.bmm(values.view(m, -1, step).transpose(0, 1), weights.view(n, -1, step).permute(1, 2, 0))
    # [1 or spans, M, 1]
    by_row = (ascale.repeat_interleave(256 // span, dim=1) if case["ascale"] == "block256" else ascale).T[:, :, None]
    by_column = (wscale if spanned else wscale[:, None]).T[:, None, :]  # [1 or spans, 1, 1 or N]
    if spanned:
        by_column = by_column.repeat_interleave(span // step, dim=0)
    return [(sums * (by_row * by_column)).sum(dim=0)]
