#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "geometry/pairwise_iou.h"
#include "huge_pages.h"
#include "matching/match_boxes.h"
#include "matching/match_boxes_cpu_levels.h"
#include "torch_api.h"

namespace frcnn {
namespace {

constexpr int64_t kBlocksPerThread = 8;  // below this a thread costs more than it saves

void match_blocks(const MatchTask<float>& task, int64_t begin, int64_t end) {
  match_kernels().match_float(task, begin, end);
}
void match_blocks(const MatchTask<double>& task, int64_t begin, int64_t end) {
  match_kernels().match_double(task, begin, end);
}
void restore_blocks(const MatchTask<float>& task, int64_t begin, int64_t end) {
  match_kernels().restore_float(task, begin, end);
}
void restore_blocks(const MatchTask<double>& task, int64_t begin, int64_t end) {
  match_kernels().restore_double(task, begin, end);
}

template <typename T>
bool is_none(const Box<T>& target) {
  return std::isnan(target.x1) || std::isnan(target.y1) || std::isnan(target.x2) || std::isnan(target.y2);
}

// [M, 4] -> [5, M]: a column per coordinate, and the areas.
template <typename T>
std::vector<T> target_columns(const Box<T>* targets, int64_t num_targets) {
  std::vector<T> columns(5 * num_targets);
  for (int64_t t = 0; t < num_targets; ++t) {
    const T values[] = {targets[t].x1, targets[t].y1, targets[t].x2, targets[t].y2, box_area(targets[t])};
    for (int64_t c = 0; c < 5; ++c) columns[c * num_targets + t] = values[c];
  }
  return columns;
}

template <typename T>
void restore_low_quality(MatchTask<T> task, const Box<T>* targets, int64_t blocks, double min_low_quality) {
  std::vector<T> best(task.num_targets, T(0));
  for (int64_t block = 0; block < blocks; ++block) {
    const T* of_block = task.block_best + block * task.num_targets;
    for (int64_t t = 0; t < task.num_targets; ++t) best[t] = std::max(best[t], of_block[t]);
  }
  bool all = false;  // a target that nothing overlaps has IoU 0, its best, with every box
  for (int64_t t = 0; t < task.num_targets; ++t) {
    if (static_cast<double>(best[t]) < min_low_quality || is_none(targets[t])) {
      best[t] = std::numeric_limits<T>::quiet_NaN();
    }
    all = all || best[t] == T(0);
  }
  if (all) {
    task.low = task.high = T(-1);
    task.block_best = nullptr;
    parallel_for(blocks, kBlocksPerThread, [&](int64_t begin, int64_t end) { match_blocks(task, begin, end); });
  } else {
    task.target_best = best.data();
    parallel_for(blocks, kBlocksPerThread, [&](int64_t begin, int64_t end) { restore_blocks(task, begin, end); });
  }
}

struct Rules {
  double high_threshold, low_threshold;
  bool allow_low_quality;
  double min_low_quality;
};

// targets [M, 4], boxes [N, 4] -> matches [N]
template <typename T>
void match_image(const Box<T>* targets, int64_t num_targets, const T* boxes, int64_t num_boxes, const Rules& rules,
                 int64_t* matches) {
  while (num_targets > 0 && is_none(targets[num_targets - 1])) --num_targets;  // what fills up a batch costs nothing
  if (num_targets == 0) {
    std::fill_n(matches, num_boxes, int64_t(-1));
    return;
  }
  const int64_t blocks = (num_boxes + kMatchBlock - 1) / kMatchBlock;
  const std::vector<T> columns = target_columns(targets, num_targets);
  std::vector<T> block_best(rules.allow_low_quality ? blocks * num_targets : 0);
  MatchTask<T> task{};
  task.targets = columns.data();
  task.num_targets = num_targets;
  task.boxes = boxes;
  task.num_boxes = num_boxes;
  task.high = static_cast<T>(rules.high_threshold);
  task.low = static_cast<T>(rules.low_threshold);
  task.block_best = rules.allow_low_quality ? block_best.data() : nullptr;
  task.matches = matches;
  while (is_none(targets[task.first_target])) ++task.first_target;
  parallel_for(blocks, kBlocksPerThread, [&](int64_t begin, int64_t end) { match_blocks(task, begin, end); });
  if (rules.allow_low_quality) restore_low_quality(task, targets, blocks, rules.min_low_quality);
}

Tensor match_boxes_cpu(const Tensor& targets, const Tensor& boxes, double high_threshold, double low_threshold,
                       bool allow_low_quality, double min_low_quality) {
  check_match_boxes(targets, boxes, high_threshold, low_threshold, min_low_quality);
  const ScalarType dtype = coordinate_type(promote(targets.scalar_type(), boxes.scalar_type()));
  const Tensor targets_c = contiguous_as(targets, dtype);
  const Tensor boxes_c = contiguous_as(boxes, dtype);
  const bool batched = targets.dim() == 3, shared_boxes = boxes.dim() == 2;
  const int64_t images = batched ? targets.size(0) : 1;
  const int64_t num_targets = targets.size(targets.dim() - 2), num_boxes = boxes.size(boxes.dim() - 2);
  Tensor matches = batched ? empty_on(boxes_c, {images, num_boxes}, ScalarType::Long)
                           : empty_on(boxes_c, {num_boxes}, ScalarType::Long);
  auto* out = mutable_data_of<int64_t>(matches);
  advise_huge_pages(out, static_cast<size_t>(images * num_boxes) * sizeof(int64_t));
  if (images == 0 || num_boxes == 0) return matches;

  const Rules rules{high_threshold, low_threshold, allow_low_quality, min_low_quality};
  match_kernels();  // the level is chosen here, where it may throw
  dispatch_coordinates(dtype, [&]<typename T>() {
    const auto* target_rows = reinterpret_cast<const Box<T>*>(data_of<T>(targets_c));
    const T* box_rows = data_of<T>(boxes_c);
    for (int64_t image = 0; image < images; ++image) {
      match_image(target_rows + image * num_targets, num_targets, box_rows + (shared_boxes ? 0 : image * 4 * num_boxes),
                  num_boxes, rules, out + image * num_boxes);
    }
  });
  return matches;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) { m.impl("match_boxes", TORCH_BOX(&frcnn::match_boxes_cpu)); }
