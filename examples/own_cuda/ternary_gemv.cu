/* Somebody's own ternary GEMV, y = acc · (ascale · wscale): it knows nothing of kparity but how weights are packed.
 *
 * A block computes ROWS rows of w for one row of activations, which it keeps in shared memory, a tile at a time. A word
 * holds 16 codes w + 1: element e is in byte e % 4, at bits 2·(e / 4).
 */

#ifndef TILE
#define TILE 1024
#endif

extern "C" __global__ void ternary_gemv(
    const signed char* q, const unsigned* w, float* y, const float* ascale, const float* wscale, int rows, int words)
{
    __shared__ int active[TILE / 4];
    __shared__ int partial[ROWS][LANES];
    const int lane = threadIdx.x, slot = threadIdx.y, row = blockIdx.x * ROWS + slot, token = blockIdx.y;
    const int* four = (const int*)(q + (long long)token * words * 16);

    int acc = 0;
    for (int first = 0; first < words; first += TILE / 16) {
        const int count = min(TILE / 16, words - first);
        __syncthreads(); /* the last tile has been read */
        for (int i = slot * LANES + lane; i < count * 4; i += ROWS * LANES) {
            active[i] = four[first * 4 + i];
        }
        __syncthreads(); /* this tile is there */
        if (row < rows) {
            for (int i = lane; i < count; i += LANES) {
                const unsigned word = w[(long long)row * words + first + i];
                for (int s = 0; s < 4; ++s) {
                    const int codes = (word >> (2 * s)) & 0x03030303u, x = active[i * 4 + s];
                    acc = __dp4a(codes, x, acc);
                    acc = __dp4a((int)0xFFFFFFFF, x, acc); /* a code is w + 1 */
                }
            }
        }
    }

    partial[slot][lane] = acc;
    for (int half = LANES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half) {
            partial[slot][lane] += partial[slot][lane + half];
        }
    }
    if (lane == 0 && row < rows) {
        y[token * rows + row] = (float)partial[slot][0] * (ascale[token] * wscale[0]);
    }
}
