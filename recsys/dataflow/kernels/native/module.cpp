// What Python sees. Addresses come as integers, so that no version of torch matters; the caller checks what they point to.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "executor.h"
#include "isa.h"

namespace nb = nanobind;
using namespace recsys;

namespace {

using LookupArgs = std::tuple<uintptr_t, int64_t, int64_t, int32_t, int32_t, int64_t, int64_t, bool, uintptr_t>;
using PieceArgs = std::tuple<int64_t, int64_t, int32_t, int64_t, int64_t, double, double>;

const Isa& find(const std::string& name) {
  for (const Isa& isa : kIsas)
    if (name == isa.name && runs(isa)) return isa;
  throw std::invalid_argument("this processor does not run " + name);
}

std::vector<std::string> names() {
  std::vector<std::string> found;
  for (const Isa& isa : kIsas)
    if (runs(isa)) found.emplace_back(isa.name);
  return found;
}

std::vector<Lookup> unpack(const std::vector<LookupArgs>& args) {
  std::vector<Lookup> lookups;
  for (const auto& [data, count, stride, dim, dtype, feature, column, mean, skip] : args)
    lookups.push_back({{reinterpret_cast<const char*>(data), count, stride, dim, static_cast<Dtype>(dtype)},
                       feature, column, mean, reinterpret_cast<const uint32_t*>(skip)});
  return lookups;
}

std::vector<Piece> unpack(const std::vector<PieceArgs>& args) {
  std::vector<Piece> pieces;
  for (const auto& [lookup, lane, strategy, first, last, from, to] : args)
    pieces.push_back({lookup, lane, static_cast<Strategy>(strategy), first, last, from, to});
  return pieces;
}

Call pack(uintptr_t values, int64_t count, uintptr_t offsets, uintptr_t weights, int64_t size, uintptr_t out,
          int64_t out_stride) {
  return {reinterpret_cast<const void*>(values),
          count,
          reinterpret_cast<const int64_t*>(offsets),
          reinterpret_cast<const float*>(weights),
          size,
          reinterpret_cast<float*>(out),
          out_stride};
}

int64_t run(const Executor& executor, uintptr_t values, int64_t count, bool wide, uintptr_t offsets, uintptr_t weights,
            int64_t size, uintptr_t out, int64_t out_stride) {
  return executor.run(pack(values, count, offsets, weights, size, out, out_stride), {wide, offsets != 0, weights != 0});
}

std::vector<int64_t> run_timed(const Executor& executor, uintptr_t values, int64_t count, bool wide, uintptr_t offsets,
                               uintptr_t weights, int64_t size, uintptr_t out, int64_t out_stride) {
  std::vector<int64_t> times;
  {
    nb::gil_scoped_release release;
    executor.run(pack(values, count, offsets, weights, size, out, out_stride), {wide, offsets != 0, weights != 0}, &times);
  }
  return times;
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("__doc__") = "The look-up kernels; recsys.dataflow.kernels.cpu is their door.";
  m.def("isas", names, "Instruction sets that this build has and this processor runs, the best first.");
  nb::class_<Pool>(m, "Pool").def(nb::init<std::vector<int>>(), nb::arg("cpus"));
  nb::class_<Executor>(m, "Executor")
      .def(
          "__init__",
          [](Executor* self, const std::string& isa, const std::vector<LookupArgs>& lookups, Pool* pool) {
            new (self) Executor(find(isa), unpack(lookups), pool);
          },
          nb::arg("isa"), nb::arg("lookups"), nb::arg("pool").none(), nb::keep_alive<1, 4>())
      .def("add_schedule",
           [](Executor& self, int64_t size, const std::vector<PieceArgs>& pieces, bool join) {
             self.add_schedule(size, unpack(pieces), join);
           })
      .def("run_timed", run_timed)
      .def("run", run, nb::call_guard<nb::gil_scoped_release>());
}
