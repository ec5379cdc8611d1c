// Strategy "gather": row by row, in the order of the bags.
#include "rows.h"

namespace recsys::RECSYS_ISA {
namespace {

constexpr int64_t kBlock = 64;    // bags of one id whose output stays in the cache while every look-up writes its columns
constexpr int64_t kPast = 8 << 20;  // bytes of an output that is written past the caches, which it would only sweep
constexpr int64_t kIdsAhead = 2;  // look-ups whose ids are fetched meanwhile
constexpr int64_t kOutAhead = 8;  // bags of one id
constexpr int64_t kSumAhead = 2;  // bags of many
constexpr int64_t kWideAhead = 4;  // bags of one id whose row is too wide for a count of vectors

// Whether every look-up writes whole lines of an output that the caches would not hold anyway.
inline bool whole_lines(const Lookup* lookups, int64_t count, const Call& call) {
  bool whole = call.size * call.out_stride * 4 >= kPast && reinterpret_cast<uintptr_t>(call.out) % 64 == 0 &&
               call.out_stride % 16 == 0 && lookups->rows.dim % 16 == 0;
  for (int64_t k = 0; k < count; k++) whole = whole && lookups[k].column % 16 == 0;
  return whole;
}

// Bytes of a pass over a row: N vectors of W columns, and the header of a quantised row.
template <class Row, int W, int N>
constexpr int kBytes = N * W * static_cast<int>(sizeof(typename Row::Column)) + (Row::scaled ? sizeof(Header) : 0);

// Brings a row into the core's first cache. An id that is out of range fetches a line that nobody needs.
template <int bytes, class Id>
inline void fetch(const Rows& rows, Id id, int64_t at = 0) {
  const auto row = reinterpret_cast<uintptr_t>(rows.data) + static_cast<uint64_t>(id) * static_cast<uint64_t>(rows.stride) + at;
  const auto line = [](uintptr_t place) { __builtin_prefetch(reinterpret_cast<const void*>(place), 0, 3); };
  for (int k = 0; k < bytes / 64; k++) line(row + 64 * k);
  if (bytes % 64) {
    line(row + bytes / 64 * 64);
    line(row + bytes - 1);  // a row need not begin with a line
  }
}

// Makes lines ours that will be written, so many bags from here; there need not be as many.
template <int floats>
inline void fetch_out(const float* out, int64_t stride, int64_t bags) {
  const auto ahead = reinterpret_cast<uintptr_t>(out) + static_cast<uint64_t>(stride) * bags * sizeof(float);
  for (int k = 0; k < (floats + 15) / 16; k++) __builtin_prefetch(reinterpret_cast<const void*>(ahead + 64 * k), 1, 3);
}

// Columns of one pass: vector v begins at `at(v)`; the last one ends with the row, so that it may overlap the one before.
template <int W, int N>
struct Columns {
  int32_t dim;
  int32_t at(int v) const { return v < N - 1 ? v * W : dim - W; }
};

template <class Row, int W, int N, bool past>
inline void copy(const char* row, int32_t dim, float* out) {
  const Columns<W, N> columns{dim};
  const auto [scale, bias] = header<Row>(row, dim);
  RECSYS_UNROLL
  for (int v = 0; v < N; v++) {
    Floats<W> x = Row::template load<W>(row + columns.at(v) * sizeof(typename Row::Column));
    if constexpr (Row::scaled) x = x * scale + bias;
    if constexpr (past)
      store_past<W>(out + columns.at(v), x);
    else
      store<W>(out + columns.at(v), x);
  }
}

// Rows of any width, for which `fetch` and `copy` have no count of bytes and of vectors. Another row, of an id of `rows`, is
// fetched meanwhile, line by line: all lines at once took a tenth longer. Not tried further: rows of the next look-up, too. GCC
// 12.2 with the sanitizers' flags then reads the position of the id from a place on the stack before it has written it there.
template <class Row, class Id>
inline void copy_wide(const char* row, const Rows& rows, float* out, Id id) {
  constexpr int W = kWidth;
  const int32_t dim = rows.dim;
  const auto [scale, bias] = header<Row>(row, dim);
  const auto later = reinterpret_cast<uintptr_t>(rows.data) + static_cast<uint64_t>(id) * static_cast<uint64_t>(rows.stride);
  __builtin_prefetch(reinterpret_cast<const void*>(later + rows.stride - 1), 0, 3);  // a row need not begin with a line
  const auto one = [&](int32_t at) {
    const auto byte = at * static_cast<int64_t>(sizeof(typename Row::Column));
    if (byte % 64 == 0) __builtin_prefetch(reinterpret_cast<const void*>(later + byte), 0, 3);
    Floats<W> x = Row::template load<W>(row + byte);
    if constexpr (Row::scaled) x = x * scale + bias;
    store<W>(out + at, x);
  };
  for (int32_t at = 0; at + W <= dim; at += W) one(at);
  if (dim % W) one(dim - W);
}

// Brings ids into the second cache that are read soon. They were just made by somebody else, and those of a look-up lie
// apart from those of the next, in pieces too short for the processor to foresee.
template <class Id>
inline void fetch_ids(const Lookup& lookup, const Call& call, int64_t from, int64_t to) {
  const Id* values = static_cast<const Id*>(call.values) + lookup.feature * call.size;
  for (int64_t b = from; b < to && b < call.size; b += 64 / sizeof(Id)) __builtin_prefetch(values + b, 0, 2);
}

// Bags [begin, end) of one id each. Kernels go through them look-up by look-up, and then through the next block.
template <class Id>
struct Block {
  const Lookup* lookups;
  int64_t count, begin, end;

  struct Ids {
    Rows rows;
    const Id* values;
  };

  Ids ids(const Call& call, int64_t k, int64_t first) const {
    return {lookups[k].rows, static_cast<const Id*>(call.values) + lookups[k].feature * call.size + first};
  }

  // What is looked up `turns` after the k-th; where that is nothing, the k-th itself.
  Ids later(const Call& call, int64_t k, int64_t turns) const {
    const int64_t wrapped = k + turns - count;
    if (wrapped < 0) return ids(call, k + turns, begin);
    if (wrapped < count && end + (end - begin) <= call.size) return ids(call, wrapped, end);
    return ids(call, k, begin);
  }
};

// One id a bag. Tried without gain: all look-ups of one bag after the other (small tables crowd the misses of big ones out of
// the processor's window); writing past the caches what they would hold (faster by itself, but then the network waits);
// fetching rows of large tables only, a block ahead and evenly in the time of the small ones (a third slower).
template <class Row, class Id, int W, int N, bool past>
int64_t one_id_blocks(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  constexpr int bytes = N > 0 ? kBytes<Row, W, N> : 0;
  int64_t unknown = 0;
  const int64_t first = to - from < kBlock ? to - from : kBlock;
  for (int64_t k = 0; k < count; k++) fetch_ids<Id>(lookups[k], call, from, from + 1);  // finding pages takes longest
  for (int64_t i = 0; N > 0 && i < kBlock && i < count * first; i++) {
    const Lookup& lookup = lookups[i / first];
    fetch<bytes>(lookup.rows, static_cast<const Id*>(call.values)[lookup.feature * call.size + from + i % first]);
  }
  for (int64_t begin = from, end = from + first; begin < to; begin = end, end = to - end < kBlock ? to : end + kBlock) {
    const Block<Id> block{lookups, count, begin, end};
    const int64_t bags = end - begin, turns = (kBlock - 1) / bags + 1;
    for (int64_t k = 0; k < count; k++) {
      const int64_t after = k + kIdsAhead - count;
      if (after < 0)
        fetch_ids<Id>(lookups[k + kIdsAhead], call, begin, end);
      else if (after < count)
        fetch_ids<Id>(lookups[after], call, end, end + kBlock);
      const auto [rows, values] = block.ids(call, k, begin);
      float* out = call.out + begin * call.out_stride + lookups[k].column;
      const auto later = block.later(call, k, turns);
      for (int64_t b = 0; b < bags; b++, out += call.out_stride) {
        if constexpr (N > 0) fetch<bytes>(later.rows, later.values[b]);
        if constexpr (N > 0 && !past) fetch_out<N * W>(out, call.out_stride, kOutAhead);
        const char* row = known_row(rows, values[b], unknown);
        if constexpr (N > 0) {
          copy<Row, W, N, past>(row, rows.dim, out);
        } else {
          copy_wide<Row>(row, rows, out, values[b + kWideAhead < bags ? b + kWideAhead : b]);
        }
      }
    }
  }
  return unknown;
}

template <class Row, class Id, int W, int N>
int64_t one_id(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  if (!whole_lines(lookups, count, call)) return one_id_blocks<Row, Id, W, N, false>(lookups, count, call, from, to);
  const int64_t unknown = one_id_blocks<Row, Id, W, N, true>(lookups, count, call, from, to);
#if defined(__AVX2__)
  _mm_sfence();
#endif
  return unknown;
}

// Ids of bags that are fetched ahead: 16 KB of rows, a third to a half of the first cache, but at most 96. Memory is slow and
// a core can wait for many lines at once: with 2 KB ahead, long bags took up to 2.5 times as long (Zen 5).
template <int bytes>
constexpr int64_t kAhead = 16384 / bytes < 96 ? 16384 / bytes : 96;

// Fetches rows of the look-ups that follow while the last ids of one are summed: kAhead of them, over as many look-ups as it
// takes, for one may hold few ids.
template <int bytes, class Id>
class Ahead {
 public:
  // `at`: the byte of a row at which what is summed begins.
  Ahead(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to, int64_t at)
      : lookup_(lookups), end_(lookups + count), call_(call), from_(from), to_(to), at_(at) {
    for (int64_t i = 0; i < kAhead<bytes>; i++) next();
  }

  void next() {
    if (id_ < last_ || enter()) fetch<bytes>(rows_, *id_++, at_);
  }

  // This look-up is about to be summed, and fetches its own from there on.
  void leave(const Lookup* lookup) {
    if (lookup_ == lookup + 1) id_ = last_;
  }

 private:
  // Goes to the next look-up that has ids. Rare, and kept out of loops that need all registers.
  __attribute__((noinline)) bool enter() {
    for (; id_ == last_ && lookup_ < end_; lookup_++) {
      const int64_t bag = lookup_->feature * call_.size;
      const auto* values = static_cast<const Id*>(call_.values);
      rows_ = lookup_->rows;
      id_ = values + (call_.offsets ? call_.offsets[bag + from_] : bag + from_);
      last_ = values + (call_.offsets ? call_.offsets[bag + to_] : bag + to_);
    }
    return id_ < last_;
  }

  const Lookup* lookup_;
  const Lookup* const end_;
  const Call& call_;
  const int64_t from_, to_, at_;
  Rows rows_{};
  const Id* id_ = nullptr;
  const Id* last_ = nullptr;
};

// The bags of a look-up: `ids` up to `end`, of which [begin, begin + width) of the columns are summed.
template <class Id>
struct Bags {
  const Lookup& lookup;
  const Id* ids;
  const float* weights;
  int64_t end;
  int32_t begin, width;
};

// Some rows of a bag, added to its sum. Several at once, where the sum does not fit into registers: it is then loaded and
// stored once for all of them.
template <class Row, bool weighted, int W, int N, int count, bool own, class Id>
inline void add(const Bags<Id>& bags, int64_t i, Floats<W> (&sum)[N], float& bias, int64_t& unknown) {
  const Rows rows = bags.lookup.rows;
  const Columns<W, N> columns{bags.width};
  const auto at = bags.begin * static_cast<int64_t>(sizeof(typename Row::Column));
  constexpr int bytes = kBytes<Row, W, N>;
  const char* row[count];
  float weight[count];
  if constexpr (own)
    for (int r = 0; r < count; r++) fetch<bytes>(rows, bags.ids[i + kAhead<bytes> + r], at);
  RECSYS_UNROLL
  for (int r = 0; r < count; r++) {
    row[r] = known_row(rows, bags.ids[i + r], unknown);
    weight[r] = weighted ? bags.weights[i + r] : 1.0f;
    if constexpr (Row::scaled) {
      const auto [scale, low] = header<Row>(row[r], rows.dim);
      bias += weight[r] * low;
      weight[r] *= scale;
    }
  }
  const auto add_vector = [&](int v) {
    Floats<W> found = sum[v];
    RECSYS_UNROLL
    for (int r = 0; r < count; r++) {
      const Floats<W> x = Row::template load<W>(row[r] + at + columns.at(v) * sizeof(typename Row::Column));
      if constexpr (weighted || Row::scaled)
        found += x * weight[r];
      else
        found += x;
    }
    sum[v] = found;
  };
  RECSYS_UNROLL
  for (int v = 0; v < N; v++) add_vector(v);
}

// One bag's sum. Tried without gain: a few bags at a time of every look-up, so that the output is written in order; what
// is fetched ahead then is of a look-up that is soon left.
template <class Row, bool weighted, int W, int N, class Id>
inline void pool(const Bags<Id>& bags, Ahead<kBytes<Row, W, N>, Id>& ahead, int64_t first, int64_t last, float* out,
                 int64_t& unknown) {
  constexpr int several = N > kRegisters ? 4 : 1;
  const Columns<W, N> columns{bags.width};
  Floats<W> sum[N] = {};
  float bias = 0.0f;
  int64_t i = first;
  const int64_t far = bags.end - kAhead<kBytes<Row, W, N>>, near = last < far ? last : far;
  for (; i + several <= near; i += several) add<Row, weighted, W, N, several, true>(bags, i, sum, bias, unknown);
  if constexpr (several > 1)
    for (; i < near; i++) add<Row, weighted, W, N, 1, true>(bags, i, sum, bias, unknown);
  for (; i + several <= last; i += several) {
    for (int r = 0; r < several; r++) ahead.next();
    add<Row, weighted, W, N, several, false>(bags, i, sum, bias, unknown);
  }
  if constexpr (several > 1)
    for (; i < last; i++) {
      ahead.next();
      add<Row, weighted, W, N, 1, false>(bags, i, sum, bias, unknown);
    }
  const float share = bags.lookup.mean && last - first > 1 ? 1.0f / static_cast<float>(last - first) : 1.0f;
  if (Row::scaled || share != 1.0f) {
    RECSYS_UNROLL
    for (int v = 0; v < N; v++) sum[v] = (sum[v] + bias) * share;
  }
  RECSYS_UNROLL
  for (int v = 0; v < N; v++) store<W>(out + bags.begin + columns.at(v), sum[v]);
}

// Every bag of a look-up from `from` to `to`, or these columns of it.
template <class Row, class Id, bool weighted, int W, int N>
int64_t pooled_columns(const Lookup& lookup, const Call& call, Ahead<kBytes<Row, W, N>, Id>& ahead, int64_t from, int64_t to,
                       int32_t begin, int32_t width) {
  const int64_t bag = lookup.feature * call.size;
  const auto start = [&](int64_t b) { return call.offsets ? call.offsets[bag + b] : bag + b; };
  const Bags<Id> bags{lookup, static_cast<const Id*>(call.values), call.weights, start(to), begin, width};
  float* out = call.out + from * call.out_stride + lookup.column;
  int64_t unknown = 0;
  ahead.leave(&lookup);
  for (int64_t b = from; b < to; b++, out += call.out_stride) {
    fetch_out<N * W>(out + begin, call.out_stride, kSumAhead);
    pool<Row, weighted, W, N>(bags, ahead, start(b), start(b + 1), out, unknown);
  }
  return unknown;
}

// Look-up by look-up, so that a table's pages are found again.
template <class Row, class Id, bool weighted, int W, int N>
int64_t pooled(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  int64_t unknown = 0;
  if (from >= to) return 0;
  for (int64_t k = 1; k < count && call.offsets; k++)
    __builtin_prefetch(call.offsets + lookups[k].feature * call.size + from, 0, 2);
  if constexpr (N > 0) {
    Ahead<kBytes<Row, W, N>, Id> ahead(lookups, count, call, from, to, 0);
    for (const Lookup* lookup = lookups; lookup < lookups + count; lookup++)
      unknown += pooled_columns<Row, Id, weighted, W, N>(*lookup, call, ahead, from, to, 0, lookup->rows.dim);
  } else {  // wider than the accumulators: full passes, the last one ending with the row; one of them counts
    constexpr int32_t pass = W * kVectors;
    for (const Lookup* lookup = lookups; lookup < lookups + count; lookup++) {
      const int32_t dim = lookup->rows.dim;
      for (int32_t begin = 0; begin < dim; begin += pass) {
        const int32_t at = begin + pass <= dim ? begin : dim - pass;
        Ahead<kBytes<Row, W, kVectors>, Id> ahead(lookup, 1, call, from, to, at * static_cast<int64_t>(sizeof(typename Row::Column)));
        const int64_t found = pooled_columns<Row, Id, weighted, W, kVectors>(*lookup, call, ahead, from, to, at, pass);
        if (!begin) unknown += found;
      }
    }
  }
  return unknown;
}

template <class Row, class Id, int W, int N>
Kernel choose(Form form) {
  if (form.weighted) return pooled<Row, Id, true, W, N>;
  return form.jagged ? pooled<Row, Id, false, W, N> : one_id<Row, Id, W, N>;
}

// N vectors of W floats cover `dim` columns, the last two perhaps overlapping.
template <class Row, class Id, int N>
Kernel by_count(int32_t dim, Form form) {
  if constexpr (N <= kVectors)
    return dim <= kWidth * N ? choose<Row, Id, kWidth, N>(form) : by_count<Row, Id, N + 1>(dim, form);
  else
    return choose<Row, Id, kWidth, 0>(form);
}

// The widest vectors that the row has room for.
template <class Row, class Id, int W>
Kernel by_width(int32_t dim, Form form) {
  if constexpr (W == 1) {
    return choose<Row, Id, 1, 1>(form);
  } else {
    if (dim < W) return by_width<Row, Id, W / 2>(dim, form);
    if constexpr (W == kWidth) return by_count<Row, Id, 1>(dim, form);
    return dim == W ? choose<Row, Id, W, 1>(form) : choose<Row, Id, W, 2>(form);
  }
}

template <class Row>
Kernel by_id(int32_t dim, Form form) {
  return form.wide ? by_width<Row, int64_t, kWidth>(dim, form) : by_width<Row, int32_t, kWidth>(dim, form);
}

}  // namespace

Kernel gather(Dtype dtype, int32_t dim, Form form) {
  if (dtype == Dtype::fp32) return by_id<Fp32>(dim, form);
  return dtype == Dtype::fp16 ? by_id<Fp16>(dim, form) : by_id<Int8>(dim, form);
}

}  // namespace recsys::RECSYS_ISA
