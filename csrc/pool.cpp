#include "pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#ifndef _WIN32
#include <unistd.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

namespace kparity {
namespace {

// How long a waiter looks without a pause in between, and for how long it then offers its processor to others before it
// sleeps: when the awaited thread has no processor of its own, looking only delays it.
constexpr auto SPIN = std::chrono::microseconds(3);
constexpr auto YIELD = std::chrono::microseconds(40);

// What may be lost before jobs run on one thread, and how long they then do at first; both at least, where a job is
// longer than a slice. The longest time is 128 of the first.
constexpr Pace::Clock::duration SLICE = std::chrono::milliseconds(2);
constexpr int LONGEST = 128;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

long process() {
#ifdef _WIN32
    return 0;
#else
    return static_cast<long>(getpid());
#endif
}

// Where the caller runs, for its workers to run elsewhere. On a busy machine a scheduler wakes a worker on the
// processor of whoever woke it, and leaves it there, since both wait for each other; then two threads do the work of
// one.
class Placement {
public:
#ifdef __linux__
    Placement() { known_ = sched_getaffinity(0, sizeof allowed_, &allowed_) == 0; }
    void caller_is_here() { caller_.store(sched_getcpu(), std::memory_order_relaxed); }
    void move_off_the_caller() const {
        const int caller = caller_.load(std::memory_order_relaxed);
        if (!known_ || caller < 0 || caller >= CPU_SETSIZE || sched_getcpu() != caller) return;
        cpu_set_t elsewhere = allowed_;
        CPU_CLR(static_cast<unsigned>(caller), &elsewhere);
        if (CPU_COUNT(&elsewhere) > 0) sched_setaffinity(0, sizeof elsewhere, &elsewhere);
    }

private:
    cpu_set_t allowed_;
    bool known_ = false;
    std::atomic<int> caller_{-1};
#else
    void caller_is_here() {}
    void move_off_the_caller() const {}
#endif
};

struct Scratch {
    std::vector<std::uint8_t> bytes;

    std::uint8_t* aligned() {
        auto at = reinterpret_cast<std::uintptr_t>(bytes.data());
        return reinterpret_cast<std::uint8_t*>((at + 63) & ~static_cast<std::uintptr_t>(63));
    }
    void reserve(std::size_t wanted) {
        if (bytes.size() < wanted + 64) bytes = std::vector<std::uint8_t>(wanted + 64);
    }
};

}  // namespace

void Pace::took(Clock::duration all, Clock::duration one) {
    std::lock_guard<std::mutex> lock(mutex_);
    lost_ = std::max(Clock::duration::zero(), lost_ + all - one);
    if (all < one) length_ = std::max(1, length_ / 2);
    if (lost_ <= std::max(SLICE, one / 2)) return;
    until_ = Clock::now() + length_ * std::max(SLICE, one);
    length_ = std::min(LONGEST, 2 * length_);
    lost_ = Clock::duration::zero();
}

void Barrier::wait(const std::atomic<std::uint32_t>& value, std::uint32_t seen) {
    if (spin_) {
        const auto start = std::chrono::steady_clock::now();
        auto waited = start - start;
        do {
            if (waited > SPIN) std::this_thread::yield();
            for (int i = 0; i < 16; ++i) {
                if (value.load(std::memory_order_acquire) != seen) return;
                relax();
            }
            waited = std::chrono::steady_clock::now() - start;
        } while (waited < SPIN + YIELD);
    }
    std::unique_lock<std::mutex> lock(mutex_);
    // Sequentially consistent, as is the change that release() follows: one of the two sees the other.
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return value.load() != seen; });
    sleepers_.fetch_sub(1);
}

void Barrier::release() {
    if (sleepers_.load() == 0) return;
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
}

void Barrier::arrive() {
    const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1);
        release();
    } else {
        wait(phase_, phase);
    }
}

struct Pool::State {
    State(int threads, bool spin)
        : barrier(threads, spin), scratch(static_cast<std::size_t>(threads)), owner(process()) {}

    Barrier barrier;
    Placement placement;
    std::vector<Scratch> scratch;
    std::vector<std::thread> workers;
    std::mutex running;
    std::atomic<std::uint32_t> generation{0};  // of jobs; changes when there is one, or when it is time to stop
    Job* job = nullptr;                        // nullptr: stop
    const long owner;                          // the process whose threads these are
};

Pool::Pool(int threads) : threads_(threads) {
    if (threads < 1) throw std::invalid_argument("a pool has at least one thread");
}

Pool::~Pool() { close(); }

void Pool::serve(State& state, int thread, int threads) {
    std::uint32_t seen = 0;
    for (;;) {
        state.barrier.wait(state.generation, seen);
        ++seen;
        Job* job = state.job;
        if (!job) return;
        state.placement.move_off_the_caller();
        job->work(thread, threads, state.barrier, state.scratch[static_cast<std::size_t>(thread)].aligned());
        state.barrier.arrive();
    }
}

Pool::State& Pool::state() {
    std::lock_guard<std::mutex> lock(guard_);
    if (closed_) throw std::runtime_error("the thread pool is closed");
    // Forked: the threads stayed behind, with whatever they hold.
    if (state_ && state_->owner != process()) state_.release();
    if (!state_) {
        const bool spin = static_cast<unsigned>(threads_) <= std::thread::hardware_concurrency();
        state_ = std::make_unique<State>(threads_, spin);
        for (int thread = 1; thread < threads_; ++thread)
            state_->workers.emplace_back(serve, std::ref(*state_), thread, threads_);
    }
    return *state_;
}

void Pool::reserve(std::size_t scratch_bytes) {
    std::lock_guard<std::mutex> lock(guard_);
    if (scratch_bytes > scratch_bytes_) scratch_bytes_ = scratch_bytes;
}

void Pool::run(Job& job) {
    State& at = state();
    std::lock_guard<std::mutex> lock(at.running);
    for (auto& scratch : at.scratch) scratch.reserve(scratch_bytes_);
    at.placement.caller_is_here();
    at.job = &job;
    at.generation.fetch_add(1);
    at.barrier.release();
    job.work(0, threads_, at.barrier, at.scratch[0].aligned());
    at.barrier.arrive();
}

void Pool::run_alone(Job& job) {
    State& at = state();
    std::lock_guard<std::mutex> lock(at.running);
    at.scratch[0].reserve(scratch_bytes_);
    job.work(0, 1, at.barrier, at.scratch[0].aligned());
}

void Pool::close() {
    std::lock_guard<std::mutex> lock(guard_);
    closed_ = true;
    if (!state_) return;
    if (state_->owner != process()) {
        state_.release();
        return;
    }
    {
        std::lock_guard<std::mutex> running(state_->running);
        state_->job = nullptr;
        state_->generation.fetch_add(1);
        state_->barrier.release();
    }
    for (auto& worker : state_->workers) worker.join();
    state_.reset();
}

}  // namespace kparity
