/* argmax: the index of the largest value of each row; the lowest index wins a tie; a row with a NaN gives -1.
 *
 * ABI: x [M, N] f32 -> idx [M] i32
 * Grid: one group per row.
 */
#define NAN_KEY 0xffffffffu

/* Integers in the order of the floats, with NaN above all and -0 equal to +0: no comparison that a compiler could relax. */
INLINE u32 order_key(u32 bits)
{
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return NAN_KEY;
    }
    if (bits == 0x80000000u) {
        bits = 0;
    }
    return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}

KERNEL argmax(GLOBAL const float* RESTRICT x, GLOBAL i32* RESTRICT idx)
{
    SHARED u32 keys[BLOCK];
    SHARED u32 where[BLOCK];
    const u32 row = GROUP_X, lane = LANE;
    GLOBAL const float* source = x + (u64)row * N;

    u32 best = 0, at = 0x7fffffffu; /* the key of -inf is above 0: any element replaces this */
    for (u32 n = lane; n < N; n += BLOCK) {
        const u32 key = order_key(AS_U32(source[n]));
        if (key > best) {
            best = key;
            at = n;
        }
    }

    keys[lane] = best;
    where[lane] = at;
    BARRIER();
    for (u32 width = BLOCK; width > 1;) {
        const u32 half_width = (width + 1) / 2;
        if (lane + half_width < width) {
            const u32 other = keys[lane + half_width], place = where[lane + half_width];
            if (other > keys[lane] || (other == keys[lane] && place < where[lane])) {
                keys[lane] = other;
                where[lane] = place;
            }
        }
        BARRIER();
        width = half_width;
    }
    if (lane == 0) {
        idx[row] = keys[0] == NAN_KEY ? -1 : (i32)where[0];
    }
}
