// Threads that wait for a job, run it together, and meet at barriers within it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kparity {

// A point that a fixed number of threads must all reach. A waiter spins for some microseconds, the time in which a
// neighbour on its own core arrives, and then sleeps, so that more threads than cores cost time but never a processor.
class Barrier {
public:
    Barrier(int threads, bool spin) : threads_(threads), spin_(spin) {}
    void arrive();
    // Waits until `value` differs from `seen`; release() after a change wakes whoever sleeps.
    void wait(const std::atomic<std::uint32_t>& value, std::uint32_t seen);
    void release();

private:
    const int threads_;
    const bool spin_;
    std::atomic<int> arrived_{0};
    std::atomic<std::uint32_t> phase_{0};
    std::atomic<int> sleepers_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

// Whether several threads pay. On a busy machine each barrier waits until the scheduler lets the other threads on: a
// step of 0.1 ms then takes 30. So what jobs took on all threads is held against what they take on one and, where more
// was lost than a slice of the scheduler's, all of them run on one for a while, for longer each time.
class Pace {
public:
    using Clock = std::chrono::steady_clock;

    bool alone(Clock::time_point now) {
        std::lock_guard<std::mutex> lock(mutex_);
        return now < until_;
    }
    // A job took so long on all threads, that takes `one` on one.
    void took(Clock::duration all, Clock::duration one);

private:
    std::mutex mutex_;
    Clock::time_point until_{};
    Clock::duration lost_{};
    int length_ = 1;
};

class Job {
public:
    virtual ~Job() = default;
    // The share of one of `threads` threads; of one alone no barrier may be asked for.
    virtual void work(int thread, int threads, Barrier& barrier, std::uint8_t* scratch) = 0;
};

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }
    Pace& pace() { return pace_; }
    // Each thread gets at least this much scratch from the next run on.
    void reserve(std::size_t scratch_bytes);
    // Runs the job on all threads, the caller's being thread 0. One job at a time; further callers wait.
    void run(Job& job);
    // Runs the job on the calling thread alone, with the scratch of thread 0.
    void run_alone(Job& job);
    // Ends the threads. Throws std::runtime_error on a later run.
    void close();

private:
    struct State;
    const int threads_;
    Pace pace_;
    std::size_t scratch_bytes_ = 0;
    bool closed_ = false;
    std::unique_ptr<State> state_;
    std::mutex guard_;  // of the state: threads start at the first run, and once more in a forked child

    State& state();
    static void serve(State& state, int thread, int threads);
};

}  // namespace kparity
