#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace recsys {
namespace {

constexpr int64_t kTaskBytes = 128 << 10;  // read and written by one claimed task: some 10 µs, so that a stall costs little
constexpr int64_t kLeastBytes = 16 << 10;   // of a task of a small batch, of which a core that wakes late still gets its part
constexpr int64_t kTasks = 8;               // for each lane, of such a batch
constexpr int64_t kTaskBags = 64;           // of one id, at least: kernels go from look-up to look-up after as many
constexpr int64_t kTileBytes = 512 << 10;  // of a table that is streamed; a part of a core's own cache
constexpr size_t kKept = 16 << 20;         // bytes of room for sorting that a thread keeps from batch to batch

int64_t bound(double share, int64_t size) {
  return share >= 1.0 ? size : static_cast<int64_t>(std::floor(share * static_cast<double>(size)));
}

int index(Form form) { return form.wide * 4 + form.jagged * 2 + form.weighted; }

int32_t tile(const Rows& rows) {
  return std::max<int32_t>(0, static_cast<int32_t>(std::log2(std::max<int64_t>(1, kTileBytes / rows.stride))));
}

using Clock = std::chrono::steady_clock;

int64_t now_ns() { return Clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

// Time in some unit. Where there is one, a counter that does not wait for reads under way: were each piece to end only
// when its last read has come, pieces would seem longer than they are one after the other.
int64_t ticks() {
#ifdef __x86_64__
  return static_cast<int64_t>(__builtin_ia32_rdtsc());
#else
  return now_ns();
#endif
}

double measure_tick_ns() {
  const int64_t start = now_ns(), first = ticks();
  while (now_ns() < start + 2'000'000) {
  }
  return static_cast<double>(now_ns() - start) / static_cast<double>(std::max<int64_t>(ticks() - first, 1));
}

// Makes sure that bags [from, to) of each look-up lie within the values. Without a branch, so that it vectorises.
void check_offsets(const Lookup* lookups, size_t count, const Call& call, int64_t from, int64_t to) {
  if (!call.offsets || from >= to) return;
  for (const Lookup* lookup = lookups; lookup < lookups + count; lookup++) {
    const int64_t* const offsets = call.offsets + lookup->feature * call.size;
    uint64_t signs = static_cast<uint64_t>(offsets[to]);  // of offsets and lengths; of numbers that are not negative the
    for (int64_t b = from; b < to; b++) {                 // difference does not overflow
      const auto first = static_cast<uint64_t>(offsets[b]), last = static_cast<uint64_t>(offsets[b + 1]);
      signs |= first | (last - first);
    }
    if (signs >> 63 || offsets[to] > call.count)
      throw std::invalid_argument("offsets must ascend from 0 to at most the number of ids, which is " +
                                  std::to_string(call.count) + "; those of feature " + std::to_string(lookup->feature) +
                                  " (from 0 on) do not");
  }
}

// Bags [from, to) of a look-up without the rows that it skips: their ids are dropped, then the others looked up.
template <class Id>
void serve_rest(const Kernel* kernels, const Lookup& lookup, const Call& call, Form form, int64_t from, int64_t to) {
  static thread_local std::vector<Id> ids;
  static thread_local std::vector<int64_t> ends;
  static thread_local std::vector<float> weights;
  const int64_t first = lookup.feature * call.size;
  const auto begin = [&](int64_t b) { return call.offsets ? call.offsets[first + b] : first + b; };
  const int64_t bags = to - from, total = begin(to) - begin(from);
  ids.resize(std::max<size_t>(ids.size(), total));
  ends.resize(std::max<size_t>(ends.size(), bags + 1));
  if (call.weights) weights.resize(std::max<size_t>(weights.size(), total));
  const Id* const values = static_cast<const Id*>(call.values);
  int64_t kept = 0;
  ends[0] = 0;
  for (int64_t b = from; b < to; b++) {
    for (int64_t i = begin(b), end = begin(b + 1); i < end; i++) {  // without a branch that nobody could foresee
      const auto id = static_cast<uint64_t>(static_cast<int64_t>(values[i]));
      const uint64_t row = id < static_cast<uint64_t>(lookup.rows.count) ? id : 0;
      ids[kept] = static_cast<Id>(row);
      if (call.weights) weights[kept] = call.weights[i];
      kept += !(lookup.skip[row >> 5] >> (row & 31) & 1);
    }
    ends[b - from + 1] = kept;
  }
  float* const out = call.out + from * call.out_stride;
  const Call own{ids.data(), kept, ends.data(), call.weights ? weights.data() : nullptr, bags, out, call.out_stride};
  const Lookup alone{lookup.rows, 0, lookup.column, false, nullptr};
  kernels[index({form.wide, true, form.weighted})](&alone, 1, own, 0, bags);
  for (int64_t b = from; lookup.mean && b < to; b++) {  // of all ids of the bag
    const float share = 1.0f / static_cast<float>(std::max<int64_t>(begin(b + 1) - begin(b), 1));
    for (int32_t c = 0; c < lookup.rows.dim; c++) out[(b - from) * call.out_stride + lookup.column + c] *= share;
  }
}

// Bags [from, to) of look-ups that are alike, of which some skip rows; returns how many ids were unknown.
int64_t serve(const Kernel* kernels, const Lookup* lookups, size_t count, const Call& call, Form form, int64_t from,
              int64_t to) {
  int64_t unknown = 0;
  for (size_t first = 0, last = 0; first < count && from < to; first = ++last) {
    while (last < count && !lookups[last].skip) last++;
    if (last > first)
      unknown += kernels[index(form)](lookups + first, static_cast<int64_t>(last - first), call, from, to);
    if (last < count && form.wide) serve_rest<int64_t>(kernels, lookups[last], call, form, from, to);
    if (last < count && !form.wide) serve_rest<int32_t>(kernels, lookups[last], call, form, from, to);
  }
  return unknown;
}

}  // namespace

Executor::Executor(const Isa& isa, const std::vector<Lookup>& lookups, Pool* pool)
    : isa_(isa), lookups_(lookups), pool_(pool) {
  std::vector<Piece> pieces;
  for (size_t k = 0; k < lookups.size(); k++)
    pieces.push_back({static_cast<int64_t>(k), 0, Strategy::gather, 0, lookups[k].rows.count, 0.0, 1.0});
  add_schedule(0, pieces, true);
}

bool Executor::whole(const Piece& piece) const {
  return piece.first == 0 && piece.last == lookups_[piece.lookup].rows.count && piece.strategy != Strategy::stream;
}

void Executor::check(const Piece& piece) const {
  const int lanes = pool_ ? pool_->lanes() : 1;
  if (piece.lookup < 0 || piece.lookup >= static_cast<int64_t>(lookups_.size()))
    throw std::invalid_argument("a piece is of look-up " + std::to_string(piece.lookup) + " of " +
                                std::to_string(lookups_.size()));
  if (piece.lane < 0 || piece.lane >= lanes)
    throw std::invalid_argument("a piece is on core " + std::to_string(piece.lane) + " of " + std::to_string(lanes) +
                                " (from 0 on)");
  const int64_t rows = lookups_[piece.lookup].rows.count;
  if (piece.first < 0 || piece.first >= piece.last || piece.last > rows)
    throw std::invalid_argument("a piece is of rows " + std::to_string(piece.first) + " to " + std::to_string(piece.last) +
                                " of " + std::to_string(rows));
  if (lookups_[piece.lookup].skip && !whole(piece))
    throw std::invalid_argument("a look-up that skips rows is not cut by rows, nor streamed");
  if (!(piece.from >= 0 && piece.from < piece.to && piece.to <= 1))
    throw std::invalid_argument("a piece is of bags " + std::to_string(piece.from) + " to " + std::to_string(piece.to) +
                                ", as shares of the batch");
}

Executor::Part Executor::part(const Piece& piece, int64_t place) const {
  const Rows& rows = lookups_[piece.lookup].rows;
  Part part{{lookups_[piece.lookup]}, piece.strategy, piece.lane, place, piece.first, piece.last, piece.from, piece.to, -1, {}, {}};
  for (int k = 0; k < 8; k++) {
    const Form form{(k & 4) != 0, (k & 2) != 0, (k & 1) != 0};
    const bool vector = piece.strategy == Strategy::vector && rows.count <= INT32_MAX && rows.stride == 4;
    part.kernels[k] = vector ? isa_.vector(rows.dtype, rows.dim, form) : nullptr;
    if (!part.kernels[k]) part.kernels[k] = isa_.gather(rows.dtype, rows.dim, form);
  }
  for (int wide = 0; wide < 2; wide++) part.streamers[wide] = isa_.stream(rows.dtype, wide);
  if (!whole(piece)) part.strategy = Strategy::stream;
  return part;
}

void Executor::add_schedule(int64_t size, const std::vector<Piece>& pieces, bool join) {
  std::vector<int64_t> order(pieces.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return pieces[a].lane < pieces[b].lane; });
  for (const Piece& piece : pieces) check(piece);
  Schedule schedule{size, static_cast<int64_t>(pieces.size()), {}};
  std::vector<Piece> split;  // the first part of each of the sums
  for (const int64_t place : order) {
    const Piece& piece = pieces[place];
    Part next = part(piece, place);
    const Lookup& lookup = next.lookups[0];
    if (join && !schedule.parts.empty() && whole(piece)) {
      Part& last = schedule.parts.back();
      if (last.strategy == next.strategy && last.lane == next.lane && last.from == next.from && last.to == next.to &&
          last.lookups[0].rows.dim == lookup.rows.dim && last.lookups[0].rows.dtype == lookup.rows.dtype) {
        last.lookups.push_back(lookup);
        continue;
      }
    }
    if (piece.last - piece.first < lookup.rows.count) {
      const auto same = [&](const Piece& p) { return p.lookup == piece.lookup && p.from == piece.from && p.to == piece.to; };
      next.sums = std::find_if(split.begin(), split.end(), same) - split.begin();
      if (next.sums == static_cast<int64_t>(split.size())) {
        split.push_back(piece);
        schedule.shares.push_back(0);
      }
      schedule.shares[next.sums]++;
    }
    schedule.parts.push_back(std::move(next));
  }
  schedules_.push_back(std::move(schedule));
}

// One batch, as tasks.
struct Executor::Shared : Job {
  struct Task {
    const Part* part;
    size_t first, count;  // of its look-ups
    int64_t from, to;
    float* out;  // of a part whose sums are partial, but the first of them
  };

  Shared(const Schedule& schedule, const Call& call, Form form, std::vector<int64_t>* times)
      : schedule(schedule), call(call), form(form), times(times) {}

  // The tasks of each lane, bags of many ids look-up by look-up, as kernels like them best; returns where those of each end.
  std::vector<int64_t> prepare(int lanes) {
    std::vector<int64_t> ends(lanes, 0);
    left = std::vector<std::atomic<int64_t>>(schedule.shares.size());
    partial.resize(schedule.shares.size());
    for (size_t k = 0; k < left.size(); k++) left[k] = schedule.shares[k];
    const int64_t used = schedule.parts.empty() ? 1 : schedule.parts.back().lane + 1;
    task_bytes = std::clamp(total() / (used * kTasks), kLeastBytes, kTaskBytes);
    for (const Part& part : schedule.parts) {
      add(part);
      ends[lanes == 1 ? 0 : part.lane] = static_cast<int64_t>(tasks.size());
    }
    for (int lane = 1; lane < lanes; lane++) ends[lane] = std::max(ends[lane], ends[lane - 1]);
    if (blocks())
      for (int lane = 0; lane < lanes; lane++)
        std::stable_sort(tasks.begin() + (lane ? ends[lane - 1] : 0), tasks.begin() + ends[lane],
                         [](const Task& a, const Task& b) { return a.from < b.from; });
    if (times) spent.resize(tasks.size());
    return ends;
  }

  // Pieces that are timed are kept apart; those of single ids then take turns as look-ups do within a kernel.
  bool blocks() const { return times && !form.jagged; }

  void add(const Part& part) {
    const int64_t from = bound(part.from, call.size), to = bound(part.to, call.size), bags = to - from;
    if (part.strategy == Strategy::stream) {
      float* const own = scratch(part, bags);
      if (bags) tasks.push_back({&part, 0, 1, from, to, own});
      return;
    }
    const size_t count = part.lookups.size();
    for (size_t first = 0, last = 0; first < count; first = last) {
      int64_t total = 0;
      while (last < count && (total < task_bytes || !form.jagged)) total += bytes(part.lookups[last++], from, to);
      const int64_t least = form.jagged ? 1 : kTaskBags;
      const int64_t most = std::max<int64_t>(bags / least, 1);
      const int64_t parts = blocks() ? most : std::clamp<int64_t>(total / task_bytes, 1, most);
      int64_t begin = from;
      for (int64_t k = 1; k <= parts; k++) {
        const int64_t end = k == parts ? to : std::max(begin, cut(part.lookups[last - 1], from, to, k, parts));
        if (begin < end) tasks.push_back({&part, first, last - first, begin, end, nullptr});
        begin = end;
      }
    }
  }

  // The bag at which the k-th of some equal parts ends: equal in ids, of which one bag may hold as many as all others.
  int64_t cut(const Lookup& lookup, int64_t from, int64_t to, int64_t k, int64_t parts) const {
    if (!form.jagged) return from + (to - from) * k / parts;
    const int64_t* const offsets = call.offsets + lookup.feature * call.size;
    const int64_t least = offsets[from] + (offsets[to] - offsets[from]) / parts * k;
    return std::lower_bound(offsets + from, offsets + to, least) - offsets;
  }

  // One id a bag needs no sums: each bag is filled by the part that has its row.
  bool pooled() const { return form.jagged; }

  float* scratch(const Part& part, int64_t bags) {
    if (part.sums < 0 || !pooled()) return nullptr;
    auto& own = partial[part.sums];
    own.emplace_back(own.empty() ? nullptr : new float[bags * part.lookups[0].rows.dim]);
    return own.back().get();
  }

  // Bytes of all rows, read and written, as if they were as long as the first look-up's: near enough, and at once.
  int64_t total() const {
    if (schedule.parts.empty()) return 0;
    return call.count * schedule.parts[0].lookups[0].rows.stride + call.size * call.out_stride * 4;
  }

  // Of rows read and of rows written.
  int64_t bytes(const Lookup& lookup, int64_t from, int64_t to) const {
    return ids(lookup, from, to) * lookup.rows.stride + (to - from) * lookup.rows.dim * 4;
  }

  int64_t ids(const Lookup& lookup, int64_t from, int64_t to) const {
    if (!form.jagged) return to - from;
    const int64_t* const offsets = call.offsets + lookup.feature * call.size;
    return offsets[to] - offsets[from];
  }

  void task(int64_t k) override {
    const Task& task = tasks[k];
    const Part& part = *task.part;
    check_offsets(&part.lookups[task.first], task.count, call, task.from, task.to);
    const int64_t start = times ? ticks() : 0;
    const int64_t found = part.strategy == Strategy::stream
                              ? stream(task)
                              : serve(part.kernels, &part.lookups[task.first], task.count, call, form, task.from, task.to);
    if (times) spent[k] = ticks() - start;
    if (found) unknown.fetch_add(found, std::memory_order_relaxed);
  }

  // Called when all tasks are done.
  void add_times() const {
    if (!times) return;
    static const double tick_ns = measure_tick_ns();
    times->assign(schedule.pieces, 0);
    for (size_t k = 0; k < spent.size(); k++)
      (*times)[tasks[k].part->piece] += std::llround(static_cast<double>(spent[k]) * tick_ns);
  }

  int64_t stream(const Task& task) {
    const Part& part = *task.part;
    const Lookup& lookup = part.lookups[0];
    static thread_local std::vector<Entry> entries;
    static thread_local std::vector<uint32_t> ends;
    Range range{task.from, task.to, part.first, part.last, tile(lookup.rows), part.sums < 0 || pooled(),
                call.out + lookup.column, call.out_stride, nullptr, nullptr};
    if (task.out) {
      range.out = task.out - task.from * lookup.rows.dim;
      range.out_stride = lookup.rows.dim;
    }
    entries.resize(std::max<size_t>(entries.size(), ids(lookup, task.from, task.to)));
    ends.resize(std::max<size_t>(ends.size(), ((part.last - part.first) >> range.tile) + 3));
    range.entries = entries.data();
    range.ends = ends.data();
    const int64_t found = part.streamers[form.wide](lookup, call, range);
    if (entries.capacity() * sizeof(Entry) > kKept) std::vector<Entry>().swap(entries);
    if (part.sums >= 0 && pooled() && left[part.sums].fetch_sub(1) == 1) add_up(task);
    return found;
  }

  // The last one to finish adds the partial sums to those of the first, which are in place.
  void add_up(const Task& task) {
    const Lookup& lookup = task.part->lookups[0];
    const auto& own = partial[task.part->sums];
    for (size_t k = 1; k < own.size(); k++)
      for (int64_t b = task.from; b < task.to; b++) {
        float* const out = call.out + b * call.out_stride + lookup.column;
        const float* const more = own[k].get() + (b - task.from) * lookup.rows.dim;
        for (int32_t c = 0; c < lookup.rows.dim; c++) out[c] += more[c];
      }
  }

  const Schedule& schedule;
  const Call& call;
  const Form form;
  std::vector<int64_t>* const times;
  int64_t task_bytes = kTaskBytes;
  std::vector<Task> tasks;
  std::vector<int64_t> spent;  // ticks, by task
  std::vector<std::vector<std::unique_ptr<float[]>>> partial;  // by sums, by part
  std::vector<std::atomic<int64_t>> left;                      // parts of each of the sums that are not done
  std::atomic<int64_t> unknown{0};
};

const Executor::Schedule& Executor::schedule(int64_t size) const {
  const auto fits = std::find_if(schedules_.begin() + 1, schedules_.end(), [&](const auto& one) { return size <= one.size; });
  return fits == schedules_.end() ? schedules_.back() : *fits;
}

int64_t Executor::run(const Call& call, Form form, std::vector<int64_t>* times) const {
  const Schedule& found = schedule(call.size);
  const auto streams = [](const Part& part) { return part.strategy == Strategy::stream; };
  if (pool_ && !found.parts.empty() && found.parts.back().lane > 0) {
    Shared job(found, call, form, times);
    if (pool_->run(job, [&] { return job.prepare(pool_->lanes()); })) {
      job.add_times();
      return job.unknown.load();
    }
  }
  if (times || std::any_of(found.parts.begin(), found.parts.end(), streams)) {
    Shared job(found, call, form, times);
    const int64_t count = job.prepare(1).back();
    for (int64_t k = 0; k < count; k++) job.task(k);
    job.add_times();
    return job.unknown.load();
  }
  int64_t unknown = 0;
  for (const Part& part : found.parts) {
    const int64_t from = bound(part.from, call.size), to = bound(part.to, call.size);
    check_offsets(part.lookups.data(), part.lookups.size(), call, from, to);
    unknown += serve(part.kernels, part.lookups.data(), part.lookups.size(), call, form, from, to);
  }
  return unknown;
}

}  // namespace recsys
