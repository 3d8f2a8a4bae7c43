// AVX2, FMA and F16C.
#define KP_ISA avx2
#define KP_AVX2
#define KP_TABLE isa_avx2
#define KP_NAME "avx2"
#define KP_LABEL "AVX2"

#include "kernels.h"
