// What kernel.h declares, once for all instruction sets.
#include "kernel.h"

namespace kparity {

Defines::~Defines() = default;

std::int64_t Defines::integer(const char* name) const { return static_cast<std::int64_t>(number(name)); }

Kernel::~Kernel() = default;

std::size_t Kernel::scratch_bytes() const { return 0; }

}  // namespace kparity
