/* A ternary GEMV that knows nothing of kparity: plain C. */
#include <stddef.h>
#include <stdint.h>

/* y[m][n] = Σ_k w[n][k] · q[m][k] · ascale[m] · wscale[0]. A row of w has K rounded up to 256 codes of 2 bits, 16 a
 * word: element e of a word lies in byte e % 4 at bits 2·(e / 4), and is the weight + 1. */
void ternary_gemv(const uint32_t *w, const float *wscale, const int8_t *q, const float *ascale, const int32_t *qsum,
                  float *y, int64_t rows_of_q, int64_t rows_of_w, int64_t columns) {
    const size_t padded = ((size_t)columns + 255) / 256 * 256;
    for (int64_t m = 0; m < rows_of_q; ++m) {
        for (int64_t n = 0; n < rows_of_w; ++n) {
            const uint32_t *row = w + (size_t)n * (padded / 16);
            const int8_t *token = q + (size_t)m * padded;
            int32_t sum = -qsum[m]; /* codes are one too large */
            for (size_t k = 0; k < padded; ++k)
                sum += (int32_t)(row[k / 16] >> (8 * (k % 4) + 2 * (k % 16 / 4)) & 3) * token[k];
            y[m * rows_of_w + n] = (float)sum * (ascale[m] * wscale[0]);
        }
    }
}

/* The same with arguments of its own, which ternary_gemv.yaml maps. */
void my_gemv(float *y, int n, int k, int m, const uint32_t *w, const int8_t *q, const int32_t *qsum,
             const float *ascale, const float *wscale) {
    ternary_gemv(w, wscale, q, ascale, qsum, y, m, n, k);
}
