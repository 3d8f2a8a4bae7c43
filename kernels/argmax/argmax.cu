/* argmax: the index of the largest value of each row; the lowest index wins a tie; a row with a NaN gives -1.
 *
 * ABI: x [M, N] f32 -> idx [M] i32
 *      scratch where PARTS > 1: keys [M, PARTS, 2] u32, done [M] u32, 0
 * Grid: x walks the parts of a row (PARTS), y the rows. The group of a row that ends last joins the parts: `done`
 * counts those that have ended.
 */
#undef BLOCK
#define BLOCK GPU_BLOCK
#define SHARE ((N + PARTS - 1) / PARTS) /* elements of a part */
#define NAN_KEY 0xffffffffu

/* Integers in the order of the floats, with NaN above all and -0 equal to +0: no comparison that a compiler could
 * relax. */
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

/* A key above a place counted backwards: the largest is the first of the largest elements. */
REDUCE(largest, u64, 1, BLOCK, left > right ? left : right)

INLINE i32 index_of(u64 best)
{
    return (u32)(best >> 32) == NAN_KEY ? -1 : (i32)(0x7fffffffu - (u32)best);
}

KERNEL argmax(GLOBAL const float* RESTRICT x, GLOBAL i32* RESTRICT idx
#if PARTS > 1
    , GLOBAL u32* RESTRICT keys, GLOBAL u32* RESTRICT done
#endif
)
{
    SHARED u64 scratch[SCRATCH(1)];
    const u32 part = GROUP_X, row = GROUP_Y, lane = LANE;
    GLOBAL const float* source = x + (u64)row * N;

    u64 best[1] = {0}; /* the key of -inf is above 0: any element replaces this */
    const u32 end = (part + 1) * SHARE < N ? (part + 1) * SHARE : N;
    for (u32 n = part * SHARE + lane; n < end; n += BLOCK) {
        const u64 key = (u64)order_key(AS_U32(source[n])) << 32 | (0x7fffffffu - n);
        best[0] = key > best[0] ? key : best[0];
    }
    largest(best, scratch);

    u32 last = 1;
#if PARTS > 1
    /* What a group has written is visible before it counts itself, and what the others have written is read after. All
     * go through this, the groups that are not the last with nothing. */
    SHARED u32 arrived;
    if (lane == 0) {
        keys[(row * PARTS + part) * 2] = (u32)(best[0] >> 32);
        keys[(row * PARTS + part) * 2 + 1] = (u32)best[0];
        FENCE(); /* mine before the count */
        arrived = COUNT_UP(done + row);
    }
    BARRIER();
    FENCE(); /* theirs after the count */
    last = arrived == PARTS - 1;
    best[0] = 0;
    for (u32 other = lane; last && other < PARTS; other += BLOCK) {
        const u64 key = (u64)keys[(row * PARTS + other) * 2] << 32 | keys[(row * PARTS + other) * 2 + 1];
        best[0] = key > best[0] ? key : best[0];
    }
    largest(best, scratch);
    if (last && lane == 0) {
        done[row] = 0; /* for the next launch */
    }
#endif
    if (last && lane == 0) {
        idx[row] = index_of(best[0]);
    }
}
