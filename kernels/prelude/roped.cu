/* ROPED: the queries of a group, and the key and value of the newest position, from a row of qkv, in rope_store's way.
 * NEOX: pairs i, i + R/2; else 2i, 2i + 1.
 */
#ifndef ROPED
#define ROPED 0
#endif
#if ROPED
#define PAIRS (D / 2)
#define ALL_TURNED() BARRIER() /* before anybody reads what others have turned */

/* Two elements of a head, and where they lie there; turned by the position where they are told to. */
INLINE void pair_of(GLOBAL const float* source, GLOBAL const float* freq, i32 now, u32 pair, u32 turns, u32* at,
    float* out)
{
    at[0] = 2 * pair;
    at[1] = 2 * pair + 1;
    if (turns && pair < R / 2) {
#if NEOX
        at[0] = pair;
        at[1] = pair + R / 2;
#endif
        float sine, cosine;
        sine_cosine((float)now * freq[pair], &sine, &cosine);
        out[0] = source[at[0]] * cosine - source[at[1]] * sine;
        out[1] = source[at[1]] * cosine + source[at[0]] * sine;
    } else {
        out[0] = source[at[0]];
        out[1] = source[at[1]];
    }
}
#endif
