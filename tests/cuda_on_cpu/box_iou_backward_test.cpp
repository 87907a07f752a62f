// The gradient of box_iou: the CUDA kernels against the CPU kernel; to the last bit where both sum in one order.
#include "shim/testing.h"

#include "box_iou/box_iou_backward_cpu_kernel.h"
#include "box_iou/box_iou_backward_kernels.cuh"
#include "box_iou/box_iou_cpu_kernel.h"

namespace {

using namespace cuda_on_cpu;

// Boxes on whole pixels, so that edges coincide; with `hostile` some empty, inverted, infinite or NaN.
template <typename T>
std::vector<T> boxes(std::int64_t count, std::uint64_t seed, bool hostile) {
  Random random(seed);
  std::vector<T> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = [&](std::int64_t low, std::int64_t high) { return static_cast<T>(random.integer(low, high)); };
    T x1 = at(0, 30), y1 = at(0, 30), x2 = x1 + at(1, 20), y2 = y1 + at(1, 20);
    switch (hostile ? random.integer(0, 40) : 99) {
      case 0:
        x2 = x1, y2 = y1;
        break;
      case 1:
        std::swap(x1, x2);
        break;
      case 2:
        x2 = std::numeric_limits<T>::infinity();
        break;
      case 3:
        y2 = std::numeric_limits<T>::quiet_NaN();
        break;
      default:
        break;
    }
    values.insert(values.end(), {x1, y1, x2, y2});
  }
  return values;
}

template <typename T>
using Gradients = std::tuple<std::vector<T>, std::vector<T>>;

template <typename T>
Gradients<T> on_the_cpu(const std::vector<T>& grad, const std::vector<T>& boxes1, const std::vector<T>& boxes2) {
  const auto rows = static_cast<std::int64_t>(boxes1.size() / 4),
             columns = static_cast<std::int64_t>(boxes2.size() / 4);
  std::vector<T> split(columns * frcnn::kIouColumnArrays), grad1(boxes1.size()), grad2(boxes2.size());
  frcnn::baseline::split_iou_columns(reinterpret_cast<const frcnn::Box<T>*>(boxes2.data()), columns, 0, columns,
                                     split.data());
  const frcnn::IouGradient<T> task{grad.data(),
                                   reinterpret_cast<const frcnn::Box<T>*>(boxes1.data()),
                                   split.data(),
                                   rows,
                                   columns,
                                   reinterpret_cast<frcnn::Box<T>*>(grad1.data()),
                                   reinterpret_cast<frcnn::Box<T>*>(grad2.data())};
  frcnn::baseline::iou_gradient_rows(task, 0, rows);
  frcnn::baseline::iou_gradient_columns(task, 0, columns);
  return {grad1, grad2};
}

// `most_blocks` shrinks the grids, as the limit of a launch would for gigantic inputs.
template <typename T>
void check(std::int64_t rows, std::int64_t columns, bool hostile = false, unsigned most_blocks = ~0u) {
  const std::vector<T> boxes1 = boxes<T>(rows, 1, hostile), boxes2 = boxes<T>(columns, 2, hostile);
  Random random(3);
  std::vector<T> grad(rows * columns);
  for (T& value : grad) value = static_cast<T>(random.uniform(-1, 1));

  const Buffer<T> grad_in(grad), rows_in(boxes1), columns_in(boxes2);
  const auto got = in_every_order([&](const Launcher& launch) {
    const auto launch_few = [&](auto kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                                const auto&... arguments) {
      if (grid.x > most_blocks) grid.x = most_blocks;
      launch(kernel, grid, block, shared_bytes, arguments...);
    };
    Buffer<T> grad1(4 * rows), grad2(4 * columns), sums(frcnn::iou_gradient_sums(rows, columns));
    frcnn::launch_box_iou_backward(
        launch_few, frcnn::iou_gradient_task(grad_in.data(), rows_in.data(), rows, columns_in.data(), columns,
                                             sums.data(), grad1.data(), grad2.data()));
    return Gradients<T>{grad1.values(), grad2.values()};
  });

  const auto [wanted1, wanted2] = on_the_cpu(grad, boxes1, boxes2);
  const double relative = sizeof(T) == 4 ? 1e-4 : 1e-12, absolute = sizeof(T) == 4 ? 1e-5 : 1e-13;
  if (columns <= frcnn::baseline::kIouSums) {
    expect_same(std::get<0>(got), wanted1, "grad1");
  } else {
    expect_close(std::get<0>(got), wanted1, relative, absolute, "grad1");
  }
  if (rows <= frcnn::kIouGradientTile) {
    expect_same(std::get<1>(got), wanted2, "grad2");
  } else {
    expect_close(std::get<1>(got), wanted2, relative, absolute, "grad2");
  }
}

CASE(float32) {
  for (const std::int64_t columns : {1, 16, 63, 64, 65, 129}) {
    for (const std::int64_t rows : {1, 64, 65}) check<float>(rows, columns);
  }
}
CASE(float64) {
  for (const std::int64_t columns : {1, 16, 65}) {
    for (const std::int64_t rows : {1, 64, 65}) check<double>(rows, columns);
  }
}

CASE(hostile_boxes) {
  check<float>(60, 16, true);
  check<float>(70, 130, true);
  check<double>(60, 16, true);
}

// From five tiles on, threads share the sums of a box: two of them, then four.
CASE(boxes_with_many_tiles) {
  check<float>(3, 64 * 5 - 1);
  check<float>(64 * 9 + 1, 2);
  check<double>(2, 64 * 9);
}

CASE(few_blocks_for_many_tiles) {
  check<float>(200, 150, false, 1);
  check<float>(40, 900, false, 2);
}

// The gradient of an empty side is empty, the other's zero: sums of no pairs.
CASE(empty) {
  check<float>(0, 0);
  check<float>(0, 7);
  check<float>(300, 0);
  check<double>(7, 0);
}

}  // namespace
