// Soft-NMS of one CPU level: select, decay, and find the next best in the same sweep. No torch.
//
// Remaining boxes lie in columns, in ascending order of their indices. One sweep over them, a vector at a time, lowers
// the scores that the box just selected overlaps (a vector that it does not touch is only read) and keeps the best rank
// seen in each lane. A rank is an integer that ascends where scores descend, with NaN first, so that comparing ranks is
// comparing scores; kGone marks boxes that are selected or dropped. When a quarter of the columns is gone, the rest
// closes up, in order, so that equal scores still meet in ascending order of their indices.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "simd.h"
#include "soft_nms/soft_nms_cpu_levels.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

template <typename T>
using RankOf = typename SoftNmsRun<T>::Rank;
template <typename T>
constexpr RankOf<T> kGone = std::numeric_limits<RankOf<T>>::max();

// The order of geometry/sort_key.h as signed integers, lane by lane.
template <typename T>
FRCNN_INLINE Vec<RankOf<T>> rank_of(Vec<T> score) {
  using Ints = Vec<RankOf<T>>;
  const Ints bits = reinterpret_cast<Ints>(score + Vec<T>{});  // -0.0 + 0.0 = 0.0: both zeros get one rank
  const Ints rank = select(less(bits, Ints{}), bits & broadcast(kGone<T>), ~bits);
  return select(equal(score, score), rank, broadcast(std::numeric_limits<RankOf<T>>::min()));
}

// exp(x) for x <= 0 in doubles, to an ulp or so; 0 below -708. Each operation is rounded on its own, so that all levels
// agree: x = k ln 2 + r with |r| <= ln 2 / 2, the series of e^r, and 2^k through the exponent.
FRCNN_INLINE Vec<double> exp_of_negative(Vec<double> x) {
  using Ints = Vec<int64_t>;
  const Vec<double> least = broadcast(-708.0);
  const auto vanishing = less(x, least);
  x = max(x, least);
  constexpr double kShift = 0x1.8p52;  // adding it rounds to a whole number, which is then in the low bits
  const Vec<double> shifted = x * 0x1.71547652b82fep0 + kShift;
  const Vec<double> k = shifted - kShift;
  const Vec<double> r = (x - k * 0x1.62e42fefa0000p-1) - k * 0x1.cf79abc9e3b3ap-40;
  Vec<double> sum = broadcast(1.0 / 6227020800);  // 1 / 13!
  const double factors[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  for (const double factor : factors) sum = sum * r + factor;
  const Ints power = (reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(broadcast(kShift))) << 52;
  const Vec<double> result = reinterpret_cast<Vec<double>>(reinterpret_cast<Ints>(sum) + power);
  return select(vanishing, Vec<double>{}, result);
}

FRCNN_INLINE Vec<double> exp_rounded(Vec<double> x) { return exp_of_negative(x); }

// In doubles, so that the rounded result is the float nearest to the exact one (but for one case in many millions).
FRCNN_INLINE Vec<float> exp_rounded(Vec<float> x) {
  constexpr int kHalf = kLanes<double>;
  float parts[2 * kHalf];
  store(parts, x);
  for (int at = 0; at < 2 * kHalf; at += kHalf) {
    double wide[kHalf];
    for (int lane = 0; lane < kHalf; ++lane) wide[lane] = parts[at + lane];
    store(wide, exp_of_negative(load(wide)));
    for (int lane = 0; lane < kHalf; ++lane) parts[at + lane] = static_cast<float>(wide[lane]);
  }
  return load(parts);
}

template <typename T>
struct Best {
  RankOf<T> rank;
  int64_t at;
};

template <typename T>
struct SoftNms {
  using Rank = RankOf<T>;
  SoftNmsRun<T> run;
  int64_t padded, active = 0, gone = 0;  // columns in use, a whole number of vectors, and how many of them are gone
  T *x1, *y1, *x2, *y2, *area, *score;

  explicit SoftNms(const SoftNmsRun<T>& arguments) : run(arguments), padded(run.padded(run.n)) {
    x1 = run.columns;
    y1 = x1 + padded;
    x2 = y1 + padded;
    y2 = x2 + padded;
    area = y2 + padded;
    score = area + padded;
  }

  // All boxes into columns; the last ones are padding. Returns the best.
  Best<T> begin() {
    for (int64_t i = 0; i < run.n; ++i) {
      const T* box = run.boxes + 4 * i;
      x1[i] = box[0];
      y1[i] = box[1];
      x2[i] = box[2];
      y2[i] = box[3];
      area[i] = (box[2] - box[0]) * (box[3] - box[1]);
      score[i] = run.scores[i];
      run.indices[i] = static_cast<uint32_t>(i);
    }
    active = run.n;
    pad();
    for (int64_t at = 0; at < active; at += kLanes<T>) store(run.ranks + at, rank_of<T>(load(score + at)));
    for (int64_t i = run.n; i < active; ++i) run.ranks[i] = kGone<T>;
    Best<T> best{kGone<T>, 0};
    for (int64_t i = 0; i < active; ++i) {
      if (run.ranks[i] < best.rank) best = {run.ranks[i], i};
    }
    return best;
  }

  // Fills the last vector with boxes that are gone.
  void pad() {
    gone = 0;
    for (; active % kLanes<T> != 0; ++active, ++gone) {
      x1[active] = y1[active] = x2[active] = y2[active] = area[active] = score[active] = 0;
      run.ranks[active] = kGone<T>;
    }
  }

  void close_up() {
    int64_t to = 0;
    for (int64_t i = 0; i < active; ++i) {
      if (run.ranks[i] == kGone<T>) continue;
      x1[to] = x1[i];
      y1[to] = y1[i];
      x2[to] = x2[i];
      y2[to] = y2[i];
      area[to] = area[i];
      score[to] = score[i];
      run.ranks[to] = run.ranks[i];
      run.indices[to] = run.indices[i];
      ++to;
    }
    active = to;
    pad();
  }

  // What scores are multiplied by at these IoUs. kMethod: SoftNmsMethod.
  template <int kMethod>
  FRCNN_INLINE Vec<T> weight(Vec<T> iou) const {
    const Vec<T> one = broadcast(T(1));
    if constexpr (kMethod == 2) {
      return select(equal(iou, iou), exp_rounded(-(iou * iou) / broadcast(run.sigma)), one);
    } else {
      return select(less_equal(broadcast(run.iou_threshold), iou), kMethod == 1 ? one - iou : Vec<T>{}, one);
    }
  }

  // Lowers the scores that the box in column `selected` overlaps, drops those below min_score, returns the best left.
  // `all`: every vector, also where nothing overlaps.
  template <int kMethod>
  Best<T> sweep(int64_t selected, bool all) {
    const Vec<T> zero{}, least = broadcast(run.min_score);
    const Vec<T> left = broadcast(x1[selected]), top = broadcast(y1[selected]), right = broadcast(x2[selected]),
                 bottom = broadcast(y2[selected]), own = broadcast(area[selected]);
    const Vec<Rank> none = broadcast(kGone<T>);
    run.ranks[selected] = kGone<T>;
    ++gone;
    Vec<Rank> best = none, best_at{};
    for (int64_t at = 0; at < active; at += kLanes<T>) {
      const Vec<T> width = max(min(right, load(x2 + at)) - max(left, load(x1 + at)), zero);
      const Vec<T> height = max(min(bottom, load(y2 + at)) - max(top, load(y1 + at)), zero);
      const Vec<T> intersection = width * height;
      Vec<Rank> rank = load(run.ranks + at);
      if (any(less(zero, intersection)) || all) {
        const Vec<T> iou = intersection / (own + load(area + at) - intersection);
        const Vec<T> lowered = load(score + at) * weight<kMethod>(iou);
        const auto was_gone = equal(rank, none);
        const auto is_gone = was_gone | less(lowered, least);
        rank = select(is_gone, none, rank_of<T>(lowered));
        gone += __builtin_popcount(bits_of_rank(is_gone)) - __builtin_popcount(bits_of_rank(was_gone));
        store(score + at, lowered);
        store(run.ranks + at, rank);
      }
      const auto better = less(rank, best);
      best = select(better, rank, best);
      best_at = select(better, broadcast(static_cast<Rank>(at)), best_at);
    }
    Rank ranks[kLanes<T>], places[kLanes<T>];
    store(ranks, best);
    store(places, best_at);
    Best<T> found{kGone<T>, 0};
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      const int64_t at = static_cast<int64_t>(places[lane]) + lane;
      if (ranks[lane] < found.rank || (ranks[lane] == found.rank && at < found.at)) found = {ranks[lane], at};
    }
    return found;
  }

  template <typename M>
  static FRCNN_INLINE uint32_t bits_of_rank(M mask) {
    return bits_of(mask);
  }

  template <int kMethod>
  int64_t select_all() {
    // With a threshold of 0 or less, boxes that do not overlap at all are struck too.
    const bool always_all = kMethod == 0 && !(run.iou_threshold > 0);
    int64_t count = 0;
    for (Best<T> best = begin(); best.rank != kGone<T> && count < run.max_output;) {
      run.keep[count] = run.indices[best.at];
      run.kept_scores[count] = score[best.at];
      // The first sweep also drops what was below min_score from the start.
      const Best<T> next = sweep<kMethod>(best.at, always_all || count == 0);
      ++count;
      best = next;
      if (4 * gone > active + 4 * kLanes<T> && best.rank != kGone<T>) {
        const uint32_t index = run.indices[best.at];
        close_up();
        best.at = place_of(index, best.at);
      }
    }
    return count;
  }

  // Where the box of `index` went; indices ascend, and closing up moves nothing back.
  int64_t place_of(uint32_t index, int64_t from) const {
    int64_t low = 0, high = from < active ? from : active - 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      // Padding has no index; it lies behind every box.
      if (run.ranks[middle] == kGone<T> || run.indices[middle] >= index) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

template <typename T>
int64_t run_soft_nms(const SoftNmsRun<T>& run) {
  SoftNms<T> work(run);
  switch (run.method) {
    case 0:
      return work.template select_all<0>();
    case 1:
      return work.template select_all<1>();
    default:
      return work.template select_all<2>();
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL
