// The baseline of the architecture: no extension, runs everywhere.
#define KP_ISA scalar
#define KP_TABLE isa_scalar
#define KP_NAME "scalar"
#define KP_LABEL "scalar"

#include "kernels.h"
