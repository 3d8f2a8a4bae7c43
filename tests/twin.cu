// One text, two back ends of one compiler: a processor's, and PTX. Whatever both define alike is in it: wrap-around,
// shifts, 64 bits, division, conversions, one rounding for a fused product, NaN, and control flow that diverges.
#ifdef HOST
#include <math.h>
#define BOTH static
#else
#define BOTH __device__ static
#endif

typedef unsigned u32;
typedef unsigned long long u64;
typedef long long i64;

BOTH u32 whole(u32 a, u32 b) {
    u32 sum = a * 2654435761u + (b ^ (a >> 13));
    const int signedly = (int)a >> (b & 31);
    const u64 wide = (u64)a * b + ((u64)b << 32 | a);
    sum += (u32)(wide >> 32) ^ (u32)signedly;
    sum = sum << (a & 31) | sum >> (-(int)a & 31);
    sum ^= a % (b | 1u) + a / (b | 1u) * 3u;
    sum += (u32)((int)a % ((int)(b >> 1) | 1)) ^ (u32)((i64)(int)a * (int)b >> 17);
    sum ^= (u32)(signed char)(a >> 8) + (u32)(unsigned char)b + (u32)(short)(b >> 3);
    sum += (a < b) + 2u * ((int)a < (int)b) + 4u * ((u64)a * a > wide);
    const int least = (int)a < (int)b ? (int)a : (int)b;
    return sum ^ (u32)least ^ (u32)(wide % 1000003ull);
}

BOTH float real(float x, float y) {
    float z = fmaf(x, y, -x * y);
    z += x / (y == 0.0f ? 1.0f : y);
    z = z * 0.5f + sqrtf(fabsf(y));
    z += fminf(x, y) - fmaxf(x, 1.0f);
    z += floorf(x * 0.25f) + rintf(y) - truncf(x);
    const float held = fminf(fmaxf(z, -1e6f), 1e6f);
    z += (float)(int)held * 1e-3f;
    z += (float)((double)x * (double)y + 0.1);
    return z;
}

BOTH float counted(u32 a, u32 b) {
    return (float)(int)a * 1e-9f + (float)b * 1e-9f + (float)((i64)(((u64)a << 31) ^ b)) * 1e-18f;
}

// How many steps a number takes, with loops in loops, breaks, an early return and a switch.
BOTH u32 walk(u32 seed) {
    u32 steps = 0;
    for (u32 n = seed % 97u + 1u; n != 1u; n = n & 1u ? 3u * n + 1u : n / 2u) {
        if (++steps > 60u) break;
        for (u32 i = 0; i < (n & 3u); ++i) {
            if ((seed >> i & 7u) == 5u) continue;
            if (i * n > 200u) break;
            switch ((n + i) % 5u) {
                case 0: steps += 2; break;
                case 1: steps ^= i; break;
                case 3: if (steps > 400u) return steps; break;
                default: steps += i & 1u;
            }
        }
    }
    return steps;
}

BOTH void all(const u32* a, const u32* b, const float* x, const float* y, u32* out, float* made, u32 i) {
    out[2u * i] = whole(a[i], b[i]);
    out[2u * i + 1u] = walk(a[i] ^ b[i]);
    made[2u * i] = real(x[i], y[i]);
    made[2u * i + 1u] = counted(a[i], b[i]);
}

#ifdef HOST
extern "C" void twin(const u32* a, const u32* b, const float* x, const float* y, u32* out, float* made, u32 n) {
    for (u32 i = 0; i < n; ++i) all(a, b, x, y, out, made, i);
}
#else
extern "C" __global__ void twin(const u32* a, const u32* b, const float* x, const float* y, u32* out, float* made) {
    all(a, b, x, y, out, made, blockIdx.x * blockDim.x + threadIdx.x);
}
#endif
