// fold: the two stages of a reduction. FOLD lanes take CHUNK neighbours each, then whoever needs it joins those: two
// barriers instead of a tree's six or eight. The bounds of the first depend on the lane, so that a compiler for CPUs
// does not unroll it for the lanes that have no part in it.

const FOLD: u32 = select(8u, 16u, BLOCK > 64u);
const CHUNK: u32 = BLOCK / FOLD;
