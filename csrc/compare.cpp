// One pass over two arrays: the sums behind the metrics, the extremes, the counts and the worst element.
//
// The arrays are cut into at most PARTS parts of whole blocks, which depends on their length alone. Threads take the
// parts as they come and each part has its own findings, joined in order: the bits of a result do not depend on the
// number of threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "compare.h"
#include "kernel.h"

namespace py = pybind11;

namespace kparity {
namespace {

constexpr std::int64_t PARTS = 256;
constexpr std::int64_t LEAST_BLOCKS = 16;
constexpr std::int64_t PER_THREAD = 1 << 17;  // elements that are compared sooner than a thread is started

struct Type {
    Element element;
    char kind;
    py::ssize_t bytes;
    double range;  // the least fp64 value that rounds to infinity
};

const Type TYPES[] = {
    {Element::f32, 'f', 4, 0x1p128 - 0x1p103}, {Element::f16, 'f', 2, 65520.0},
    {Element::f64, 'f', 8, std::numeric_limits<double>::infinity()},
    {Element::i64, 'i', 8, std::numeric_limits<double>::quiet_NaN()},
    {Element::i32, 'i', 4, std::numeric_limits<double>::quiet_NaN()},
    {Element::u32, 'u', 4, std::numeric_limits<double>::quiet_NaN()},
    {Element::i8, 'i', 1, std::numeric_limits<double>::quiet_NaN()},
};

const Type& type_of(const py::array& array) {
    for (const Type& type : TYPES)
        if (array.dtype().kind() == type.kind && array.dtype().itemsize() == type.bytes &&
            array.dtype().byteorder() != '>')
            return type;
    throw std::invalid_argument("compare takes f16, f32, f64, i8, i32, i64 and u32");
}

void require(bool good, const char* message) {
    if (!good) throw std::invalid_argument(message);
}

struct Totals {
    double sums[SUM_COUNT] = {};
    Findings rest{};  // all but the sums

    void join(const Findings& part) {
        for (int s = 0; s < SUM_COUNT; ++s)
            sums[s] += std::accumulate(part.sums.at[s], part.sums.at[s] + COMPARE_LANES, 0.0);
        for (int c = 0; c < COUNTS; ++c) rest.counts[c] += part.counts[c];
        rest.max_abs = std::max(rest.max_abs, part.max_abs);
        rest.max_rel = std::max(rest.max_rel, part.max_rel);
        rest.max_ulp = std::max(rest.max_ulp, part.max_ulp);
        if (part.worst < 0 || part.worst_used < rest.worst_used) return;
        if (part.worst_used == rest.worst_used && part.worst_error < rest.worst_error) return;
        rest.worst_used = part.worst_used;
        rest.worst_error = part.worst_error;
        rest.worst = part.worst;
    }
};

Totals run(const Pair& pair, const Isa& isa, int threads) {
    const std::int64_t blocks = (pair.count + COMPARE_BLOCK - 1) / COMPARE_BLOCK;
    const std::int64_t size = std::max(LEAST_BLOCKS, (blocks + PARTS - 1) / PARTS) * COMPARE_BLOCK;
    const std::int64_t parts = (pair.count + size - 1) / size;
    std::vector<Findings> found(static_cast<std::size_t>(parts));
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        Extremes known{};  // extremes of this thread's earlier parts, all before the next one: lesser ones need no look
        for (std::int64_t at = next++; at < parts; at = next++) {
            Findings& mine = found[static_cast<std::size_t>(at)];
            mine = Findings{known, -1, {}, {}};
            isa.compare(pair, at * size, std::min(pair.count, (at + 1) * size), mine);
            known = mine;
        }
    };
    const std::int64_t wanted = threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
    const std::int64_t useful = threads > 0 ? parts : std::min(parts, pair.count / PER_THREAD);
    std::vector<std::thread> others;
    for (std::int64_t i = 1; i < std::min(wanted, useful); ++i) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
    Totals totals;
    for (const Findings& part : found) totals.join(part);
    for (double& sum : totals.sums)  // the sign of a NaN depends on the order of operands that a compiler chose
        if (sum != sum) sum = std::numeric_limits<double>::quiet_NaN();
    return totals;
}

py::dict compare(const py::array& got, const py::array& truth, const std::optional<py::array_t<double>>& limit,
                 bool bits, int threads, const std::string& isa_name) {
    const Type &got_type = type_of(got), &truth_type = type_of(truth);
    require(got.size() > 0 && got.size() == truth.size(), "two arrays of the same length, at least one element");
    require(got.flags() & truth.flags() & py::array::c_style, "the arrays must be C-contiguous");
    require(!(limit && bits), "either a limit or equal bits");
    require(!limit || (limit->size() == got.size() && (limit->flags() & py::array::c_style)), "the limit must match");
    const Isa* isa = find_isa(isa_name.c_str());
    require(isa != nullptr, "this machine or build has no such instruction set");
    const Rule rule = limit ? Rule::limit : bits ? Rule::bits : Rule::none;
    const Pair pair{got.data(), truth.data(), limit ? limit->data() : nullptr, got_type.element, truth_type.element,
                    rule, got_type.range,
                    rule == Rule::none ? std::numeric_limits<double>::quiet_NaN() : got_type.range, got.size()};
    Totals totals;
    {
        py::gil_scoped_release release;
        totals = run(pair, *isa, threads);
    }
    using namespace py::literals;
    const Findings& rest = totals.rest;
    const auto& counts = rest.counts;
    const auto& sums = totals.sums;
    return py::dict("got_nan"_a = counts[GOT_NAN], "truth_nan"_a = counts[TRUTH_NAN], "got_inf"_a = counts[GOT_INF],
                    "truth_inf"_a = counts[TRUTH_INF], "wrong"_a = counts[WRONG], "negative"_a = counts[NEGATIVE],
                    "worst"_a = rest.worst, "used"_a = rest.worst_used, "error"_a = rest.worst_error,
                    "max_abs"_a = rest.max_abs, "max_rel"_a = rest.max_rel, "max_ulp"_a = rest.max_ulp,
                    "got_sq"_a = sums[GOT_SQ], "truth_sq"_a = sums[TRUTH_SQ], "product"_a = sums[PRODUCT],
                    "error_sq"_a = sums[ERROR_SQ], "signed"_a = sums[ERROR_SUM]);
}

}  // namespace

void bind_compare(py::module_& m) {
    m.def("compare", &compare, py::arg("got"), py::arg("truth"), py::arg("limit") = py::none(), py::arg("bits") = false,
          py::arg("threads") = 0, py::arg("isa") = "",
          "The aggregates of two arrays in one pass, by the rules of kparity/numerics/aggregates.py; isa: one of "
          "cpu_isas, by default the best.");
}

}  // namespace kparity
