// AVX-512 F, BW, DQ, VL and VNNI.
#define KP_ISA avx512
#define KP_AVX512
#define KP_TABLE isa_avx512vnni
#define KP_NAME "avx512vnni"
#define KP_LABEL "AVX-512 VNNI"

#include "kernels.h"
