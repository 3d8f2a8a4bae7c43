// What a multiprocessor does at best, in loops that need no memory of the device. Every thread writes what it computed:
// a rate counts only with the right result. ROUNDS is defined in front of this text.

extern "C" __global__ void dp4a_rate(int* out)
{
    int sums[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        sums[i] = threadIdx.x + i;
    for (int round = 0; round < ROUNDS; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) // a sum is also a factor, so that no product can be moved out of the loop
            sums[i] = __dp4a(sums[i], 0x01010101, sums[i]);
    }
    int total = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        total ^= sums[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

extern "C" __global__ void mma_rate(int* out)
{
    int sums[4][4] = {};
    const unsigned ones = 0x01010101, twos = 0x02020202; // each of 32 products is 2
    for (int round = 0; round < ROUNDS; round++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, "
                         "{%5, %5}, {%0, %1, %2, %3};"
                : "+r"(sums[i][0]), "+r"(sums[i][1]), "+r"(sums[i][2]), "+r"(sums[i][3])
                : "r"(ones), "r"(twos));
    }
    int total = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        total += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

extern "C" __global__ void shared_rate(int* out)
{
    __shared__ int4 words[512];
    for (int at = threadIdx.x; at < 512; at += blockDim.x)
        words[at] = make_int4(at, 2 * at, 3 * at, 4 * at);
    __syncthreads();
    int sums[4] = {};
    unsigned at = threadIdx.x;
    for (int round = 0; round < ROUNDS; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int4 word = words[(at + 32 * i) % 512]; // neighbours read neighbours: no two lanes meet in a bank
            sums[i % 4] += word.x ^ word.y ^ word.z ^ word.w;
        }
        at += sums[0] & 1; // the next address depends on what was read
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = sums[0] + sums[1] + sums[2] + sums[3];
}
