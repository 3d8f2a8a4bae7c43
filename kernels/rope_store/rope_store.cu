/* rope_store: RoPE of queries and keys, and the new keys and values into their places in the cache.
 *
 * ABI: qkv [M, (H + 2G) * D] f32, pos [M] i32, freq [R/2] f32 -> q [M, H, D] f32, kcache [L, G * D] f32|f16, vcache [L,
 * G * D]
 * Grid: one work-item per pair of elements of qkv, folded.
 * Options: NEOX (pairs i, i + R/2; else 2i, 2i + 1), F16 (type of the cache).
 */
#define PAIRS (D / 2)
#define ROTATED (R / 2)
#define HEADS (H + 2 * G)

//#use angle
//#use element

KERNEL rope_store(GLOBAL const float* RESTRICT qkv, GLOBAL const i32* RESTRICT pos, GLOBAL const float* RESTRICT freq,
    GLOBAL float* RESTRICT q, GLOBAL ELEMENT* RESTRICT kcache, GLOBAL ELEMENT* RESTRICT vcache)
{
    const u32 item = GROUP_FOLDED * BLOCK + LANE;
    if (item >= M * HEADS * PAIRS) {
        return;
    }
    const u32 pair = item % PAIRS, head = item / PAIRS % HEADS, row = item / (PAIRS * HEADS);
    GLOBAL const float* source = qkv + ((u64)row * HEADS + head) * D;
    const i32 at = pos[row];
    if (head >= H && (at < 0 || at >= L)) { /* a row of padding, or a full cache */
        return;
    }

    u32 low = 2 * pair, high = 2 * pair + 1;
    if (head >= H + G) {
        const u64 target = ((u64)at * G + (head - H - G)) * D;
        STORE(vcache, target + low, source[low]);
        STORE(vcache, target + high, source[high]);
        return;
    }
    float first, second;
    if (pair < ROTATED) {
#if NEOX
        low = pair;
        high = pair + ROTATED;
#endif
        float sine, cosine;
        sine_cosine((float)at * freq[pair], &sine, &cosine);
        first = source[low] * cosine - source[high] * sine;
        second = source[high] * cosine + source[low] * sine;
    } else {
        first = source[low];
        second = source[high];
    }
    if (head < H) {
        GLOBAL float* target = q + ((u64)row * H + head) * D;
        target[low] = first;
        target[high] = second;
    } else {
        const u64 target = ((u64)at * G + (head - H)) * D;
        STORE(kcache, target + low, first);
        STORE(kcache, target + high, second);
    }
}
