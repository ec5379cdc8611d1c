// Strategy "stream": the ids of a range of rows, sorted by tiles of the table, then tile by tile. Rows come from memory in
// order, and every look-up of a tile finds it in the cache, however the ids fall.
//
// It also serves parts of a table: ids of other rows are left to others, and sums are partial.
//
// No templates of the standard library here or in the other strategies: a copy that was compiled for AVX-512 could be
// what the linker keeps for all.
#include "rows.h"

namespace recsys::RECSYS_ISA {
namespace {

// Finds the row within the range; an id that the table does not have is row 0.
template <class Id>
inline bool ours(const Lookup& lookup, const Range& range, Id id, int64_t& row, int64_t& unknown) {
  const bool known = static_cast<uint64_t>(static_cast<int64_t>(id)) < static_cast<uint64_t>(lookup.rows.count);
  row = (known ? static_cast<int64_t>(id) : 0) - range.first;
  const bool in = static_cast<uint64_t>(row) < static_cast<uint64_t>(range.last - range.first);
  unknown += in && !known;
  return in;
}

template <class Id, class Each>
void for_each_id(const Lookup& lookup, const Call& call, const Range& range, Each each) {
  const auto* values = static_cast<const Id*>(call.values);
  const int64_t bag = lookup.feature * call.size;
  for (int64_t b = range.from; b < range.to; b++) {
    const int64_t first = call.offsets ? call.offsets[bag + b] : bag + b;
    const int64_t last = call.offsets ? call.offsets[bag + b + 1] : bag + b + 1;
    for (int64_t i = first; i < last; i++) each(values[i], b, i);
  }
}

// Sorts by tile, stably: counts, sums them up, and places. Tile t is then entries[ends[t - 1] .. ends[t]).
template <class Id>
int64_t sort(const Lookup& lookup, const Call& call, const Range& range, int64_t tiles) {
  int64_t unknown = 0, again = 0, row;
  const int64_t within = (1ll << range.tile) - 1;
  uint32_t* const ends = range.ends;
  for (int64_t t = 0; t <= tiles; t++) ends[t] = 0;
  for_each_id<Id>(lookup, call, range, [&](Id id, int64_t, int64_t) {
    if (ours(lookup, range, id, row, unknown)) ends[(row >> range.tile) + 1]++;
  });
  for (int64_t t = 0; t < tiles; t++) ends[t + 1] += ends[t];
  for_each_id<Id>(lookup, call, range, [&](Id id, int64_t b, int64_t i) {
    if (ours(lookup, range, id, row, again))
      range.entries[ends[row >> range.tile]++] = {static_cast<uint32_t>(row & within), static_cast<uint32_t>(b),
                                                  call.weights ? call.weights[i] : 1.0f};
  });
  return unknown;
}

inline void zero(float* out, int32_t dim) { std::memset(out, 0, dim * sizeof(float)); }

template <class Row, int W>
inline void add(const char* row, int32_t dim, float weight, float* out) {
  const auto [scale, bias] = header<Row>(row, dim);
  for (int32_t at = 0; at + W <= dim; at += W) {
    Floats<W> x = Row::template load<W>(row + at * sizeof(typename Row::Column));
    if constexpr (Row::scaled) x = x * scale + bias;
    store<W>(out + at, load_raw<Floats<W>>(out + at) + x * weight);
  }
  if constexpr (W > 1)
    if (dim % W) {
      const int32_t done = dim / W * W;
      const char* rest = row + done * sizeof(typename Row::Column);
      for (int32_t at = 0; at < dim - done; at++) {
        Floats<1> x = Row::template load<1>(rest + at * sizeof(typename Row::Column));
        if constexpr (Row::scaled) x = x * scale + bias;
        out[done + at] += x[0] * weight;
      }
    }
}

// Has the tile brought from memory from its first line to its last, where enough of it will be read.
inline void fetch(const char* tile, int64_t bytes, int64_t entries, int64_t stride) {
  if (entries * stride * 4 < bytes) return;
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(tile + at, 0, 2);
}

template <class Row, class Id>
int64_t serve(const Lookup& lookup, const Call& call, const Range& range) {
  const int64_t tiles = ((range.last - range.first - 1) >> range.tile) + 1, stride = lookup.rows.stride;
  const int64_t unknown = sort<Id>(lookup, call, range, tiles);
  const int32_t dim = lookup.rows.dim;
  if (range.whole)
    for (int64_t b = range.from; b < range.to; b++) zero(range.out + b * range.out_stride, dim);
  const char* const first = lookup.rows.data + range.first * stride;
  uint32_t k = 0;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t begin = t << range.tile, rows = range.last - range.first - begin;
    const char* const tile = first + begin * stride;
    fetch(tile, (rows >> range.tile ? 1ll << range.tile : rows) * stride, range.ends[t] - k, stride);
    for (; k < range.ends[t]; k++) {
      const Entry entry = range.entries[k];
      float* const out = range.out + entry.bag * range.out_stride;
      if (!range.whole) zero(out, dim);
      add<Row, kWidth>(tile + entry.row * stride, dim, entry.weight, out);
    }
  }
  if (lookup.mean && call.offsets)
    for (int64_t b = range.from; b < range.to; b++) {
      const int64_t* const offset = call.offsets + lookup.feature * call.size + b;
      const int64_t ids = offset[1] - offset[0];
      for (int32_t c = 0; c < dim && ids > 1; c++) range.out[b * range.out_stride + c] /= static_cast<float>(ids);
    }
  return unknown;
}

template <class Row>
Streamer by_id(bool wide) {
  return wide ? serve<Row, int64_t> : serve<Row, int32_t>;
}

}  // namespace

Streamer stream(Dtype dtype, bool wide) {
  if (dtype == Dtype::fp32) return by_id<Fp32>(wide);
  return dtype == Dtype::fp16 ? by_id<Fp16>(wide) : by_id<Int8>(wide);
}

}  // namespace recsys::RECSYS_ISA
