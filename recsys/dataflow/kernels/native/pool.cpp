#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <chrono>
#include <mutex>
#include <new>

namespace recsys {

// What caller and threads share. `gate` is (closed << 31 | threads inside): a thread takes part in a job only by raising the
// count while the gate is open, so that one that wakes late touches nothing.
struct Pool::State {
  // Tasks [next, end), claimed one by one: by the lane's own CPU, and by others that have nothing left to do.
  struct alignas(64) Lane {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
    alignas(64) std::atomic<uint32_t> call{0};  // what the lane's thread sleeps on; bumped for a job and at the end
  };

  explicit State(size_t count) : lanes(count) {}
  std::vector<Lane> lanes;
  Job* job = nullptr;
  size_t caller = 0;  // the lane that the caller serves
  std::atomic<int64_t> left{0};
  std::atomic<uint32_t> gate{kClosed};
  std::atomic<bool> stop{false};
  std::atomic<int> holders{1};  // the pool and its threads; the last one frees

  static constexpr uint32_t kClosed = 1u << 31, kCount = kClosed - 1;

  void leave() {
    if (holders.fetch_sub(1) == 1) delete this;
  }

  void wake(size_t lane) {
    lanes[lane].call.fetch_add(1, std::memory_order_release);
    lanes[lane].call.notify_one();
  }

  // Waking takes a while, so that each that is awake wakes two more.
  void wake_next(size_t own) {
    const size_t count = lanes.size(), place = (own + count - caller) % count;
    for (size_t next = 2 * place + 1; next <= 2 * place + 2 && next < count; next++) wake((caller + next) % count);
  }

  // Claims tasks, those of `own` first, then the others', until there are none.
  void claim(size_t own) {
    for (size_t k = 0; k < lanes.size(); k++) {
      Lane& lane = lanes[(own + k) % lanes.size()];
      int64_t done = 0;
      while (lane.next.load(std::memory_order_relaxed) < lane.end) {
        const int64_t index = lane.next.fetch_add(1, std::memory_order_relaxed);
        if (index >= lane.end) break;
        job->task(index);
        done++;
      }
      if (done) left.fetch_sub(done, std::memory_order_release);
    }
  }

  bool enter() {
    uint32_t seen = gate.load(std::memory_order_acquire);
    while (!(seen & kClosed))
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) return true;
    return false;
  }
};

namespace {

std::atomic<uint64_t> forks{0};

void count_forks() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); }); });
}

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins for a moment, for that is the usual case, and then lets others have the core.
template <class Done>
void wait_until(Done done) {
  for (int i = 0; !done(); i++)
    if (i < 2000)
      pause();
    else
      sched_yield();
}

// A batch often follows the one before at once, and waking a thread that sleeps takes longer than a small batch.
void linger(const std::atomic<uint32_t>& call, uint32_t seen) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
  while (call.load(std::memory_order_relaxed) == seen && std::chrono::steady_clock::now() < until) pause();
}

struct Start {
  Pool::State* state;
  size_t lane;
  int cpu;
};

void bind(int cpu) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // where that is not allowed, it runs anywhere
#else
  (void)cpu;
#endif
}

void* serve(void* raw) {
  const Start start = *static_cast<Start*>(raw);
  delete static_cast<Start*>(raw);
  bind(start.cpu);
  auto* const state = start.state;
  const auto& call = state->lanes[start.lane].call;
  for (uint32_t seen = 0; !state->stop.load();) {
    linger(call, seen);
    call.wait(seen);
    seen = call.load(std::memory_order_acquire);
    if (!state->enter()) continue;
    state->wake_next(start.lane);
    state->claim(start.lane);
    state->gate.fetch_sub(1, std::memory_order_release);
  }
  state->leave();
  return nullptr;
}

// The lane of the CPU that we are on.
size_t here(const std::vector<int>& cpus) {
#if defined(__linux__)
  const int cpu = sched_getcpu();
  for (size_t lane = 0; lane < cpus.size(); lane++)
    if (cpus[lane] == cpu) return lane;
#endif
  return 0;
}

}  // namespace

Pool::Pool(std::vector<int> cpus) : cpus_(std::move(cpus)) { count_forks(); }

Pool::~Pool() {
  if (!state_ || fork_.load() != forks.load()) return;  // in a forked child there is nobody to stop
  state_->stop.store(true);
  for (size_t lane = 0; lane < cpus_.size(); lane++) state_->wake(lane);
  state_->leave();
}

bool Pool::acquire() {
  // In a forked child `busy_` may stand for a thread that is not there any more.
  uint64_t born = fork_.load();
  if (born != forks.load() && fork_.compare_exchange_strong(born, forks.load())) {
    state_ = nullptr;
    busy_.store(false);
  }
  return !busy_.exchange(true, std::memory_order_acquire);
}

void Pool::release() { busy_.store(false, std::memory_order_release); }

void Pool::start() {
  state_ = new State(cpus_.size());
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads of the program
  for (size_t lane = 0; lane < cpus_.size(); lane++) {
    auto* start = new Start{state_, lane, cpus_[lane]};
    pthread_t thread;
    state_->holders.fetch_add(1);
    if (pthread_create(&thread, nullptr, serve, start) == 0) {
      pthread_detach(thread);
    } else {  // no more threads to be had: its tasks are claimed by the others
      delete start;
      state_->leave();
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Pool::work(Job& job, const std::vector<int64_t>& ends) {
  if (!state_) start();
  State& state = *state_;
  for (size_t k = 0; k < ends.size(); k++) {
    state.lanes[k].end = ends[k];
    state.lanes[k].next.store(k ? ends[k - 1] : 0, std::memory_order_relaxed);
  }
  state.job = &job;
  state.caller = here(cpus_);
  state.left.store(ends.back(), std::memory_order_relaxed);
  state.gate.fetch_and(~State::kClosed, std::memory_order_release);
  state.wake_next(state.caller);
  state.claim(state.caller);
  wait_until([&] { return state.left.load(std::memory_order_acquire) == 0; });
  state.gate.fetch_or(State::kClosed);
  wait_until([&] { return (state.gate.load(std::memory_order_acquire) & State::kCount) == 0; });
}

}  // namespace recsys
