/* rope: rotary position embedding of the first R elements of each head; the others are copied.
 *
 * ABI: x [M, H, D] f32, pos [M] i32, freq [R/2] f32 -> y [M, H, D] f32
 * Grid: one work-item per pair of elements, folded.
 * Options: NEOX (pairs i, i + R/2; else 2i, 2i + 1).
 */
#define PAIRS (D / 2)
#define ROTATED (R / 2)

//#use angle

KERNEL rope(GLOBAL const float* RESTRICT x, GLOBAL const i32* RESTRICT pos, GLOBAL const float* RESTRICT freq,
    GLOBAL float* RESTRICT y)
{
    const u32 item = GROUP_FOLDED * BLOCK + LANE;
    if (item >= M * H * PAIRS) {
        return;
    }
    const u32 pair = item % PAIRS, head = item / PAIRS, row = head / H;
    GLOBAL const float* source = x + (u64)head * D;
    GLOBAL float* target = y + (u64)head * D;
    if (pair >= ROTATED) {
        target[2 * pair] = source[2 * pair];
        target[2 * pair + 1] = source[2 * pair + 1];
        return;
    }
#if NEOX
    const u32 low = pair, high = pair + ROTATED;
#else
    const u32 low = 2 * pair, high = 2 * pair + 1;
#endif
    float sine, cosine;
    sine_cosine((float)pos[row] * freq[pair], &sine, &cosine);
    target[low] = source[low] * cosine - source[high] * sine;
    target[high] = source[high] * cosine + source[low] * sine;
}
