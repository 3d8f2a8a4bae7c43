/* What all preludes have in common. */
#ifndef WAVE
/* Lanes that a reduction joins first: 32 is right for a wavefront of 64 too, only slower; BLOCK is a multiple of it. */
#define WAVE 32
#endif
#define GROUP_FOLDED (GROUP_Y * 32768u + GROUP_X) /* a grid that the launch folded at 32768 groups */
#define LOAD_U32X4(pointer, at) (((GLOBAL const u32x4*)(pointer))[at])
#define LOAD_F32X4(pointer, at) (((GLOBAL const f32x4*)(pointer))[at])
