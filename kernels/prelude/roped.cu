/* ROPED: the queries of a group, and the key and value of the newest position, from a row of qkv, in rope_store's way.
 * NEOX: pairs i, i + R/2; else 2i, 2i + 1.
 */
#ifndef ROPED
#define ROPED 0
#endif
#if ROPED
#define PAIRS (D / 2)
#define ITEMS ((TILE_H + 2) * PAIRS) /* pairs of a group's queries, of a key and of a value */
#define TURNS ((ITEMS + BLOCK - 1) / BLOCK)
#define ALL_TURNED() BARRIER() /* before anybody reads what others have turned */

/* Where the two elements of a pair lie in their head. */
INLINE u32 place_of(u32 pair, u32 turns, u32 second)
{
#if NEOX
    if (turns && pair < R / 2) {
        return pair + second * (R / 2);
    }
#endif
    return 2 * pair + second;
}

/* A pair, turned by the position where it is told to. */
INLINE void turn(float angle, u32 turns, float* pair)
{
    if (turns) {
        float sine, cosine;
        sine_cosine(angle, &sine, &cosine);
        const float first = pair[0] * cosine - pair[1] * sine, second = pair[1] * cosine + pair[0] * sine;
        pair[0] = first;
        pair[1] = second;
    }
}
#endif
