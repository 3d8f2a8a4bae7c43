"""kv_store in torch operations, written apart from the reference: an indexed assignment."""

from typing import Any

from kparity.ops.spec import Case


def run(torch: Any, case: Case, inputs: list[Any]) -> list[Any]:
    """[kcache, vcache] from [k, v, pos, kcache, vcache]; the caches are written in place."""
    k, v, pos, kcache, vcache = inputs
    stored = ((pos >= 0) & (pos < case["L"])).nonzero()[:, 0]
    at = pos[stored].long()
    for cache, rows in ((kcache, k), (vcache, v)):
        cache[at] = rows[stored].to(cache.dtype)
    return [kcache, vcache]
