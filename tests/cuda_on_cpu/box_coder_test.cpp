// encode_boxes and decode_boxes: the CUDA kernels against the CPU kernels, bit by bit.
#include "shim/testing.h"

#include "box_coder/box_coder_cpu_kernel.h"
#include "box_coder/box_coder_kernels.cuh"

namespace {

using namespace cuda_on_cpu;

template <typename T>
frcnn::BoxCoderParams<T> parameters(bool inclusive, bool clip_to_image) {
  const T extent = inclusive ? T(1) : T(0);
  return {.weight_x = 10,
          .weight_y = 10,
          .weight_w = 5,
          .weight_h = 5,
          .clip = static_cast<T>(std::log(1000.0 / 16)),
          .max_x = T(640) - extent,
          .max_y = T(480) - extent,
          .clip_to_image = clip_to_image,
          .extent = extent};
}

// Boxes in and around a 640 x 480 image; every eleventh is degenerate: empty, inverted, infinite or NaN.
template <typename T>
std::vector<T> boxes(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> values;
  for (std::int64_t i = 0; i < count; ++i) {
    T x1 = static_cast<T>(random.uniform(-50, 640)), y1 = static_cast<T>(random.uniform(-50, 480));
    T w = static_cast<T>(random.uniform(1, 300)), h = static_cast<T>(random.uniform(1, 300));
    if (i % 44 == 10) w = 0;
    if (i % 44 == 21) h = -h;
    if (i % 44 == 32) x1 = std::numeric_limits<T>::infinity();
    if (i % 44 == 43) y1 = std::numeric_limits<T>::quiet_NaN();
    values.insert(values.end(), {x1, y1, x1 + w, y1 + h});
  }
  return values;
}

template <typename T>
void check_encode(std::int64_t count, bool inclusive) {
  const auto params = parameters<T>(inclusive, false);
  const std::vector<T> targets = boxes<T>(count, 1), anchors = boxes<T>(count, 2);
  std::vector<T> wanted(targets.size());
  frcnn::baseline::encode_boxes_rows(targets.data(), anchors.data(), params, 0, count, wanted.data());
  const Buffer<T> boxes_in(targets), anchors_in(anchors);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<T> out(wanted.size());
    frcnn::launch_encode_boxes(launch, boxes_in.data(), anchors_in.data(), count, params, out.data());
    return out.values();
  });
  expect_same(got, wanted, "deltas");
}

template <typename T>
void check_decode(std::int64_t count, std::int64_t per_anchor, bool inclusive, bool clip_to_image) {
  const auto params = parameters<T>(inclusive, clip_to_image);
  Random random(3);
  const std::vector<T> anchors = boxes<T>(count, 4);
  std::vector<T> deltas(count * per_anchor * 4);
  for (T& value : deltas) value = static_cast<T>(random.uniform(-30, 30));  // beyond the clip, after division by 5
  std::vector<T> wanted(deltas.size());
  frcnn::baseline::decode_boxes_rows(deltas.data(), anchors.data(), per_anchor, params, 0, count, wanted.data());
  const Buffer<T> deltas_in(deltas), anchors_in(anchors);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<T> out(wanted.size());
    frcnn::launch_decode_boxes(launch, deltas_in.data(), anchors_in.data(), count, per_anchor, params, out.data());
    return out.values();
  });
  expect_same(got, wanted, "boxes");
}

template <typename T>
void check_all() {
  for (const bool inclusive : {false, true}) {
    for (const std::int64_t count : {0, 1, 255, 256, 257, 1500}) {
      check_encode<T>(count, inclusive);
      check_decode<T>(count, 1, inclusive, inclusive);
    }
    check_decode<T>(100, 21, inclusive, true);
    check_decode<T>(3, 0, inclusive, false);
  }
}

CASE(float32) { check_all<float>(); }
CASE(float64) { check_all<double>(); }

}  // namespace
