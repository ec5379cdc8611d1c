// Callers, executors and plans at random, each batch held against numbers that are worked out one at a time. It is built
// with sanitizers by scripts/check_native.py, and needs no Python.
//
//     stress [SECONDS] [SEED]
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <thread>

#include <pthread.h>

#include "executor.h"
#include "isa.h"

using namespace recsys;

static thread_local int refuse = 0;  // every how-manieth thread of a pool is not to be had; 0: none

// The linker calls it in place of pthread_create.
extern "C" int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
extern "C" int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*what)(void*), void* with) {
  static thread_local int asked = 0;
  if (refuse && ++asked % refuse == 0) return EAGAIN;
  return __real_pthread_create(thread, how, what, with);
}

namespace {

using Random = std::mt19937_64;

int64_t pick(Random& random, int64_t first, int64_t last) {
  return std::uniform_int_distribution<int64_t>(first, last)(random);
}

bool flip(Random& random) { return random() & 1; }

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "stress: %s\n", what);
  std::abort();
}

// Memory of exactly this size, so that a byte read past its end is found.
struct Table {
  Table(Random& random, int64_t count, int32_t dim, Dtype dtype)
      : stride(dtype == Dtype::int8 ? dim + 8 : dim * (dtype == Dtype::fp16 ? 2 : 4)),
        data(new char[count * stride]),
        rows{data.get(), count, stride, dim, dtype} {
    std::uniform_real_distribution<float> floats(-1, 1);
    for (int64_t row = 0; row < count; row++) {
      for (int32_t c = 0; c < dim; c++) put(row, c, floats(random), static_cast<uint8_t>(random()));
      const float header[2] = {floats(random) / 64, floats(random)};
      if (dtype == Dtype::int8) std::memcpy(data.get() + row * stride + dim, header, 8);
    }
  }

  void put(int64_t row, int32_t c, float x, uint8_t q) {
    char* const at = data.get() + row * stride;
    const auto half = static_cast<_Float16>(x);
    if (rows.dtype == Dtype::fp32) std::memcpy(at + c * 4, &x, 4);
    if (rows.dtype == Dtype::fp16) std::memcpy(at + c * 2, &half, 2);
    if (rows.dtype == Dtype::int8) std::memcpy(at + c, &q, 1);
  }

  double get(int64_t row, int32_t c) const {
    const char* const at = data.get() + row * stride;
    float x, header[2];
    _Float16 half;
    if (rows.dtype == Dtype::fp32) return std::memcpy(&x, at + c * 4, 4), x;
    if (rows.dtype == Dtype::fp16) return std::memcpy(&half, at + c * 2, 2), static_cast<double>(half);
    std::memcpy(header, at + rows.dim, 8);
    return static_cast<double>(static_cast<uint8_t>(at[c])) * header[0] + header[1];
  }

  int64_t stride;
  std::unique_ptr<char[]> data;
  Rows rows;
};

// Tables and look-ups, with an executor for random plans of them.
struct World {
  explicit World(Random& random) {
    const int32_t dims[] = {1, 1, 3, 8, 16, 17, 64, 130, 300};
    const int64_t counts[] = {1, 7, 100, 3000};
    const auto dtype = static_cast<Dtype>(pick(random, 0, 2));
    for (int64_t k = 0, n = pick(random, 1, 4); k < n; k++) {
      tables.emplace_back(random, counts[pick(random, 0, 3)], dims[pick(random, 0, 8)],
                          flip(random) ? dtype : static_cast<Dtype>(pick(random, 0, 2)));
      width += pick(random, 0, 1);
      skipped.emplace_back();
      for (int64_t w = 0; w * 32 < tables.back().rows.count; w++) skipped.back().push_back(static_cast<uint32_t>(random()));
      const uint32_t* const skip = pick(random, 0, 3) ? nullptr : skipped.back().data();
      lookups.push_back({tables.back().rows, k, width, flip(random), skip});
      width += tables.back().rows.dim;
    }
    width += pick(random, 0, 1);
    std::vector<const Isa*> isas;
    for (const Isa& isa : kIsas)
      if (runs(isa)) isas.push_back(&isa);
    const int cpus[] = {0, 1, 0, 1, 2, 5000};  // not all of them are there
    std::vector<int> chosen(pick(random, 1, 6));
    for (int& cpu : chosen) cpu = cpus[pick(random, 0, 5)];
    pool = std::make_unique<Pool>(chosen);
    executor = std::make_unique<Executor>(*isas[pick(random, 0, isas.size() - 1)], lookups, pool.get());
    for (const int64_t size : {10, 1000}) {
      const std::vector<Piece> pieces = plan(random, chosen.size());
      executor->add_schedule(size, pieces, flip(random));
      most = std::max(most, pieces.size());
    }
  }

  std::vector<Piece> plan(Random& random, int64_t lanes) const {
    std::vector<Piece> pieces;
    for (size_t k = 0; k < lookups.size(); k++) {
      const double share = pick(random, 0, 4) / 4.0;
      const int64_t count = lookups[k].rows.count;
      const bool whole = lookups[k].skip;  // such a look-up is neither cut nor streamed
      const int64_t row = flip(random) && !whole ? pick(random, 0, count) : count;
      for (const auto& [from, to] : {std::pair{0.0, share}, {share, 1.0}})
        for (const auto& [first, last] : {std::pair{int64_t{0}, row}, {row, count}})
          if (from < to && first < last)
            pieces.push_back({static_cast<int64_t>(k), pick(random, 0, lanes - 1), whole ? Strategy::gather : static_cast<Strategy>(pick(random, 0, 2)),
                              first, last, from, to});
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    return pieces;
  }

  std::vector<Table> tables;
  std::vector<std::vector<uint32_t>> skipped;  // the bits of each look-up, whether it uses them or not
  std::vector<Lookup> lookups;
  int64_t width = 0;
  size_t most = 0;  // pieces of a plan
  std::unique_ptr<Pool> pool;
  std::unique_ptr<Executor> executor;
};

// Ids for a world, known and unknown, and what is to come out.
struct Batch {
  Batch(Random& random, const World& world)
      : world(world),
        size(pick(random, 0, 3) ? pick(random, 0, 40) : pick(random, 0, 2000)),
        form{flip(random), flip(random), flip(random)},
        out(size * world.width),
        expected(size * world.width, 7.0) {
    for (const Lookup& lookup : world.lookups) {
      std::vector<double> sums(lookup.rows.dim);
      for (int64_t b = 0; b < size; b++) {
        offsets.push_back(wide.size());
        const int64_t ids = !form.jagged ? 1 : pick(random, 0, 9) ? pick(random, 0, 6) : pick(random, 0, 80);
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t i = 0; i < ids; i++) add(random, lookup, sums);
        for (int32_t c = 0; c < lookup.rows.dim; c++)
          expected[b * world.width + lookup.column + c] = lookup.mean && ids ? sums[c] / ids : sums[c];
      }
    }
    offsets.push_back(wide.size());
    narrow.assign(wide.begin(), wide.end());
    wide.shrink_to_fit(), narrow.shrink_to_fit(), offsets.shrink_to_fit(), weights.shrink_to_fit();
  }

  void add(Random& random, const Lookup& lookup, std::vector<double>& sums) {
    const int64_t count = lookup.rows.count, wrong[] = {-1, count, INT32_MAX, INT32_MIN, INT64_MIN, INT64_MAX};
    int64_t id = pick(random, 0, count - 1);
    if (!pick(random, 0, 7)) id = wrong[pick(random, 0, form.wide ? 5 : 3)];
    const bool known = id >= 0 && id < count;
    const float weight = form.weighted ? static_cast<float>(pick(random, -8, 8)) / 4 : 1.0f;
    unknown += !known && !lookup.skip;
    wide.push_back(id);
    weights.push_back(weight);
    const int64_t row = known ? id : 0;
    if (lookup.skip && lookup.skip[row >> 5] >> (row & 31) & 1) return;
    for (int32_t c = 0; c < lookup.rows.dim; c++) sums[c] += weight * table(lookup).get(row, c);
  }

  const Table& table(const Lookup& lookup) const { return world.tables[lookup.feature]; }

  void run(bool timed) {
    const void* const values = form.wide ? static_cast<const void*>(wide.data()) : narrow.data();
    const Call call{values, static_cast<int64_t>(wide.size()), form.jagged ? offsets.data() : nullptr,
                    form.weighted ? weights.data() : nullptr, size,
                    out.data(), world.width};
    std::vector<int64_t> times;
    std::fill(out.begin(), out.end(), 7.0f);
    check(world.executor->run(call, form, timed ? &times : nullptr) == unknown, "a wrong number of unknown ids");
    for (size_t k = 0; k < out.size(); k++)
      check(std::abs(out[k] - expected[k]) <= 1e-4 * (1 + std::abs(expected[k])), "a wrong number");
  }

  const World& world;
  int64_t size;
  Form form;
  std::vector<int64_t> wide, offsets;
  std::vector<int32_t> narrow;
  std::vector<float> weights, out;
  std::vector<double> expected;
  int64_t unknown = 0;
};

template <class Each>
void in_threads(int count, Each each) {
  std::vector<std::thread> threads;
  for (int k = 0; k < count; k++) threads.emplace_back(each, k);
  for (auto& thread : threads) thread.join();
}

// Executors that live for a few batches, called by all at once and dropped as soon as the last call is done.
int64_t round(uint64_t seed) {
  Random random(seed);
  std::vector<World> worlds;
  for (int64_t k = 0, n = pick(random, 1, 3); k < n; k++) worlds.emplace_back(random);
  const int refused = static_cast<int>(pick(random, 0, 4));
  std::atomic<int64_t> runs{0};
  in_threads(static_cast<int>(pick(random, 1, 4)), [&](int k) {
    Random own(seed * 64 + k);
    refuse = refused;
    std::vector<Batch> batches;
    for (const World& world : worlds) batches.emplace_back(own, world);
    for (int run = 0; run < 30; run++, runs++) batches[pick(own, 0, batches.size() - 1)].run(!pick(own, 0, 4));
  });
  return runs;
}

struct Throws : Job {
  void task(int64_t index) override {
    ran++;
    if (index % 3 == 0) throw std::bad_alloc();
  }
  std::atomic<int64_t> ran{0};
};

// What a task throws comes out when all are done, and the pool goes on.
void throwing() {
  Pool pool({0, 1, 0});
  for (int k = 0; k < 200; k++) {
    Throws job;
    bool thrown = false;
    try {
      pool.run(job, [] { return std::vector<int64_t>{4, 10, 20}; });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    check(thrown && job.ran == 20, "a task's exception was lost");
    try {
      pool.run(job, []() -> std::vector<int64_t> { throw std::bad_alloc(); });
    } catch (const std::bad_alloc&) {
    }
  }
}

}  // namespace

int main(int count, char** words) {
  const std::chrono::seconds time(count > 1 ? std::atoi(words[1]) : 20);
  const uint64_t seed = count > 2 ? std::atoll(words[2]) : 0;
  throwing();
  int64_t runs = 0, rounds = 0;
  for (const auto end = std::chrono::steady_clock::now() + time; std::chrono::steady_clock::now() < end; rounds++)
    runs += round(seed + rounds);
  std::printf("%lld batches of %lld rounds are right\n", static_cast<long long>(runs), static_cast<long long>(rounds));
}
