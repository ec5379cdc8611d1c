#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <chrono>
#include <exception>
#include <mutex>
#include <utility>

namespace recsys {

// What caller and threads share. `gate` is (closed << 31 | threads inside): a thread takes part in a job only by raising the
// count while the gate is open, so that one that wakes late touches nothing.
struct Pool::State {
  // Tasks [next, end), claimed one by one: by the lane's own CPU, and by others that have nothing left to do.
  struct alignas(64) Lane {
    State* state = nullptr;
    int cpu = 0;
    int64_t end = 0;
    std::atomic<int64_t> next{0};
    alignas(64) std::atomic<uint32_t> call{0};  // what the lane's thread sleeps on; bumped for a job and at the end
  };

  explicit State(const std::vector<int>& cpus) : lanes(cpus.size()) {
    for (size_t k = 0; k < cpus.size(); k++) lanes[k].state = this, lanes[k].cpu = cpus[k];
  }

  std::vector<Lane> lanes;
  Job* job = nullptr;
  size_t caller = 0;  // the lane that the caller serves
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  std::atomic<bool> stop{false};
  std::atomic<int> holders{1};  // the pool and its threads; the last one frees
  alignas(64) std::atomic<size_t> woken{0};  // lanes that had their turn to be woken, from the caller's on
  alignas(64) std::atomic<uint32_t> gate{kClosed};

  static constexpr uint32_t kClosed = 1u << 31;

  void leave() {
    if (holders.fetch_sub(1) == 1) delete this;
  }

  static void wake(Lane& lane) {
    lane.call.fetch_add(1);
    lane.call.notify_one();
  }

  // Waking takes a while, so that each that is awake wakes others: two, and one more after each task, for those that were
  // woken may have to wait for their CPU.
  void wake_more(int count) {
    while (count > 0 && woken.load(std::memory_order_relaxed) < lanes.size()) {
      const size_t place = woken.fetch_add(1, std::memory_order_relaxed);
      if (place >= lanes.size()) return;
      Lane& lane = lanes[(caller + place) % lanes.size()];
      if (lane.next.load(std::memory_order_relaxed) >= lane.end) continue;
      wake(lane);
      count--;
    }
  }

  void run(int64_t task) {
    try {
      job->task(task);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }

  // Claims tasks, those of `own` first, then the others', until there are none: they are then done by us, or being done by
  // others that are inside.
  void claim(size_t own) {
    wake_more(2);
    for (size_t k = 0; k < lanes.size(); k++) {
      Lane& lane = lanes[(own + k) % lanes.size()];
      while (lane.next.load(std::memory_order_relaxed) < lane.end) {
        const int64_t task = lane.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= lane.end) break;
        run(task);
        wake_more(1);
      }
    }
  }

  void open() { gate.fetch_and(~kClosed, std::memory_order_release); }

  bool enter() {
    uint32_t seen = gate.load(std::memory_order_relaxed);
    while (!(seen & kClosed))
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) return true;
    return false;
  }

  void exit() {
    if (gate.fetch_sub(1) == (kClosed | 1)) gate.notify_one();
  }

  void close();
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

// Waits awake for what usually comes soon.
template <class Done>
void linger(std::chrono::microseconds time, Done done) {
  const auto until = std::chrono::steady_clock::now() + time;
  while (!done() && std::chrono::steady_clock::now() < until) pause();
}

void bind(int cpu) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "recsys-lookup");
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // where that is not allowed, it runs anywhere
#else
  (void)cpu;
#endif
}

// A batch often follows the one before at once, and waking a thread that sleeps takes longer than a small batch.
constexpr std::chrono::microseconds kBetween{20};

void* serve(void* raw) {
  auto& lane = *static_cast<Pool::State::Lane*>(raw);
  Pool::State& state = *lane.state;
  bind(lane.cpu);
  for (uint32_t seen = 0; !state.stop.load();) {
    linger(kBetween, [&] { return lane.call.load(std::memory_order_relaxed) != seen; });
    lane.call.wait(seen);
    seen = lane.call.load();
    if (!state.enter()) continue;
    state.claim(static_cast<size_t>(&lane - state.lanes.data()));
    state.exit();
  }
  state.leave();
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

// Lets nobody in and waits for those inside: awake at first, for one task is short, and then asleep, for one of them may have
// lost its CPU to another program, and must not find us in its way.
void Pool::State::close() {
  gate.fetch_or(kClosed);
  uint32_t seen = 0;
  const auto empty = [&] { return (seen = gate.load(std::memory_order_acquire)) == kClosed; };
  for (linger(std::chrono::microseconds(50), empty); !empty();) gate.wait(seen);
}

Pool::Pool(std::vector<int> cpus) : cpus_(std::move(cpus)) { count_forks(); }

Pool::~Pool() {
  if (!state_ || born_ != forks.load()) return;  // in a forked child there is nobody to stop
  state_->stop.store(true);
  for (auto& lane : state_->lanes) State::wake(lane);
  state_->leave();
}

// In a forked child the owner may be a thread of the parent, which is not there any more.
bool Pool::acquire() {
  const uint64_t process = forks.load() + 1;
  uint64_t owner = owner_.load(std::memory_order_relaxed);
  return owner != process && owner_.compare_exchange_strong(owner, process, std::memory_order_acquire);
}

void Pool::start() {
  state_ = new State(cpus_);
  born_ = forks.load();
  sigset_t signals, before;
  sigfillset(&signals);  // they are for the threads of the program, but for those that a thread brings upon itself
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&signals, own);
  pthread_sigmask(SIG_SETMASK, &signals, &before);
  for (auto& lane : state_->lanes) {
    pthread_t thread;
    state_->holders.fetch_add(1);
    if (pthread_create(&thread, nullptr, serve, &lane) == 0)
      pthread_detach(thread);
    else  // no more threads to be had: its tasks are claimed by the others
      state_->leave();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Pool::work(Job& job, const std::vector<int64_t>& ends) {
  if (!state_ || born_ != forks.load()) start();
  State& state = *state_;
  for (size_t k = 0; k < state.lanes.size(); k++) {
    state.lanes[k].end = ends[k];
    state.lanes[k].next.store(k ? ends[k - 1] : 0, std::memory_order_relaxed);
  }
  state.job = &job;
  state.caller = here(cpus_);
  state.woken.store(1, std::memory_order_relaxed);
  state.open();
  state.claim(state.caller);
  state.close();
  if (state.failed.load(std::memory_order_relaxed)) {
    state.failed.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(state.error, nullptr));
  }
}

}  // namespace recsys
