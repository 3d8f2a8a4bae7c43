/* What the GPU texts need from CUDA C++, under nvcc and under NVRTC alike: no header is included.
 *
 * The op's constants stand before this file and have short names (M, N, K, ...), so nothing here may use such a name.
 * Integer dot product: __dp4a, from sm_61 on.
 */
typedef unsigned int u32;
typedef int i32;
typedef signed char i8;
typedef unsigned long long u64;
typedef unsigned short f16; /* the bits of a half: conversions below are single PTX instructions */
typedef uint4 u32x4;
typedef float4 f32x4;

/* The second bound keeps the compiler from spilling registers for the sake of more than RESIDENT work-items on a
 * multiprocessor; a text whose work-items hold much may ask for fewer. */
#define RESIDENT 512
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK, BLOCK < RESIDENT ? RESIDENT / BLOCK : 1)
#define INLINE __device__ __forceinline__
#define SHARED __shared__
#define BARRIER() __syncthreads()
/* Accesses of this work-item to global memory before it are visible on the device before those behind it; and a count
 * in global memory goes up by 1, and gives what it was. */
#define FENCE() __threadfence()
#define COUNT_UP(pointer) atomicAdd(pointer, 1u)

#define UNROLL_ALWAYS _Pragma("unroll")

#define LANE (threadIdx.x)
#define GROUP_X (blockIdx.x)
#define GROUP_Y (blockIdx.y)
#define GROUP_Z (blockIdx.z)

#define AS_U32(value) __float_as_uint(value)
#define AS_F32(value) __uint_as_float(value)
#define EXP(value) expf(value)
#define LOG(value) logf(value)
#define SQRT(value) sqrtf(value)
#define RINT(value) rintf(value)
#define FMA(a, b, c) fmaf(a, b, c)
#define FMAX(a, b) fmaxf(a, b)
#define DP4A(a, b, sum) __dp4a((i32)(a), (i32)(b), sum)

INLINE float f16_to_f32(f16 bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

INLINE f16 f32_to_f16(float value)
{
    f16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

INLINE void unpack_f16x2(u32 word, float* out)
{
    out[0] = f16_to_f32((f16)(word & 0xffffu));
    out[1] = f16_to_f32((f16)(word >> 16));
}

#define LOAD_F16(pointer, at) f16_to_f32((pointer)[at])
#define STORE_F16(pointer, at, value) ((pointer)[at] = f32_to_f16(value))

/* LOAD_U32X4 that is issued where it stands: such loads keep their order, and none sinks behind a barrier or to its use
 * (without .nc, which would let ptxas do that). */
INLINE u32x4 early_u32x4(const void* pointer, u32 at)
{
    u32x4 value;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
        : "l"((const u32x4*)pointer + at));
    return value;
}

/* The same of what one group reads once: strong accesses keep their order in ptxas too, and go past L1. */
INLINE u32x4 strong_u32x4(const void* pointer, u32 at)
{
    u32x4 value;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
        : "l"((const u32x4*)pointer + at));
    return value;
}

INLINE u32 early_u32(const void* pointer, u32 at)
{
    u32 value;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(value) : "l"((const u32*)pointer + at));
    return value;
}

/* The same of what is read once: it need not push what is read again out of the caches. */
INLINE u32x4 stream_u32x4(const void* pointer, u32 at)
{
    u32x4 value;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
        : "l"((const u32x4*)pointer + at));
    return value;
}

/* Early loads that stand before it are issued before what stands behind it. All lanes of a warp must come here: it
 * orders memory among them, so that no load moves across, and is no instruction where they are together anyway. */
#define ISSUED() __syncwarp()
#define KEEP(value) ((void)0) /* an early load stays where it is */

/* The eight halves that 16 bytes hold, as f32. */
INLINE void unpack_f16x8(u32x4 words, float* out)
{
    unpack_f16x2(words.x, out);
    unpack_f16x2(words.y, out + 2);
    unpack_f16x2(words.z, out + 4);
    unpack_f16x2(words.w, out + 6);
}

#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)

//#use common
//#use lanes
//#use turns
