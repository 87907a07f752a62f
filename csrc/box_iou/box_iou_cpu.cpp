#include <algorithm>

#include "box_iou/box_iou.h"
#include "box_iou/box_iou_cpu_levels.h"
#include "huge_pages.h"
#include "torch_api.h"

namespace frcnn {
namespace {

constexpr int64_t kPairsPerThread = 65536;  // below this a thread costs more than it saves

Tensor box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou(boxes1, boxes2);
  const ScalarType dtype = coordinate_type(boxes1.scalar_type());
  const Tensor rows = contiguous_as(boxes1, dtype);
  const Tensor others = contiguous_as(boxes2, dtype);
  const int64_t num_rows = rows.size(0);
  const int64_t num_columns = others.size(0);
  Tensor iou = empty_on(rows, {num_rows, num_columns}, dtype);
  if (iou.numel() == 0) return iou;
  advise_huge_pages(iou.mutable_data_ptr(), static_cast<size_t>(iou.numel() * iou.element_size()));
  Tensor columns = empty_on(rows, {kIouColumnArrays, num_columns}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    T* split = mutable_data_of<T>(columns);
    const auto* boxes = reinterpret_cast<const Box<T>*>(data_of<T>(rows));
    const auto* other_boxes = reinterpret_cast<const Box<T>*>(data_of<T>(others));
    T* out = mutable_data_of<T>(iou);
    const BoxIouKernels<T>& kernel = box_iou_kernels<T>();
    parallel_for(num_columns, kPairsPerThread, [&](int64_t begin, int64_t end) {
      kernel.split_columns(other_boxes, num_columns, begin, end, split);
    });
    const int64_t pairs_per_tile = std::min(kIouTile, num_columns);
    parallel_for(num_rows * iou_tiles_per_row(num_columns), kPairsPerThread / pairs_per_tile + 1,
                 [&](int64_t begin, int64_t end) { kernel.tiles(boxes, split, num_columns, begin, end, out); });
  });
  return iou;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) { m.impl("box_iou", TORCH_BOX(&frcnn::box_iou_cpu)); }
