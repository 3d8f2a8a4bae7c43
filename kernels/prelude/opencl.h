/* What the GPU texts need from OpenCL C 1.2, without an extension that a device may lack.
 *
 * The op's constants stand before this file and have short names (M, N, K, ...), so nothing here may use such a name.
 * There are no subgroups here: reductions go through local memory, in groups of WAVE lanes as elsewhere.
 */
typedef uint u32;
typedef int i32;
typedef char i8;
typedef ulong u64;
typedef half f16; /* only ever behind a pointer: vload_half and vstore_half are core, half arithmetic is not */
typedef uint4 u32x4;
typedef float4 f32x4;

#define RESIDENT 0 /* CUDA's bound alone */
#define KERNEL __kernel __attribute__((reqd_work_group_size(BLOCK, 1, 1))) void
/* Always: what PoCL leaves as a function, with a barrier in it, gives groups that run side by side one local memory. */
#define INLINE static inline __attribute__((always_inline))
#define GLOBAL __global
#define LOCAL __local
#define SHARED __local
#define RESTRICT restrict
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
/* Accesses of this work-item to global memory before it are visible on the device before those behind it (OpenCL C 1.2
 * promises that within the group alone, devices give it to all); and a count in global memory goes up by 1, and gives
 * what it was. */
#define FENCE() mem_fence(CLK_GLOBAL_MEM_FENCE)
#define COUNT_UP(pointer) atomic_inc((volatile __global u32*)(pointer))

#define UNROLL_ALWAYS _Pragma("unroll")
#ifdef ON_CPU
#define UNROLL /* registers need no constant index there, and the compiler stays quick */
#else
#define UNROLL UNROLL_ALWAYS
#endif

#define LANE ((u32)get_local_id(0))
#define GROUP_X ((u32)get_group_id(0))
#define GROUP_Y ((u32)get_group_id(1))
#define GROUP_Z ((u32)get_group_id(2))

#define AS_U32(value) as_uint(value)
#define AS_F32(value) as_float(value)
#define EXP(value) exp(value)
#define LOG(value) log(value)
#define SQRT(value) sqrt(value)
#define RINT(value) rint(value)
#define FMA(a, b, c) fma(a, b, c)
#define FMAX(a, b) fmax(a, b)

#if defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define DP4A(a, b, sum) (dot_4x8packed_ss_int((u32)(a), (u32)(b)) + (sum))
#else
INLINE i32 dot_bytes(u32 a, u32 b, i32 sum)
{
    const char4 x = as_char4(a), y = as_char4(b);
    return sum + x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
}
#define DP4A(a, b, sum) dot_bytes(a, b, sum)
#endif

#define LOAD_F16(pointer, at) vload_half(at, pointer)
#define STORE_F16(pointer, at, value) vstore_half_rte(value, at, pointer)

/* LOAD_U32X4 that is to be issued where it stands; and of what is read once. */
INLINE u32x4 early_u32x4(GLOBAL const void* pointer, u32 at) { return ((GLOBAL const u32x4*)pointer)[at]; }
#define strong_u32x4 early_u32x4
INLINE u32 early_u32(GLOBAL const void* pointer, u32 at) { return ((GLOBAL const u32*)pointer)[at]; }
INLINE u32x4 stream_u32x4(GLOBAL const void* pointer, u32 at) { return ((GLOBAL const u32x4*)pointer)[at]; }

#define ISSUED() ((void)0) /* the order is the compiler's */
#define KEEP(value) ((void)0)

/* The eight halves that 16 bytes hold, as f32. */
INLINE void unpack_f16x8(u32x4 words, float* out) { vstore8(vload_half8(0, (const f16*)&words), 0, out); }

/* Elements 8*at ... 8*at + 7 of a 16-byte aligned row, as f32. */
INLINE void load_f16x8(GLOBAL const f16* pointer, u32 at, float* out)
{
    vstore8(vload_half8(at, pointer), 0, out);
}

INLINE void load_f32x8(GLOBAL const float* pointer, u32 at, float* out)
{
    vstore8(vload8(at, pointer), 0, out);
}

/* REDUCE defines name(values, scratch): joins each of `count` values over `width` neighbouring lanes and leaves the
 * result with all of them. `width` divides BLOCK and is a power of two or a multiple of WAVE; scratch has
 * SCRATCH(count) elements. Every lane of the group must come here. Four lanes of a wave take every fourth value, one of
 * them joins the four, and all join the waves. */
#define SCRATCH(count) ((count) * BLOCK)
#define REDUCE(name, type, count, width, join) \
    INLINE type name##_join(type left, type right) { return join; } \
    INLINE void name(type* values, LOCAL type* scratch) \
    { \
        const u32 part = (width) < WAVE ? (width) : WAVE, at = LANE % part, first = LANE / (width) * (width); \
        for (u32 i = 0; i < (count); ++i) { \
            scratch[i * BLOCK + LANE] = values[i]; \
        } \
        BARRIER(); \
        if (((width) < WAVE ? (width) : WAVE) > 4) { \
            if (at < 4) { \
                for (u32 i = 0; i < (count); ++i) { \
                    type total = scratch[i * BLOCK + LANE]; \
                    for (u32 other = 4; other < part; other += 4) { \
                        total = name##_join(total, scratch[i * BLOCK + LANE + other]); \
                    } \
                    scratch[i * BLOCK + LANE] = total; \
                } \
            } \
            BARRIER(); \
        } \
        if (at == 0) { \
            for (u32 i = 0; i < (count); ++i) { \
                type total = scratch[i * BLOCK + LANE]; \
                for (u32 other = 1; other < (part < 4 ? part : 4); ++other) { \
                    total = name##_join(total, scratch[i * BLOCK + LANE + other]); \
                } \
                scratch[i * BLOCK + LANE] = total; \
            } \
        } \
        BARRIER(); \
        for (u32 i = 0; i < (count); ++i) { \
            type total = scratch[i * BLOCK + first]; \
            for (u32 wave = part; wave < (width); wave += part) { \
                total = name##_join(total, scratch[i * BLOCK + first + wave]); \
            } \
            values[i] = total; \
        } \
        BARRIER(); /* scratch may be written again */ \
    }

/* FOLD defines name(values, scratch): joins the values of `lanes` work-items, a multiple of WAVE and of any number, for
 * `turns` of which each work-item of this group stands (LANE + turn * BLOCK), and gives all of them the result: that of
 * REDUCE in a group of so many, bit for bit. It comes once, and scratch has SCRATCH(turns) elements. */
#define FOLD(name, type, turns, lanes, join) \
    INLINE type name##_join(type left, type right) { return join; } \
    INLINE type name(type* values, LOCAL type* scratch) \
    { \
        const u32 at = LANE % WAVE; \
        for (u32 turn = 0; turn < (turns); ++turn) { \
            scratch[turn * BLOCK + LANE] = values[turn]; \
        } \
        for (u32 few = 4; few > 0; few = few == 4 ? 1 : 0) { \
            BARRIER(); \
            for (u32 turn = 0; turn < (at < few ? (turns) : 0); ++turn) { \
                type total = scratch[turn * BLOCK + LANE]; \
                for (u32 other = few; other < (few == 4 ? WAVE : 4); other += few) { \
                    total = name##_join(total, scratch[turn * BLOCK + LANE + other]); \
                } \
                scratch[turn * BLOCK + LANE] = total; \
            } \
        } \
        BARRIER(); \
        type total = scratch[0]; \
        for (u32 wave = WAVE; wave < (lanes); wave += WAVE) { \
            total = name##_join(total, scratch[wave]); \
        } \
        return total; \
    }

//#use common
