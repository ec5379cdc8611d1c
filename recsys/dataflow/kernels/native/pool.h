// Threads that wait without cost, and share out a job's tasks among themselves by claiming them.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace recsys {

// Tasks [begin, end) of one core, claimed one by one: by that core, and by others that have nothing left to do.
struct alignas(64) Lane {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

class Job {
 public:
  virtual ~Job() = default;
  virtual void task(int64_t index) = 0;
};

// A pool for `cpus.size()` lanes: the caller serves lane 0, a thread of the pool each other one, bound to its CPU.
//
// One job runs at a time. A caller that finds the pool at work does not wait: `run` returns false, and it works alone.
// In a forked child the threads are gone; the first `run` there starts others.
class Pool {
 public:
  explicit Pool(std::vector<int> cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int lanes() const { return static_cast<int>(cpus_.size()); }

  // Runs tasks [ends[k - 1], ends[k]) on lane k and returns when all are done. `prepare` runs when the pool is ours.
  template <class Prepare>
  bool run(Job& job, Prepare prepare) {
    if (!acquire()) return false;
    work(job, prepare());
    release();
    return true;
  }

  struct State;

 private:
  bool acquire();
  void release();
  void start();
  void work(Job& job, const std::vector<int64_t>& ends);

  std::vector<int> cpus_;
  std::atomic<bool> busy_{false};
  std::atomic<uint64_t> fork_{0};
  State* state_ = nullptr;  // shared with the threads, which free it last
};

}  // namespace recsys
