// box_iou: the CUDA kernel against the CPU kernel, bit by bit.
#include "shim/testing.h"

#include "box_iou/box_iou_cpu_kernel.h"
#include "box_iou/box_iou_kernels.cuh"

namespace {

using namespace cuda_on_cpu;

// Boxes on whole pixels, so that edges touch and areas repeat; some empty, inverted, infinite, huge or NaN.
template <typename T>
std::vector<T> boxes(std::int64_t count, std::uint64_t seed) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Random random(seed);
  std::vector<T> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = [&](std::int64_t low, std::int64_t high) { return static_cast<T>(random.integer(low, high)); };
    T x1 = at(-10, 60), y1 = at(-10, 60), x2 = x1 + at(1, 40), y2 = y1 + at(1, 40);
    switch (random.integer(0, 20)) {
      case 0:
        x2 = x1;
        break;
      case 1:
        std::swap(x1, x2);
        break;
      case 2:
        x2 = kInfinity;
        break;
      case 3:
        y1 = -kInfinity;
        break;
      case 4:
        y2 = std::numeric_limits<T>::quiet_NaN();
        break;
      case 5:
        x1 = y1 = T(-1e30), x2 = y2 = T(1e30);
        break;
      case 6:
        x2 = x1 + std::numeric_limits<T>::min() / 4;
        break;
      default:
        break;
    }
    values.insert(values.end(), {x1, y1, x2, y2});
  }
  return values;
}

template <typename T>
std::vector<T> wanted(const std::vector<T>& boxes1, std::int64_t rows, const std::vector<T>& boxes2,
                      std::int64_t columns) {
  std::vector<T> iou(rows * columns), split(columns * frcnn::kIouColumnArrays);
  if (iou.empty()) return iou;
  frcnn::baseline::split_iou_columns(reinterpret_cast<const frcnn::Box<T>*>(boxes2.data()), columns, 0, columns,
                                     split.data());
  frcnn::baseline::box_iou_tiles(reinterpret_cast<const frcnn::Box<T>*>(boxes1.data()), split.data(), columns, 0,
                                 rows * frcnn::iou_tiles_per_row(columns), iou.data());
  return iou;
}

// `most_blocks` shrinks the grid, as the limit of a launch would for gigantic results.
template <typename T>
void check(std::int64_t rows, std::int64_t columns, unsigned most_blocks = ~0u) {
  const std::vector<T> boxes1 = boxes<T>(rows, 1), boxes2 = boxes<T>(columns, 2);
  const Buffer<T> rows_in(boxes1), columns_in(boxes2);
  const auto got = in_every_order([&](const Launcher& launch) {
    const auto launch_few = [&](auto kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                                const auto&... arguments) {
      if (grid.x > most_blocks) grid.x = most_blocks;
      launch(kernel, grid, block, shared_bytes, arguments...);
    };
    Buffer<T> iou(rows * columns);
    frcnn::launch_box_iou(launch_few, rows_in.data(), rows, columns_in.data(), columns, iou.data());
    return iou.values();
  });
  expect_same(got, wanted(boxes1, rows, boxes2, columns), "iou");
}

template <typename T>
void check_seams() {
  for (const std::int64_t columns : {1, 31, 32, 33, 64, 65, 128, 129, 255, 256, 257, 513}) {
    const std::int64_t tile = frcnn::iou_tile_rows(frcnn::iou_tile_columns(columns));
    for (const std::int64_t rows : {std::int64_t{1}, tile - 1, tile, tile + 1}) check<T>(rows, columns);
  }
}

CASE(float32) { check_seams<float>(); }
CASE(float64) { check_seams<double>(); }

CASE(few_blocks_for_many_tiles) {
  check<float>(50, 600, 2);
  check<double>(300, 20, 3);
}

// No output: nothing may be launched, since a grid of no blocks is an error.
CASE(empty) {
  check<float>(0, 0);
  check<float>(0, 7);
  check<double>(7, 0);
}

}  // namespace
