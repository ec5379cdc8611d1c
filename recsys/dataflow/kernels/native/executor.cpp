#include "executor.h"

#include <algorithm>
#include <cmath>

namespace recsys {
namespace {

constexpr int64_t kTaskBytes = 128 << 10;  // of rows that one claimed task reads: some 10 µs, so that a stall costs little

int64_t bound(double share, int64_t size) {
  return share >= 1.0 ? size : static_cast<int64_t>(std::floor(share * static_cast<double>(size)));
}

int index(Form form) { return form.wide * 4 + form.jagged * 2 + form.weighted; }

}  // namespace

Executor::Executor(const Isa& isa, const std::vector<Lookup>& lookups, Pool* pool)
    : isa_(isa), lookups_(lookups), pool_(pool) {
  for (const Lookup& lookup : lookups) {
    if (groups_.empty() || !join(groups_.back(), lookup)) {
      groups_.emplace_back();
      join(groups_.back(), lookup);
    }
  }
}

// Adds a look-up to a group that is empty or holds such rows.
bool Executor::join(Group& group, const Lookup& lookup) const {
  if (group.lookups.empty()) {
    for (int k = 0; k < 8; k++)
      group.kernels[k] = isa_.gather(lookup.rows.dtype, lookup.rows.dim, {(k & 4) != 0, (k & 2) != 0, (k & 1) != 0});
  } else if (group.lookups[0].rows.dim != lookup.rows.dim || group.lookups[0].rows.dtype != lookup.rows.dtype) {
    return false;
  }
  group.lookups.push_back(lookup);
  return true;
}

void Executor::add_schedule(int64_t size, std::vector<Piece> pieces) {
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.lane < b.lane; });
  Schedule schedule{size, {}};
  for (const Piece& piece : pieces) {
    const Lookup& lookup = lookups_.at(piece.lookup);
    Part* const last = schedule.parts.empty() ? nullptr : &schedule.parts.back();
    if (last && last->lane == piece.lane && last->from == piece.from && last->to == piece.to && join(last->group, lookup))
      continue;
    schedule.parts.push_back({{}, piece.lane, piece.from, piece.to});
    join(schedule.parts.back().group, lookup);
  }
  schedules_.push_back(std::move(schedule));
}

// One batch shared out among the lanes.
struct Executor::Shared : Job {
  struct Task {
    const Group* group;
    int64_t from, to;
  };
  Shared(const Call& call, Form form) : call(call), form(form) {}

  std::vector<int64_t> prepare(const Schedule& schedule, int lanes) {
    std::vector<int64_t> ends(lanes, 0);
    for (const Part& part : schedule.parts) {
      const int64_t from = bound(part.from, call.size), to = bound(part.to, call.size), bags = to - from;
      const int64_t parts = std::clamp<int64_t>(bytes(part.group, from, to) / kTaskBytes, 1, std::max<int64_t>(bags, 1));
      for (int64_t k = 0; k < parts; k++) {
        const int64_t begin = from + bags * k / parts, end = from + bags * (k + 1) / parts;
        if (begin < end) tasks.push_back({&part.group, begin, end});
      }
      ends[part.lane] = static_cast<int64_t>(tasks.size());
    }
    for (int lane = 1; lane < lanes; lane++) ends[lane] = std::max(ends[lane], ends[lane - 1]);
    return ends;
  }

  // Of rows read and of rows written.
  int64_t bytes(const Group& group, int64_t from, int64_t to) const {
    int64_t total = 0;
    for (const Lookup& lookup : group.lookups) {
      const int64_t* offsets = form.jagged ? call.offsets + lookup.feature * call.size : nullptr;
      total += (offsets ? offsets[to] - offsets[from] : to - from) * lookup.rows.stride + (to - from) * lookup.rows.dim * 4;
    }
    return total;
  }

  void task(int64_t k) override {
    const Task& task = tasks[k];
    const auto& lookups = task.group->lookups;
    const int64_t found = task.group->kernels[index(form)](lookups.data(), static_cast<int64_t>(lookups.size()), call,
                                                           task.from, task.to);
    if (found) unknown.fetch_add(found, std::memory_order_relaxed);
  }

  const Call& call;
  const Form form;
  std::vector<Task> tasks;
  std::atomic<int64_t> unknown{0};
};

const Executor::Schedule* Executor::schedule(int64_t size) const {
  const Schedule* best = nullptr;
  for (const Schedule& one : schedules_)
    if (one.size <= size) best = &one;
  return best;
}

int64_t Executor::run(const Call& call, Form form) const {
  const Schedule* const found = pool_ ? schedule(call.size) : nullptr;
  if (found) {
    Shared job(call, form);
    if (pool_->run(job, [&] { return job.prepare(*found, pool_->lanes()); })) return job.unknown.load();
  }
  int64_t unknown = 0;
  for (const Group& group : groups_)
    unknown += group.kernels[index(form)](group.lookups.data(), static_cast<int64_t>(group.lookups.size()), call, 0,
                                          call.size);
  return unknown;
}

}  // namespace recsys
