// grid_anchors: the CUDA kernel against the CPU kernel, bit by bit.
#include "shim/testing.h"

#include "anchors/anchors_cpu_kernel.h"
#include "anchors/anchors_kernels.cuh"

namespace {

using namespace cuda_on_cpu;

template <typename T>
void check(std::int64_t num_cells, std::int64_t height, std::int64_t width, frcnn::AnchorGrid<T> grid) {
  Random random(1);
  std::vector<T> cells(num_cells * 4);
  for (T& value : cells) value = static_cast<T>(random.uniform(-256, 256));
  std::vector<T> wanted(height * width * num_cells * 4);
  frcnn::baseline::grid_anchors_rows(cells.data(), num_cells, width, grid, 0, height, wanted.data());

  const Buffer<T> input(cells);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<T> out(wanted.size());
    frcnn::launch_grid_anchors(launch, input.data(), num_cells, height, width, grid, out.data());
    return out.values();
  });
  expect_same(got, wanted, "anchors");
}

template <typename T>
void check_all() {
  check<T>(3, 7, 13, {16, 16, 0});
  check<T>(9, 38, 50, {T(15.9), T(16.1), 8});  // several blocks, the last one partly used
  check<T>(1, 1, 1, {4, 4, 0});                // one thread
  check<T>(1, 1, 256, {4, 4, T(-0.5)});        // exactly one block
  check<T>(1, 257, 1, {4, 4, 0});              // one thread more
}

// No output: nothing may be launched, since a grid of no blocks is an error.
template <typename T>
void check_empty() {
  check<T>(0, 5, 5, {16, 16, 0});
  check<T>(3, 0, 5, {16, 16, 0});
  check<T>(3, 5, 0, {16, 16, 0});
}

CASE(float32) { check_all<float>(); }
CASE(float64) { check_all<double>(); }
CASE(empty) {
  check_empty<float>();
  check_empty<double>();
}

}  // namespace
