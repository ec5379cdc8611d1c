// What a kernel is given. Plain data only: these headers are compiled once for every instruction set.
#pragma once
#include <cstdint>

namespace recsys {

enum class Dtype : int32_t { fp32, fp16, int8 };

// A table's rows, one after the other. An int8 row is `dim` bytes q, then scale and bias: a column is q * scale + bias.
struct Rows {
  const char* data;
  int64_t count;
  int64_t stride;  // bytes from row to row
  int32_t dim;
  Dtype dtype;
};

struct Lookup {
  Rows rows;
  int64_t feature;  // position among the batch's features
  int64_t column;   // first column of the output that it fills
  bool mean;
  const uint32_t* skip;  // a bit for each row that somebody else adds, and counts if it is unknown; null: none
};

// The ids of a batch, packed feature-major, and where the pooled rows go. Bag b of feature f is bag f * size + b; bag k
// holds values[offsets[k] .. offsets[k + 1]), or values[k] without offsets.
struct Call {
  const void* values;      // int32 or int64, as the kernel says
  int64_t count;           // of the values
  const int64_t* offsets;  // null: one id a bag
  const float* weights;    // null: all 1
  int64_t size;            // bags of a feature
  float* out;
  int64_t out_stride;  // floats from bag to bag
};

// Serves bags [from, to) of `count` look-ups whose rows have one dim and dtype, and returns how many ids were out of
// range; these read row 0.
using Kernel = int64_t (*)(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to);

// What a batch's ids are like; each combination has its kernel.
struct Form {
  bool wide;      // int64, not int32
  bool jagged;    // with offsets
  bool weighted;  // with weights
};

// An id of a range of rows, ready to be looked up.
struct Entry {
  uint32_t row;  // from the tile's first
  uint32_t bag;
  float weight;
};

// Rows [first, last) of a table, for bags [from, to) of one look-up; ids of other rows are left to others.
struct Range {
  int64_t from, to;
  int64_t first, last;
  int32_t tile;  // a tile is 2^tile rows
  bool whole;    // every bag is ours: it begins as zeros. Else a bag with an id of another range is not touched.
  float* out;    // bag b goes to out + b * out_stride
  int64_t out_stride;
  Entry* entries;  // room for every id of the bags
  uint32_t* ends;  // room for two more than there are tiles
};

// Serves a range, and returns how many ids of it were out of the table's range: these belong to row 0.
using Streamer = int64_t (*)(const Lookup& lookup, const Call& call, const Range& range);

// The kernels of one instruction set.
struct Isa {
  const char* name;
  Kernel (*gather)(Dtype dtype, int32_t dim, Form form);
  Kernel (*vector)(Dtype dtype, int32_t dim, Form form);  // null for rows that it does not serve
  Streamer (*stream)(Dtype dtype, bool wide);
};

}  // namespace recsys
