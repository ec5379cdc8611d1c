// Threads that wait without cost, and share out a job's tasks among themselves by claiming them.
#pragma once
#include <atomic>
#include <cstdint>
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

  // Runs tasks [ends[k - 1], ends[k]) on lane k and returns when all are done, or throws what one of them threw.
  // `prepare` returns the ends; it runs when the pool is ours.
  template <class Prepare>
  bool run(Job& job, Prepare prepare) {
    if (!acquire()) return false;
    const Held held{*this};
    work(job, prepare());
    return true;
  }

  struct State;

 private:
  struct Held {
    Pool& pool;
    ~Held() { pool.owner_.store(0, std::memory_order_release); }
  };

  bool acquire();
  void start();
  void work(Job& job, const std::vector<int64_t>& ends);

  std::vector<int> cpus_;
  std::atomic<uint64_t> owner_{0};  // 0: free; else the process that is at work, as the forks that led to it, plus 1
  uint64_t born_ = 0;               // the process that the threads are in
  State* state_ = nullptr;          // shared with the threads, which free it last
};

}  // namespace recsys
