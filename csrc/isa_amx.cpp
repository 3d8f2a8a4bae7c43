// AMX int8 tiles for many rows of activations, AVX-512 as in isa_avx512.cpp for all else.
#define KP_ISA amx
#define KP_AVX512
#define KP_AMX
#define KP_TABLE isa_amx
#define KP_NAME "amx"
#define KP_LABEL "AVX-512 VNNI + AMX"

#include "kernels.h"
