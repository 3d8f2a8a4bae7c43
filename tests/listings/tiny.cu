/* Three kernels whose loads a person can count; the listings beside are of them:
 *   nvcc -cubin -arch=sm_90 tiny.cu -o tiny.cubin && nvdisasm -c -hex tiny.cubin > tiny.sm_90.sass
 *   clang-19 -x hip --cuda-device-only -nogpulib -nogpuinc -O2 --offload-arch=gfx942 -S -o tiny.gfx942.s tiny.cu
 * (and gfx1201), without what stands between the kernels.
 */
#if __HIP__
typedef unsigned uint4 __attribute__((ext_vector_type(4)));
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define LANE __builtin_amdgcn_workitem_id_x()
#define WAIT() __builtin_amdgcn_s_barrier()
#define STREAM(p) __builtin_nontemporal_load(p)
#else
#define LANE threadIdx.x
#define WAIT() __syncthreads()
__device__ uint4 stream(const uint4* p)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
#define STREAM(p) stream(p)
#endif

#if __HIP__
__attribute__((device))
#else
__device__
#endif
unsigned mixed(uint4 v) { return v.x ^ v.y ^ v.z ^ v.w; } /* all of it is wanted: no load is narrowed */

/* Activations first, two streamed loads under way while they are stored, one latency. */
extern "C" __global__ void together(const uint4* w, const uint4* q, unsigned* y)
{
    __shared__ uint4 kept[128];
    const unsigned lane = LANE;
    const uint4 piece = q[lane], one = STREAM(w + lane), two = STREAM(w + lane + 128);
    kept[lane] = piece;
    WAIT();
    const uint4 other = kept[lane ^ 1];
    y[lane] = mixed(one) * mixed(other) + mixed(two);
}

/* A streamed load whose address comes from memory: two latencies, one load in flight; and a late one. */
extern "C" __global__ void chained(const uint4* w, const unsigned* at, unsigned* y)
{
    const uint4 one = STREAM(w + at[LANE]);
    if (mixed(one) != 0) {
        y[LANE] = at[one.z];
    }
}

/* A loop of one 16-byte load each time. */
extern "C" __global__ void looped(const uint4* w, unsigned* y, int count)
{
    unsigned sum = 0;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        sum += mixed(STREAM(w + LANE + 128 * i));
    }
    y[LANE] = sum;
}
