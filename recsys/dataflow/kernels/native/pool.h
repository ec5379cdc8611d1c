// Threads that wait without cost, and share out a job's tasks among themselves by claiming them.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace recsys {

class Job {
 public:
  virtual ~Job() = default;
  virtual void task(int64_t index) = 0;
};

// A lane for every CPU, with a thread bound to it. The caller serves the lane of the CPU that it happens to run on, whose
// thread sleeps on: bound to a CPU of its own it would wait behind the caller while another CPU has nothing to do.
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
