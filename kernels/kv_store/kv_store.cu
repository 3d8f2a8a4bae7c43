/* kv_store: new keys and values into their places in the cache.
 *
 * ABI: k [M, D] f32, v [M, D] f32, pos [M] i32 -> kcache [L, D] f32|f16, vcache [L, D]
 * Grid: one work-item per pair of elements, folded.
 * Options: F16 (type of the cache).
 */
#define PAIRS (D / 2)

//#use element

KERNEL kv_store(GLOBAL const float* RESTRICT k, GLOBAL const float* RESTRICT v, GLOBAL const i32* RESTRICT pos,
    GLOBAL ELEMENT* RESTRICT kcache, GLOBAL ELEMENT* RESTRICT vcache)
{
    const u32 item = GROUP_FOLDED * BLOCK + LANE;
    if (item >= M * PAIRS) {
        return;
    }
    const u32 row = item / PAIRS, d = 2 * (item % PAIRS);
    const i32 at = pos[row];
    if (at < 0 || at >= L) { /* a row of padding, or a full cache */
        return;
    }
    const u64 source = (u64)row * D + d, target = (u64)at * D + d;
    STORE(kcache, target, k[source]);
    STORE(kcache, target + 1, k[source + 1]);
    STORE(vcache, target, v[source]);
    STORE(vcache, target + 1, v[source + 1]);
}
