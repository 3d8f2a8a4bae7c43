/* FOLD defines name(values, scratch): joins the values of `lanes` work-items, a multiple of WAVE and of any number, for
 * `turns` of which each work-item of this group stands (LANE + turn * BLOCK), and gives all of them the result: that of
 * REDUCE in a group of so many, bit for bit. It comes once, and scratch has SCRATCH(turns) elements. */
#define FOLD(name, type, turns, lanes, join) \
    INLINE type name##_join(type left, type right) { return join; } \
    INLINE type name(type* values, LOCAL type* scratch) \
    { \
        UNROLL_ALWAYS for (u32 turn = 0; turn < (turns); ++turn) { \
            UNROLL_ALWAYS for (u32 step = WAVE / 2; step > 0; step /= 2) { \
                values[turn] = name##_join(values[turn], SHUFFLE_XOR(values[turn], step)); \
            } \
            if (LANE % WAVE == 0) { \
                scratch[turn * (BLOCK / WAVE) + LANE / WAVE] = values[turn]; \
            } \
        } \
        BARRIER(); \
        type total = scratch[0]; \
        UNROLL_ALWAYS for (u32 wave = 1; wave * WAVE < (lanes); ++wave) { \
            total = name##_join(total, scratch[wave]); \
        } \
        return total; \
    }
