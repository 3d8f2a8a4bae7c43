/* rope: rotary position embedding of the first R elements of each head; the others are copied.
 *
 * ABI: x [M, H, D] f32, pos [M] i32, freq [R/2] f32 -> y [M, H, D] f32
 * Grid: one work-item per pair of elements, folded.
 * Options: NEOX (pairs i, i + R/2; else 2i, 2i + 1).
 */
#define PAIRS (D / 2)
#define ROTATED (R / 2)

/* Sine and cosine of an angle of up to 2^17 radians, within 2^-24 or so. The reduction is done here, and with FMA, because what the
 * dialects do to large arguments differs, and because it must not depend on a fast-math switch.
 *
 * angle = turns*(pi/2) + rest with pi/2 in three f32 parts (Cody & Waite): the first step is exact, since turns*part1 has a lowest
 * bit of 2^-23 and the difference is below 1. The polynomials interpolate at the Chebyshev nodes of |rest| <= pi/4; their own
 * error is below 2^-26.
 */
INLINE void sine_cosine(float angle, float* sine, float* cosine)
{
    const float turns = RINT(angle * 0.6366197467f);
    float rest = FMA(-turns, 1.570796371f, angle);
    rest = FMA(-turns, -4.371138829e-08f, rest);
    rest = FMA(-turns, -1.71512451e-15f, rest);
    const float square = rest * rest;
    const float s = FMA(FMA(FMA(-0.0001958738721f, square, 0.008332746103f), square, -0.1666666418f), square * rest, rest);
    const float c = FMA(FMA(FMA(FMA(2.454743662e-05f, square, -0.001388830016f), square, 0.04166666418f), square, -0.5f),
        square, 1.0f);
    const i32 quadrant = (i32)turns & 3; /* two's complement: right for negative angles too */
    const float first = (quadrant & 1) ? c : s, second = (quadrant & 1) ? s : c;
    *sine = (quadrant & 2) ? -first : first;
    *cosine = ((quadrant + 1) & 2) ? -second : second;
}

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
