/* embed: rows of a table, gathered by id.
 *
 * ABI: table [ROWS, D] f16|f32, ids [M] i32 -> x [M, D] f32
 * Grid: one group per id.
 * Options: F16 (type of the table), ROW0 and ROWS (the part of the V rows that is bound).
 */
//#use element

KERNEL embed(GLOBAL const ELEMENT* RESTRICT table, GLOBAL const i32* RESTRICT ids, GLOBAL float* RESTRICT x)
{
    const u32 m = GROUP_X, lane = LANE;
    /* An id before the part wraps to a large number: one comparison tells both. */
    const u32 row = (u32)ids[m] - (u32)ROW0;
    GLOBAL float* target = x + (u64)m * D;
    if (row < (u32)ROWS) {
        GLOBAL const ELEMENT* source = table + (u64)row * D;
        for (u32 d = lane; d < D; d += BLOCK) {
            target[d] = LOAD(source, d);
        }
    }
#if ROWS == V
    else { /* the whole vocabulary is bound and has no such row: fail closed, with NaN */
        for (u32 d = lane; d < D; d += BLOCK) {
            target[d] = AS_F32(0x7fc00000u);
        }
    }
#endif
}
