// match_boxes for one CPU level; no torch.
//
// Boxes come in blocks of kMatchBlock, which are neighbours in the image when they are the anchors of a feature map:
//
//   1. split the block into one array per coordinate, finding the box around all of it
//   2. collect the targets that this hull overlaps: mostly few, often none
//   3. vector by vector: four comparisons with each of those targets, then, for the targets that some lane overlaps,
//      the IoU of every lane, and with it the best target of each box and the best IoU of each target in this block
//   4. thresholds
//
// Every IoU > 0 is found that way, and an IoU of 0 (or NaN, which counts as 0) never beats another: the best of a box
// starts at 0 with the first target, which is the first of all that tie.
//
// Restoring then needs no IoU but those of the blocks in which a target reaches its best.
#pragma once

#include <cstdint>
#include <cstring>

#include "matching/match_boxes_cpu_levels.h"
#include "simd_boxes.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

constexpr int kTargetsAtOnce = 64;

template <typename T>
using IntVec = typename Simd<T>::IntVec;

template <typename T>
struct Block {
  alignas(kVectorBytes) T x1[kMatchBlock];
  alignas(kVectorBytes) T y1[kMatchBlock];
  alignas(kVectorBytes) T x2[kMatchBlock];
  alignas(kVectorBytes) T y2[kMatchBlock];
  alignas(kVectorBytes) T area[kMatchBlock];
  alignas(kVectorBytes) T best[kMatchBlock];  // IoU
  alignas(kVectorBytes) typename Simd<T>::Int index[kMatchBlock];
  int64_t first;               // number of its first box
  int count;                   // boxes; the lanes beyond, up to a whole vector, hold NaN and overlap nothing
  T left, top, right, bottom;  // around all its boxes
};

template <typename T>
struct Target {
  T x1, y1, x2, y2, area;
};

template <typename T>
FRCNN_INLINE Target<T> target_at(const MatchTask<T>& task, int64_t t) {
  const int64_t m = task.num_targets;
  const T* column = task.targets + t;
  return {column[0], column[m], column[2 * m], column[3 * m], column[4 * m]};
}

template <typename T>
FRCNN_INLINE IntVec<T> load_index(const Block<T>& block, int i) {
  IntVec<T> index;
  std::memcpy(&index, block.index + i, sizeof index);
  return index;
}

template <typename T>
FRCNN_INLINE void store_index(Block<T>& block, int i, IntVec<T> index) {
  std::memcpy(block.index + i, &index, sizeof index);
}

template <typename T>
void load_block(const MatchTask<T>& task, int64_t number, Block<T>& block) {
  block.first = number * kMatchBlock;
  const int64_t left_over = task.num_boxes - block.first;
  block.count = static_cast<int>(left_over < kMatchBlock ? left_over : kMatchBlock);
  const T* rows = task.boxes + 4 * block.first;
  const Vec<T> inf = broadcast(static_cast<T>(__builtin_inf()));
  Vec<T> left = inf, top = inf, right = -inf, bottom = -inf;
  for (int i = 0; i < block.count; i += kLanes<T>) {
    Columns<T> box;
    if (i + kLanes<T> <= block.count) {
      box = load_columns(rows + 4 * i);
    } else {
      T padded[4 * kLanes<T>];
      for (T& value : padded) value = static_cast<T>(__builtin_nan(""));
      std::memcpy(padded, rows + 4 * i, static_cast<size_t>(block.count - i) * 4 * sizeof(T));
      box = load_columns(padded);
    }
    store(block.x1 + i, box.c0);
    store(block.y1 + i, box.c1);
    store(block.x2 + i, box.c2);
    store(block.y2 + i, box.c3);
    store(block.area + i, (box.c2 - box.c0) * (box.c3 - box.c1));
    store(block.best + i, Vec<T>{});
    store_index(block, i, IntVec<T>{} + static_cast<int>(task.first_target));
    left = min(box.c0, left);  // in this order a NaN leaves what was there
    top = min(box.c1, top);
    right = max(box.c2, right);
    bottom = max(box.c3, bottom);
  }
  block.left = block.top = static_cast<T>(__builtin_inf());
  block.right = block.bottom = -block.left;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    block.left = left[lane] < block.left ? left[lane] : block.left;
    block.top = top[lane] < block.top ? top[lane] : block.top;
    block.right = right[lane] > block.right ? right[lane] : block.right;
    block.bottom = bottom[lane] > block.bottom ? bottom[lane] : block.bottom;
  }
}

// kLanes<T> boxes of a block.
template <typename T>
struct Lanes {
  Vec<T> x1, y1, x2, y2, area;
};

template <typename T>
FRCNN_INLINE Lanes<T> lanes_at(const Block<T>& block, int i) {
  return {load(block.x1 + i), load(block.y1 + i), load(block.x2 + i), load(block.y2 + i), load(block.area + i)};
}

// Lanes that may overlap the target; false lanes have IoU 0 or NaN.
template <typename T>
FRCNN_INLINE Mask<T> may_overlap(const Lanes<T>& box, const Target<T>& target) {
  return less(broadcast(target.x1), box.x2) & less(box.x1, broadcast(target.x2)) & less(broadcast(target.y1), box.y2) &
         less(box.y1, broadcast(target.y2));
}

// pairwise_iou() of geometry/pairwise_iou.h, operation by operation.
template <typename T>
FRCNN_INLINE Vec<T> iou_with(const Lanes<T>& box, const Target<T>& target) {
  const Vec<T> zero{};
  const Vec<T> w = min(broadcast(target.x2), box.x2) - max(broadcast(target.x1), box.x1);
  const Vec<T> h = min(broadcast(target.y2), box.y2) - max(broadcast(target.y1), box.y1);
  const Vec<T> intersection = max(w, zero) * max(h, zero);
  return intersection / (broadcast(target.area) + box.area - intersection);
}

// Best target and IoU of every box of the block; of every target here, if wanted: block_best [M].
template <typename T>
void find_best(const MatchTask<T>& task, Block<T>& block, T* block_best) {
  Target<T> near[kTargetsAtOnce];
  int number[kTargetsAtOnce];
  Vec<T> best_of[kTargetsAtOnce];
  if (block_best != nullptr) {
    for (int64_t t = 0; t < task.num_targets; ++t) block_best[t] = T(0);
  }
  for (int64_t t = 0; t < task.num_targets;) {
    int count = 0;
    for (; t < task.num_targets && count < kTargetsAtOnce; ++t) {  // without a branch, which would be unpredictable
      const Target<T> target = target_at(task, t);
      near[count] = target;
      number[count] = static_cast<int>(t);
      count += static_cast<int>(target.x1 < block.right) & static_cast<int>(target.x2 > block.left) &
               static_cast<int>(target.y1 < block.bottom) & static_cast<int>(target.y2 > block.top);
    }
    for (int j = 0; j < count; ++j) best_of[j] = Vec<T>{};
    for (int i = 0; i < block.count && count > 0; i += kLanes<T>) {
      const Lanes<T> box = lanes_at(block, i);
      int met[kTargetsAtOnce];
      int meetings = 0;
      for (int j = 0; j < count; ++j) {
        met[meetings] = j;
        meetings += static_cast<int>(any(may_overlap(box, near[j])));
      }
      if (meetings == 0) continue;
      Vec<T> best = load(block.best + i);
      IntVec<T> index = load_index(block, i);
      for (int k = 0; k < meetings; ++k) {
        const int j = met[k];
        const Vec<T> iou = iou_with(box, near[j]);
        const Mask<T> better = less(best, iou);
        index = select(better, IntVec<T>{} + number[j], index);
        best = select(better, iou, best);
        best_of[j] = max(iou, best_of[j]);  // in this order a NaN leaves what was there
      }
      store(block.best + i, best);
      store_index(block, i, index);
    }
    for (int j = 0; j < count && block_best != nullptr; ++j) {
      T best = T(0);
      for (int lane = 0; lane < kLanes<T>; ++lane) best = best_of[j][lane] > best ? best_of[j][lane] : best;
      block_best[number[j]] = best;
    }
  }
}

template <typename T>
void match_blocks(const MatchTask<T>& task, int64_t begin, int64_t end) {
  Block<T> block;
  const Vec<T> low = broadcast(task.low), high = broadcast(task.high);
  for (int64_t number = begin; number < end; ++number) {
    load_block(task, number, block);
    find_best(task, block, task.block_best == nullptr ? nullptr : task.block_best + number * task.num_targets);
    for (int i = 0; i < block.count; i += kLanes<T>) {
      const Vec<T> best = load(block.best + i);
      const IntVec<T> index = select(less(best, high), IntVec<T>{} - 2, load_index(block, i));
      store_index(block, i, select(less(best, low), IntVec<T>{} - 1, index));
    }
    for (int i = 0; i < block.count; ++i) task.matches[block.first + i] = block.index[i];
  }
}

template <typename T>
void restore_blocks(const MatchTask<T>& task, int64_t begin, int64_t end) {
  Block<T> block;
  for (int64_t number = begin; number < end; ++number) {
    const T* block_best = task.block_best + number * task.num_targets;
    bool loaded = false;
    for (int64_t t = 0; t < task.num_targets; ++t) {
      if (!(block_best[t] == task.target_best[t])) continue;
      if (!loaded) {
        load_block(task, number, block);
        find_best<T>(task, block, nullptr);
        loaded = true;
      }
      const Target<T> target = target_at(task, t);
      for (int i = 0; i < block.count; i += kLanes<T>) {
        uint32_t tied = bits_of(equal(iou_with(lanes_at(block, i), target), broadcast(task.target_best[t])));
        for (; tied != 0; tied &= tied - 1) {
          const int at = i + __builtin_ctz(tied);
          task.matches[block.first + at] = block.index[at];
        }
      }
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL
