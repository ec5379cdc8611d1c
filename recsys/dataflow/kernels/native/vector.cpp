// Strategy "vector": sixteen ids at once, for tables of one column (first-order terms): a vector gather for each of sixteen
// look-ups, and a transpose, so that a bag's numbers are stored side by side in one go.
#include "rows.h"

namespace recsys::RECSYS_ISA {

Kernel gather(Dtype dtype, int32_t dim, Form form);

namespace {

#if defined(__AVX512F__)

constexpr int64_t kAhead = 64;  // ids, of which another piece lies elsewhere for every look-up

inline __m512i load_ids(const int32_t* ids) { return _mm512_loadu_si512(ids); }

// An id past 31 bits is unknown as any other negative one.
inline __m512i load_ids(const int64_t* ids) {
  const __m512i low = _mm512_loadu_si512(ids), high = _mm512_loadu_si512(ids + 8), most = _mm512_set1_epi64(INT32_MAX);
  const __m256i a = _mm512_cvtepi64_epi32(_mm512_min_epu64(low, _mm512_add_epi64(most, _mm512_set1_epi64(1))));
  const __m256i b = _mm512_cvtepi64_epi32(_mm512_min_epu64(high, _mm512_add_epi64(most, _mm512_set1_epi64(1))));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

// 16 x 16 floats, rows to columns.
inline void transpose(__m512 (&r)[16]) {
  __m512 t[16];
  for (int k = 0; k < 16; k += 2) {
    t[k] = _mm512_unpacklo_ps(r[k], r[k + 1]);
    t[k + 1] = _mm512_unpackhi_ps(r[k], r[k + 1]);
  }
  for (int k = 0; k < 16; k += 4) {
    r[k] = _mm512_shuffle_ps(t[k], t[k + 2], 0x44);
    r[k + 1] = _mm512_shuffle_ps(t[k], t[k + 2], 0xee);
    r[k + 2] = _mm512_shuffle_ps(t[k + 1], t[k + 3], 0x44);
    r[k + 3] = _mm512_shuffle_ps(t[k + 1], t[k + 3], 0xee);
  }
  for (int k = 0; k < 16; k += 8)
    for (int j = 0; j < 4; j++) {
      t[k + j] = _mm512_shuffle_f32x4(r[k + j], r[k + j + 4], 0x88);
      t[k + j + 4] = _mm512_shuffle_f32x4(r[k + j], r[k + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    r[j] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0x88);
    r[j + 8] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0xdd);
  }
}

// Up to 16 look-ups of neighbouring columns, for 16 bags.
template <class Id>
inline int64_t block(const Lookup* lookups, int64_t count, const Call& call, int64_t b) {
  __m512 found[16];
  int64_t unknown = 0;
  for (int64_t k = 0; k < count; k++) {
    const Lookup& lookup = lookups[k];
    const Id* const values = static_cast<const Id*>(call.values) + lookup.feature * call.size + b;
    const auto ahead = reinterpret_cast<uintptr_t>(values) + kAhead * sizeof(Id);
    for (size_t line = 0; line < 16 * sizeof(Id); line += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + line), 0, 2);
    const __m512i ids = load_ids(values);
    const __mmask16 known = _mm512_cmplt_epu32_mask(ids, _mm512_set1_epi32(static_cast<int32_t>(lookup.rows.count)));
    unknown += 16 - __builtin_popcount(known);
    found[k] = _mm512_i32gather_ps(_mm512_maskz_mov_epi32(known, ids), lookup.rows.data, 4);
  }
  for (int64_t k = count; k < 16; k++) found[k] = _mm512_setzero_ps();
  transpose(found);
  float* out = call.out + b * call.out_stride + lookups->column;
  const auto columns = static_cast<__mmask16>((1u << count) - 1);
  for (int j = 0; j < 16; j++, out += call.out_stride) _mm512_mask_storeu_ps(out, columns, found[j]);
  return unknown;
}

template <class Id>
int64_t one_column(const Lookup* lookups, int64_t count, const Call& call, int64_t from, int64_t to) {
  const Kernel rest = gather(Dtype::fp32, 1, {sizeof(Id) == 8, false, false});
  int64_t unknown = 0, next = 0;
  for (int64_t k = 0; k < count; k = next) {
    for (next = k + 1; next < count && next < k + 16 && lookups[next].column == lookups[next - 1].column + 1;) next++;
    int64_t b = from;
    for (; b + 16 <= to; b += 16) unknown += block<Id>(lookups + k, next - k, call, b);
    unknown += rest(lookups + k, next - k, call, b, to);
  }
  return unknown;
}

#endif

}  // namespace

Kernel vector(Dtype dtype, int32_t dim, Form form) {
#if defined(__AVX512F__)
  if (dtype == Dtype::fp32 && dim == 1 && !form.jagged && !form.weighted)
    return form.wide ? one_column<int64_t> : one_column<int32_t>;
#endif
  (void)dtype, (void)dim, (void)form;
  return nullptr;
}

}  // namespace recsys::RECSYS_ISA
