/* What the preludes of CUDA C++ and HIP have in common: pointers are of one kind, and the lanes of a wave exchange
 * registers (SHUFFLE_XOR).
 */
#define GLOBAL
#define LOCAL
#define RESTRICT __restrict__
#define UNROLL UNROLL_ALWAYS /* nothing where OpenCL runs on a CPU */

/* Elements 8*at ... 8*at + 7 of a 16-byte aligned row, as f32. */
INLINE void load_f16x8(const f16* pointer, u32 at, float* out) { unpack_f16x8(LOAD_U32X4(pointer, at), out); }

INLINE void load_f32x8(const float* pointer, u32 at, float* out)
{
    const f32x4 low = ((const f32x4*)pointer)[2 * at], high = ((const f32x4*)pointer)[2 * at + 1];
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

/* REDUCE defines name(values, scratch): joins each of `count` values over `width` neighbouring lanes and leaves the
 * result with all of them. `width` divides BLOCK and is a power of two or a multiple of WAVE; scratch has
 * SCRATCH(count) elements. Every lane of the group must come here: within a wave lanes exchange registers, waves meet
 * in local memory. The order of a sum is fixed: results repeat. */
#define SCRATCH(count) ((count) * (BLOCK / WAVE))
#define REDUCE(name, type, count, width, join) \
    INLINE type name##_join(type left, type right) { return join; } \
    INLINE void name(type* values, LOCAL type* scratch) \
    { \
        UNROLL_ALWAYS for (u32 i = 0; i < (count); ++i) { \
            UNROLL_ALWAYS for (u32 step = ((width) < WAVE ? (width) : WAVE) / 2; step > 0; step /= 2) { \
                values[i] = name##_join(values[i], SHUFFLE_XOR(values[i], step)); \
            } \
        } \
        if ((width) > WAVE) { \
            const u32 first = LANE / (width) * ((width) / WAVE); \
            BARRIER(); /* what an earlier call left in scratch has been read */ \
            if (LANE % WAVE == 0) { \
                UNROLL_ALWAYS for (u32 i = 0; i < (count); ++i) { \
                    scratch[i * (BLOCK / WAVE) + LANE / WAVE] = values[i]; \
                } \
            } \
            BARRIER(); \
            UNROLL_ALWAYS for (u32 i = 0; i < (count); ++i) { \
                values[i] = scratch[i * (BLOCK / WAVE) + first]; \
                UNROLL_ALWAYS for (u32 wave = 1; wave * WAVE < (width); ++wave) { \
                    values[i] = name##_join(values[i], scratch[i * (BLOCK / WAVE) + first + wave]); \
                } \
            } \
        } \
    }
