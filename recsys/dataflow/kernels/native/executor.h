// Runs a plan: all look-ups of a batch, on one core or shared out among several.
#pragma once
#include <memory>
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
  // A pool's lanes are the plan's cores; without one the caller does all.
  Executor(const Isa& isa, const std::vector<Lookup>& lookups, Pool* pool);

  // Pieces that cover every look-up once, for batches of up to `size`; the last one also serves larger ones. Pieces that
  // are alike are joined, unless each is to be timed. Throws std::invalid_argument for a piece of rows, look-ups or lanes
  // that there are not.
  void add_schedule(int64_t size, const std::vector<Piece>& pieces, bool join);

  // Fills the look-ups' columns and returns how many ids were out of range. `times` becomes the nanoseconds that each of
  // the schedule's pieces took. Throws std::invalid_argument for offsets that do not ascend within the values.
  int64_t run(const Call& call, Form form, std::vector<int64_t>* times = nullptr) const;

 private:
  // What one core does in one go: look-ups of one kind, or, with a range of rows, a single one.
  struct Part {
    std::vector<Lookup> lookups;
    Strategy strategy;
    int64_t lane;
    int64_t piece;  // its first one's place in the schedule
    int64_t first, last;
    double from, to;
    int64_t sums;  // index of the sums that its own belong to, or -1: it fills all of its bags alone
    Kernel kernels[8];  // by form
    Streamer streamers[2];  // by width of the ids
  };
  struct Schedule {
    int64_t size = 0, pieces = 0;
    std::vector<Part> parts;          // ascending by lane
    std::vector<int64_t> shares = {};  // how many parts make up each of the sums
  };
  struct Shared;

  void check(const Piece& piece) const;
  Part part(const Piece& piece, int64_t place) const;
  bool whole(const Piece& piece) const;
  const Schedule& schedule(int64_t size) const;

  const Isa& isa_;
  std::vector<Lookup> lookups_;
  std::vector<Schedule> schedules_;  // ascending by size; before them, for want of any, one core that gathers
  Pool* pool_;
};

}  // namespace recsys
