// AArch64 NEON with the dot-product extension.
#define KP_ISA neon
#define KP_NEON
#define KP_TABLE isa_neon
#define KP_NAME "neon"
#define KP_LABEL "NEON"

#include "kernels.h"
