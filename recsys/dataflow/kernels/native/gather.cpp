// Strategy "gather": row by row, in the order of the bags.
#include "rows.h"

namespace recsys::RECSYS_ISA {
namespace {


constexpr int64_t kBlock = 64;  // bags whose output stays in the cache while every look-up writes its columns

constexpr int32_t kWide = 128;    // columns
constexpr int64_t kFewBags = 8;
constexpr int64_t kPast = 8 << 20;  // bytes of an output that is written past the caches, which it would only sweep

// Whether every look-up writes whole lines of an output that the caches would not hold anyway.
inline bool whole_lines(const Lookup* lookups, int64_t count, const Call& call) {
  bool whole = call.size * call.out_stride * 4 >= kPast && reinterpret_cast<uintptr_t>(call.out) % 64 == 0 &&
               call.out_stride % 16 == 0 && lookups->rows.dim % 16 == 0;
  for (int64_t k = 0; k < count; k++) whole = whole && lookups[k].column % 16 == 0;
  return whole;
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
  for (int v = 0; v < N; v++) {
    Floats<W> x = Row::template load<W>(row + columns.at(v) * sizeof(typename Row::Column));
    if constexpr (Row::scaled) x = x * scale + bias;
    if constexpr (past)
      store_past<W>(out + columns.at(v), x);
    else
      store<W>(out + columns.at(v), x);
  }
}

// Rows of any width, for which `copy` has no count of vectors.
template <class Row>
inline void copy_wide(const char* row, int32_t dim, float* out) {
  constexpr int W = kWidth;
  const auto [scale, bias] = header<Row>(row, dim);
  const auto one = [&](int32_t at) {
    Floats<W> x = Row::template load<W>(row + at * sizeof(typename Row::Column));
    if constexpr (Row::scaled) x = x * scale + bias;
    store<W>(out + at, x);
  };
  for (int32_t at = 0; at + W <= dim; at += W) one(at);
  if (dim % W) one(dim - W);
}

// One id a bag. Tried without gain: fetching rows ahead (the processor looks that far by itself), all look-ups of one bag
// after the other (small tables crowd the misses of big ones out of its window), stores around the cache.
template <class Row, class Id, int W, int N, bool past>
int64_t one_id_blocks(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  int64_t unknown = 0;
  for (int64_t begin = from; begin < to; begin += kBlock) {
    const int64_t end = begin + kBlock < to ? begin + kBlock : to;
    for (const Lookup* lookup = lookups; lookup < lookups + count; lookup++) {
      const Rows rows = lookup->rows;
      const Id* values = static_cast<const Id*>(call.values) + lookup->feature * call.size;
      float* out = call.out + begin * call.out_stride + lookup->column;
      for (int64_t b = begin; b < end; b++, out += call.out_stride) {
        const char* row = known_row(rows, values[b], unknown);
        if constexpr (N > 0)
          copy<Row, W, N, past>(row, rows.dim, out);
        else
          copy_wide<Row>(row, rows.dim, out);
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

// Columns [begin, begin + width) of one bag's sum. Tried without gain: fetching rows ahead, by 4, 8 or 16 ids, all of their
// lines or the first; writing past the caches, which slowed the reads down.
template <class Row, class Id, bool weighted, int W, int N>
inline void pool(const Lookup& lookup, const Call& call, int64_t first, int64_t last, int32_t begin, int32_t width,
                 float* out, int64_t& unknown) {
  const auto* values = static_cast<const Id*>(call.values);
  const Columns<W, N> columns{width};
  Floats<W> sum[N] = {};
  float bias = 0.0f;
  for (int64_t i = first; i < last; i++) {
    const char* row = known_row(lookup.rows, values[i], unknown);
    float weight = weighted ? call.weights[i] : 1.0f;
    if constexpr (Row::scaled) {
      const auto [scale, low] = header<Row>(row, lookup.rows.dim);
      bias += weight * low;
      weight *= scale;
    }
    for (int v = 0; v < N; v++) {
      const Floats<W> x = Row::template load<W>(row + (begin + columns.at(v)) * sizeof(typename Row::Column));
      if constexpr (weighted || Row::scaled)
        sum[v] += x * weight;
      else
        sum[v] += x;
    }
  }
  const float share = lookup.mean && last > first ? 1.0f / static_cast<float>(last - first) : 1.0f;
  for (int v = 0; v < N; v++) store<W>(out + begin + columns.at(v), (sum[v] + bias) * share);
}

template <class Row, class Id, bool weighted, int W, int N>
int64_t pooled_block(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  int64_t unknown = 0;
  for (const Lookup* lookup = lookups; lookup < lookups + count; lookup++) {
    const int64_t bag = lookup->feature * call.size;
    for (int64_t b = from; b < to; b++) {
      const int64_t first = call.offsets ? call.offsets[bag + b] : bag + b;
      const int64_t last = call.offsets ? call.offsets[bag + b + 1] : bag + b + 1;
      float* out = call.out + b * call.out_stride + lookup->column;
      if constexpr (N > 0) {
        pool<Row, Id, weighted, W, N>(*lookup, call, first, last, 0, lookup->rows.dim, out, unknown);
      } else {  // wider than the accumulators: full passes, the last one ending with the row; one of them counts
        constexpr int32_t pass = W * kVectors;
        int64_t again = 0;
        for (int32_t begin = 0; begin < lookup->rows.dim; begin += pass) {
          const int32_t at = begin + pass <= lookup->rows.dim ? begin : lookup->rows.dim - pass;
          pool<Row, Id, weighted, W, kVectors>(*lookup, call, first, last, at, pass, out, begin ? again : unknown);
        }
      }
    }
  }
  return unknown;
}

// Look-up by look-up, so that a table's pages are found again; where rows are wide their own bytes cost more, and a few bags
// at a time are better, whose output is then written more in order.
template <class Row, class Id, bool weighted, int W, int N>
int64_t pooled(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  const int64_t block = lookups->rows.dim >= kWide ? kFewBags : to - from;
  int64_t unknown = 0;
  for (int64_t begin = from; begin < to; begin += block)
    unknown += pooled_block<Row, Id, weighted, W, N>(lookups, count, call, begin, begin + block < to ? begin + block : to);
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
