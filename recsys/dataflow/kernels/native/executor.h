// Runs a plan: all look-ups of a batch, on one core or shared out among several.
#pragma once
#include <vector>

#include "pool.h"
#include "types.h"

namespace recsys {

enum class Strategy : int32_t { gather, stream, vector };

// A part of a look-up: rows [first, last) for bags [from * size, to * size), by the core of a lane.
struct Piece {
  int64_t lookup;
  int64_t lane;
  Strategy strategy;
  int64_t first, last;
  double from, to;
};

class Executor {
 public:
  Executor(const Isa& isa, const std::vector<Lookup>& lookups, Pool* pool);

  // Pieces of every look-up, for batches from `size` on.
  void add_schedule(int64_t size, std::vector<Piece> pieces);

  // Fills the look-ups' columns and returns how many ids were out of range.
  int64_t run(const Call& call, Form form) const;

 private:
  // Look-ups that one kernel serves together.
  struct Group {
    std::vector<Lookup> lookups;
    Kernel kernels[8];  // by form
  };
  // A group for bags [from * size, to * size), by the core of a lane.
  struct Part {
    Group group;
    int64_t lane;
    double from, to;
  };
  struct Schedule {
    int64_t size;
    std::vector<Part> parts;  // ascending by lane
  };
  struct Shared;

  bool join(Group& group, const Lookup& lookup) const;
  const Schedule* schedule(int64_t size) const;

  const Isa& isa_;
  std::vector<Lookup> lookups_;
  std::vector<Group> groups_;
  std::vector<Schedule> schedules_;
  Pool* pool_;
};

}  // namespace recsys
