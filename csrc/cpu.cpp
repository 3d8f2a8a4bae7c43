// The CPU backend's native half: which instruction sets this machine has, kernels by name, and programs of them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel.h"
#include "pool.h"

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace py = pybind11;

namespace kparity {

namespace {

// Launches that cost less than this stay on one thread: a barrier is dearer.
constexpr double ALONE_BELOW = 16384;

#ifdef KPARITY_HAS_AMX
// Whether this process may use AMX's int8 tiles. The kernel grants their registers to a process that asks, and to its
// threads.
bool has_amx() {
#ifdef __linux__
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM of a state component
    constexpr unsigned TILES = 1u << 24, INT8 = 1u << 25;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (TILES | INT8)) != (TILES | INT8)) return false;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return false;
#endif
}
#endif

// The sets that were built in and that this machine has, the plainest first.
std::vector<const Isa*> available() {
    std::vector<const Isa*> found{&isa_scalar};
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) {
        found.push_back(&isa_avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni")) {
            found.push_back(&isa_avx512vnni);
#ifdef KPARITY_HAS_AMX
            if (has_amx()) found.push_back(&isa_amx);
#endif
        }
    }
#elif defined(__aarch64__) && defined(__linux__)
    if (getauxval(AT_HWCAP) & (1ul << 20)) found.push_back(&isa_neon);  // HWCAP_ASIMDDP
#elif defined(__aarch64__)
    found.push_back(&isa_neon);
#endif
    return found;
}

class Dictionary final : public Defines {
public:
    Dictionary(std::string op, std::map<std::string, double> values) : op_(std::move(op)), values_(std::move(values)) {}
    double number(const char* name) const override {
        const auto at = values_.find(name);
        if (at == values_.end()) throw std::invalid_argument(op_ + ": the define " + name + " is missing");
        return at->second;
    }

private:
    std::string op_;
    std::map<std::string, double> values_;
};

std::shared_ptr<Kernel> make_kernel(const std::string& isa, const std::string& op,
                                    std::map<std::string, double> defines) {
    const Isa* set = isa.empty() ? nullptr : find_isa(isa.c_str());
    if (!set) throw std::invalid_argument("this machine or build has no instruction set " + isa);
    std::shared_ptr<Kernel> kernel(set->make(op.c_str(), Dictionary(op, std::move(defines))));
    if (!kernel) throw std::invalid_argument("no native kernel " + op);
    return kernel;
}

using Launches = std::vector<std::pair<std::shared_ptr<Kernel>, std::vector<std::uintptr_t>>>;

// A list of launches that runs in one call. Memory belongs to the caller and must outlive the program.
class Program final : public Job {
public:
    Program(std::shared_ptr<Pool> pool, const Launches& launches) : pool_(std::move(pool)) {
        std::size_t scratch = 0;
        for (const auto& [kernel, addresses] : launches) {
            Launch launch{kernel, {}, kernel->cost() < ALONE_BELOW || pool_->threads() == 1};
            for (const std::uintptr_t address : addresses) launch.args.push_back(reinterpret_cast<void*>(address));
            scratch = std::max(scratch, kernel->scratch_bytes());
            alone_ = alone_ && launch.alone;
            launches_.push_back(std::move(launch));
        }
        pool_->reserve(scratch);
    }

    // On all threads, and on one for the second time, to know what that takes, or while more do not pay.
    void run() {
        if (alone_) return pool_->run_alone(*this);
        const auto start = Pace::Clock::now();
        const bool one = ++runs_ == 2 || pool_->pace().alone(start);
        if (one)
            pool_->run_alone(*this);
        else
            pool_->run(*this);
        const auto took = Pace::Clock::now() - start;
        if (one)
            on_one_ = took;
        else if (const Pace::Clock::duration other = on_one_; other.count())
            pool_->pace().took(took, other);
    }

    void work(int thread, int threads, Barrier& barrier, std::uint8_t* scratch) override {
        for (std::size_t i = 0; i < launches_.size(); ++i) {
            const Launch& launch = launches_[i];
            if (!launch.alone)
                launch.kernel->run(launch.args.data(), Slice{thread, threads, scratch});
            else if (thread == 0)
                launch.kernel->run(launch.args.data(), Slice{0, 1, scratch});
            const bool follows = i + 1 < launches_.size();  // two launches of thread 0 need no barrier in between
            if (follows && threads > 1 && !(launch.alone && launches_[i + 1].alone)) barrier.arrive();
        }
    }

private:
    struct Launch {
        std::shared_ptr<Kernel> kernel;
        std::vector<void*> args;
        bool alone;
    };
    std::shared_ptr<Pool> pool_;
    std::vector<Launch> launches_;
    bool alone_ = true;
    std::atomic<unsigned> runs_{0};
    std::atomic<Pace::Clock::duration> on_one_{Pace::Clock::duration::zero()};
};

}  // namespace

const Isa* find_isa(const char* name) {
    static const std::vector<const Isa*> sets = available();
    if (!*name) return sets.back();
    for (const Isa* set : sets)
        if (std::string(name) == set->name) return set;
    return nullptr;
}

void bind_cpu(py::module_& m) {
    m.def(
        "cpu_isas",
        [] {
            std::vector<std::pair<std::string, std::string>> names;
            for (const Isa* set : available()) names.emplace_back(set->name, set->label);
            return names;
        },
        "(name, label) of the instruction sets that this machine has, the plainest first.");
    py::class_<Kernel, std::shared_ptr<Kernel>>(m, "CpuKernel")
        .def(py::init(&make_kernel), py::arg("isa"), py::arg("op"), py::arg("defines"))
        .def_property_readonly("scratch_bytes", &Kernel::scratch_bytes);
    py::class_<Pool, std::shared_ptr<Pool>>(m, "CpuPool")
        .def(py::init<int>(), py::arg("threads"))
        .def_property_readonly("threads", &Pool::threads)
        .def("close", &Pool::close, py::call_guard<py::gil_scoped_release>());
    py::class_<Program>(m, "CpuProgram")
        .def(py::init<std::shared_ptr<Pool>, const Launches&>(), py::arg("pool"), py::arg("launches"))
        .def("run", &Program::run, py::call_guard<py::gil_scoped_release>());
}

}  // namespace kparity
