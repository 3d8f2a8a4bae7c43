// The kernels of one instruction set. A source defines KP_ISA (a namespace), KP_NAME and KP_LABEL, is compiled with the
// set's flags, and includes this once. Whatever it emits is local to it or lives in that namespace, where the texts of
// the kernels stand.
#pragma once

#include "compare.h"
#include "simd.h"

namespace kparity::KP_ISA {
namespace {

#include "compare_blocks.h"

#include "../kernels/act_quant/act_quant.h"
#include "../kernels/add/add.h"
#include "../kernels/argmax/argmax.h"
#include "../kernels/attention/attention.h"
#include "../kernels/dense_gemv/dense_gemv.h"
#include "../kernels/embed/embed.h"
#include "../kernels/glu/glu.h"
#include "../kernels/kv_store/kv_store.h"
#include "../kernels/norm_quant/norm_quant.h"
#include "../kernels/rmsnorm/rmsnorm.h"
#include "../kernels/rope/rope.h"
#include "../kernels/rope_store/rope_store.h"
#include "../kernels/tgemv/tgemv.h"
#if defined(KP_AVX512)
#include "../kernels/tgemv/tgemm.h"
#endif

// stream: the sum of a buffer's 64-bit words, as fast as memory gives them: what a bandwidth is measured with.
struct Stream final : Kernel {
    explicit Stream(const Defines& d) : bytes(d.integer("BYTES")) {}
    double cost() const override { return static_cast<double>(bytes); }

    void run(void* const* args, const Slice& slice) const override {
        const auto* data = static_cast<const std::uint8_t*>(args[0]);  // [BYTES]
        auto* sums = static_cast<std::uint64_t*>(args[1]);             // [threads · 8], a cache line each
        const Range part = split(bytes, 4096, slice);
        sums[8 * slice.thread] = checksum(data + part.begin, part.end - part.begin);
    }

    std::int64_t bytes;
};

template <class K>
Kernel* construct(const Defines& defines) {
    return new K(defines);
}

// Tiles of rows have no spans of less than a block.
Kernel* tgemv(const Defines& defines) {
    if (defines.integer("A_PER_32") != 0 && defines.integer("OUT_I32") == 0) return new Tgemv<8>(defines);
    const std::int64_t parts = CODES / defines.integer("SPAN");
    if (parts == 4) return new Tgemv<4>(defines);
    if (parts == 2) return new Tgemv<2>(defines);
#if defined(KP_AVX512)
    if (defines.integer("M") >= TILED_FROM) return new Tgemm(defines);
#endif
    return new Tgemv<1>(defines);
}

const struct {
    const char* op;
    Kernel* (*construct)(const Defines&);
} TABLE[] = {
    {"act_quant", construct<ActQuant>},
    {"add", construct<Add>},
    {"argmax", construct<Argmax>},
    {"attention", construct<Attention>},
    {"dense_gemv", construct<DenseGemv>},
    {"embed", construct<Embed>},
    {"glu", construct<Glu>},
    {"kv_store", construct<KvStore>},
    {"norm_quant", construct<NormQuant>},
    {"rmsnorm", construct<RmsNorm>},
    {"rope", construct<Rope>},
    {"rope_store", construct<RopeStore>},
    {"stream", construct<Stream>},
    {"tgemv", tgemv},
};

Kernel* make(const char* op, const Defines& defines) {
    for (const auto& entry : TABLE)
        if (std::strcmp(entry.op, op) == 0) return entry.construct(defines);
    return nullptr;
}

}  // namespace
}  // namespace kparity::KP_ISA

namespace kparity {

const Isa KP_TABLE = {KP_NAME, KP_LABEL, KP_ISA::make, KP_ISA::compare::part};

}  // namespace kparity
