/* The element of a cache or a table, f16 or f32 (F16), and how it is read and written; LOAD8 is for aligned rows. */
#if F16
#define ELEMENT f16
#define LOAD(pointer, at) LOAD_F16(pointer, at)
#define LOAD8 load_f16x8
#define STORE(pointer, at, value) STORE_F16(pointer, at, value)
#else
#define ELEMENT float
#define LOAD(pointer, at) (pointer)[at]
#define LOAD8 load_f32x8
#define STORE(pointer, at, value) ((pointer)[at] = (value))
#endif
