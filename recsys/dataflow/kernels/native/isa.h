// The instruction sets that kernels are compiled for, and which of them this processor has.
#pragma once
#include <cstring>

#include "types.h"

namespace recsys {

#define RECSYS_DECLARE(isa)                              \
  namespace isa {                                        \
  Kernel gather(Dtype dtype, int32_t dim, Form form);    \
  Kernel vector(Dtype dtype, int32_t dim, Form form);    \
  Streamer stream(Dtype dtype, bool wide);               \
  }
RECSYS_DECLARE(portable)
#if defined(__x86_64__)
RECSYS_DECLARE(avx2)
RECSYS_DECLARE(avx512)
#endif
#undef RECSYS_DECLARE

// The best first.
inline const Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", avx512::gather, avx512::vector, avx512::stream},
    {"avx2", avx2::gather, avx2::vector, avx2::stream},
#endif
    {"portable", portable::gather, portable::vector, portable::stream},
};

inline bool runs(const Isa& isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(isa.name, "avx2")) return avx2;
  if (!std::strcmp(isa.name, "avx512"))
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#endif
  (void)isa;
  return true;
}

}  // namespace recsys
