// Rows as vectors of floats, of any stored type, at the width of the instruction set that this is compiled for.
#pragma once
#include <cstring>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "types.h"

// On loops over vectors: only when they are unrolled does the compiler keep an array of them in registers.
#ifdef __clang__
#define RECSYS_UNROLL _Pragma("unroll")
#else
#define RECSYS_UNROLL _Pragma("GCC unroll 16")
#endif

namespace recsys::RECSYS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kVectors = 16;  // of one pass; wider rows take several passes
constexpr int kRegisters = kWidth == 16 ? 16 : 8;  // vectors that a sum keeps in registers, half of all

template <class T, int W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <int W>
using Floats = typename VectorOf<float, W>::type;

template <class V>
inline V load_raw(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <int W>
inline void store(float* to, Floats<W> v) {
  std::memcpy(to, &v, sizeof v);
}

// Past the caches: a line that is written whole need not be read first.
template <int W>
inline void store_past(float* to, Floats<W> v) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return _mm512_stream_ps(to, (__m512)v);
#elif defined(__AVX2__)
  if constexpr (W == 8) return _mm256_stream_ps(to, (__m256)v);
#endif
  store<W>(to, v);
}

struct Fp32 {
  static constexpr Dtype dtype = Dtype::fp32;
  static constexpr bool scaled = false;
  using Column = float;
  template <int W>
  static Floats<W> load(const char* at) {
    return load_raw<Floats<W>>(at);
  }
};

struct Fp16 {
  static constexpr Dtype dtype = Dtype::fp16;
  static constexpr bool scaled = false;
  using Column = _Float16;
  template <int W>
  static Floats<W> load(const char* at) {
#if defined(__AVX512F__)
    if constexpr (W == 16) return (Floats<16>)_mm512_cvtph_ps(load_raw<__m256i>(at));
#endif
#if defined(__F16C__)
    if constexpr (W == 8) return (Floats<8>)_mm256_cvtph_ps(load_raw<__m128i>(at));
    if constexpr (W == 4) return (Floats<4>)_mm_cvtph_ps(_mm_cvtsi64_si128(load_raw<int64_t>(at)));
#endif
    return __builtin_convertvector(load_raw<typename VectorOf<_Float16, W>::type>(at), Floats<W>);
  }
};

struct Int8 {
  static constexpr Dtype dtype = Dtype::int8;
  static constexpr bool scaled = true;
  using Column = uint8_t;
  template <int W>
  static Floats<W> load(const char* at) {
#if defined(__AVX512F__)
    if constexpr (W == 16) return (Floats<16>)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_raw<__m128i>(at)));
#endif
#if defined(__AVX2__)
    if constexpr (W == 8)
      return (Floats<8>)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load_raw<int64_t>(at))));
    if constexpr (W == 4) return (Floats<4>)_mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(load_raw<int32_t>(at))));
#endif
    using Integers = typename VectorOf<int32_t, W>::type;
    return __builtin_convertvector(
        __builtin_convertvector(load_raw<typename VectorOf<uint8_t, W>::type>(at), Integers), Floats<W>);
  }
};

struct Header {
  float scale, bias;
};

template <class Row>
inline Header header(const char* row, int32_t dim) {
  if constexpr (Row::scaled) return load_raw<Header>(row + dim);
  (void)row, (void)dim;
  return {1.0f, 0.0f};
}

// The row of an id; out of range it is row 0, and counted. Both without a branch.
template <class Id>
inline const char* known_row(const Rows& rows, Id id, int64_t& unknown) {
  const bool in = static_cast<uint64_t>(static_cast<int64_t>(id)) < static_cast<uint64_t>(rows.count);
  unknown += !in;
  return rows.data + (in ? static_cast<int64_t>(id) : 0) * rows.stride;
}

}  // namespace
}  // namespace recsys::RECSYS_ISA
