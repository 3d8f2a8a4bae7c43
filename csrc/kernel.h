// What every CPU kernel is: constants in, buffers at run time, a slice of the work for each thread.
//
// This header is seen by sources that are compiled for different instruction sets, so it declares and does not define:
// an inline function that two of them emit could be linked from the wrong one and fault on an older machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kparity {

// The compile-time constants of a case by name (Op.defines). A missing name throws std::invalid_argument.
class Defines {
public:
    virtual ~Defines();
    virtual double number(const char* name) const = 0;
    std::int64_t integer(const char* name) const;
};

// Which part of a launch the calling thread does, and memory that is its own while it does.
struct Slice {
    int thread;
    int threads;
    std::uint8_t* scratch;  // 64-byte aligned, Kernel::scratch_bytes() long
};

// An op at one case. A kernel splits over threads only what is independent, so its bits do not depend on their number.
class Kernel {
public:
    virtual ~Kernel();
    virtual void run(void* const* args, const Slice& slice) const = 0;
    // Elementary operations of a launch, roughly: small launches stay on one thread.
    virtual double cost() const = 0;
    virtual std::size_t scratch_bytes() const;
};

struct Pair;
struct Findings;

// One instruction set: its name, how the log calls it, its kernels (make() gives nullptr for an unknown op), and its
// comparison of elements [begin, end).
struct Isa {
    const char* name;
    const char* label;
    Kernel* (*make)(const char* op, const Defines& defines);
    void (*compare)(const Pair& pair, std::int64_t begin, std::int64_t end, Findings& out);
};

// A set that was built in and that this machine has, "" for the best; nullptr if there is none of that name.
const Isa* find_isa(const char* name);

extern const Isa isa_scalar, isa_avx2, isa_avx512vnni, isa_amx, isa_neon;

}  // namespace kparity
