/* What the GPU texts need from HIP: compiler builtins only, so that it builds under hipRTC, hipcc and a bare clang
 * (-x hip --cuda-device-only -nogpuinc -nogpulib) alike.
 *
 * The op's constants stand before this file and have short names (M, N, K, ...), so nothing here may use such a name.
 * A wavefront has 32 or 64 lanes (WAVE): a text is right for both. From gfx10 on it counts in waves of 32 whatever the
 * device does, because there (on gfx10 and gfx11) `ds_bpermute` does not leave its half of 64 lanes.
 */
#if defined(__GFX8__) || defined(__GFX9__)
#define REACH_ 64u
#else
#if WAVE == 64
#define WAVE64_ /* the wavefront itself, which matrix instructions ask for */
#endif
#undef WAVE
#define WAVE 32
#define REACH_ 32u
#endif

typedef unsigned int u32;
typedef int i32;
typedef signed char i8;
typedef unsigned long long u64;
typedef _Float16 f16;
typedef u32 u32x4 __attribute__((ext_vector_type(4)));
typedef float f32x4 __attribute__((ext_vector_type(4)));

#define RESIDENT 0 /* CUDA's bound alone */
#define KERNEL extern "C" __attribute__((global, amdgpu_flat_work_group_size(BLOCK, BLOCK))) void
#define INLINE __attribute__((device, always_inline)) inline
#define SHARED __attribute__((shared))
/* What a barrier orders is local memory, as in OpenCL: where the compiler can be told so, the caches of global memory
 * are left alone. */
#if __clang_major__ >= 19
#define FENCE_(order) __builtin_amdgcn_fence(order, "workgroup", "local")
#else
#define FENCE_(order) __builtin_amdgcn_fence(order, "workgroup")
#endif
#define BARRIER() \
    do { \
        FENCE_(__ATOMIC_RELEASE); \
        __builtin_amdgcn_s_barrier(); \
        FENCE_(__ATOMIC_ACQUIRE); \
    } while (0)
/* Accesses of this work-item to global memory before it are visible on the device before those behind it; and a count
 * in global memory goes up by 1, and gives what it was. */
#define FENCE() __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "agent")
#define COUNT_UP(pointer) __hip_atomic_fetch_add(pointer, 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT)

#define UNROLL_ALWAYS _Pragma("unroll")

#define LANE ((u32)__builtin_amdgcn_workitem_id_x())
#define GROUP_X ((u32)__builtin_amdgcn_workgroup_id_x())
#define GROUP_Y ((u32)__builtin_amdgcn_workgroup_id_y())
#define GROUP_Z ((u32)__builtin_amdgcn_workgroup_id_z())

#define AS_U32(value) __builtin_bit_cast(u32, (float)(value))
#define AS_F32(value) __builtin_bit_cast(float, (u32)(value))
#define SQRT(value) __builtin_sqrtf(value)
#define RINT(value) __builtin_rintf(value)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#define FMAX(a, b) __builtin_fmaxf(a, b)

/* From LLVM 18 on the AMDGPU backend expands both to within 2 ULP by itself; before, the device library has them. */
#if __clang_major__ >= 18
#define EXP(value) __builtin_elementwise_exp((float)(value))
#define LOG(value) __builtin_elementwise_log((float)(value))
#else
extern "C" __attribute__((device, const)) float __ocml_exp_f32(float);
extern "C" __attribute__((device, const)) float __ocml_log_f32(float);
#define EXP(value) __ocml_exp_f32(value)
#define LOG(value) __ocml_log_f32(value)
#endif

/* gfx11 and later have the mixed-sign dot product only; gfx9 from Vega 20 on and most of gfx10 have the signed one. */
#if defined(__GFX11__) || defined(__GFX12__)
#define DP4A(a, b, sum) __builtin_amdgcn_sudot4(true, (i32)(a), true, (i32)(b), sum, false)
#elif defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx940__) || \
    defined(__gfx941__) || defined(__gfx942__) || defined(__gfx950__) || defined(__gfx1011__) || \
    defined(__gfx1012__) || defined(__gfx1030__) || defined(__gfx1031__) || \
    defined(__gfx1032__) || defined(__gfx1033__) || defined(__gfx1034__) || defined(__gfx1035__) || \
    defined(__gfx1036__)
#define DP4A(a, b, sum) __builtin_amdgcn_sdot4((i32)(a), (i32)(b), sum, false)
#else
INLINE i32 dot_bytes(u32 a, u32 b, i32 sum)
{
    UNROLL_ALWAYS for (u32 shift = 0; shift < 32; shift += 8) {
        sum += (i32)(i8)(a >> shift) * (i32)(i8)(b >> shift);
    }
    return sum;
}
#define DP4A(a, b, sum) dot_bytes(a, b, sum)
#endif

#define LOAD_F16(pointer, at) ((float)(pointer)[at])
#define STORE_F16(pointer, at, value) ((pointer)[at] = (f16)(value))

/* LOAD_U32X4 that is to be issued where it stands: loads come back in their order, so what is waited for first stands
 * first. */
INLINE u32x4 early_u32x4(const void* pointer, u32 at) { return ((const u32x4*)pointer)[at]; }
#define strong_u32x4 early_u32x4
INLINE u32 early_u32(const void* pointer, u32 at) { return ((const u32*)pointer)[at]; }

/* The same of what is read once: it need not push what is read again out of the caches. */
INLINE u32x4 stream_u32x4(const void* pointer, u32 at)
{
    return __builtin_nontemporal_load((const u32x4*)pointer + at);
}

/* What stands before ISSUED is not scheduled behind it. And a load stands before the KEEP of its value, which waits for
 * it: else it may sink into the branch, or to the end, where its value is used. */
#define ISSUED() __builtin_amdgcn_sched_barrier(0)
#define KEEP(value) asm volatile("" : "+v"(value))

/* The eight halves that 16 bytes hold, as f32. */
INLINE void unpack_f16x8(u32x4 words, float* out)
{
    typedef f16 f16x8 __attribute__((ext_vector_type(8)));
    const f16x8 values = __builtin_bit_cast(f16x8, words);
    UNROLL_ALWAYS for (u32 i = 0; i < 8; ++i) {
        out[i] = (float)values[i];
    }
}

/* The value of the lane whose number differs by the bits of `mask`; the hardware takes lane numbers modulo REACH_, and
 * no text may ask for one beyond: the trap is compiled away, or refused where texts are compiled for a test. */
template <typename T> INLINE T shuffle_xor(T value, u32 mask)
{
    if (mask >= REACH_) {
        __builtin_trap();
    }
    const i32 source = (i32)((LANE ^ mask) << 2);
    if constexpr (sizeof(T) == 4) {
        return __builtin_bit_cast(T, __builtin_amdgcn_ds_bpermute(source, __builtin_bit_cast(i32, value)));
    } else {
        const u32 low = (u32)__builtin_amdgcn_ds_bpermute(source, (i32)(u32)value);
        const u32 high = (u32)__builtin_amdgcn_ds_bpermute(source, (i32)(u32)(value >> 32));
        return (T)high << 32 | low;
    }
}
#define SHUFFLE_XOR(value, mask) shuffle_xor(value, mask)

//#use common
//#use lanes
//#use turns
