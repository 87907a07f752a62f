// Drives the torch-free box_iou kernel under AddressSanitizer and UBSan, each result checked against the formula with
// NaN handled in words rather than by the order of comparisons.
#include "box_iou/box_iou_cpu_kernel.h"
#include "fuzz.h"

namespace {

template <typename T>
T larger(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
  return std::fmax(a, b);
}

template <typename T>
T expected_iou(const T* a, const T* b) {
  const T w = -larger(-a[2], -b[2]) - larger(a[0], b[0]);
  const T h = -larger(-a[3], -b[3]) - larger(a[1], b[1]);
  const T intersection = larger(w, T(0)) * larger(h, T(0));
  const T area_a = (a[2] - a[0]) * (a[3] - a[1]), area_b = (b[2] - b[0]) * (b[3] - b[1]);
  return intersection / (area_a + area_b - intersection);
}

template <typename T>
bool round_is_right(fuzz::Rng& rng) {
  const int64_t hostility = fuzz::below(rng, 2) ? 0 : fuzz::below(rng, 40);
  const int64_t rows = fuzz::below(rng, 12);
  // Now and then as wide as a tile, give or take one, or wider.
  const int64_t columns = fuzz::below(rng, 50) ? fuzz::below(rng, 40)
                                               : frcnn::kIouTile * (1 + fuzz::below(rng, 2)) + fuzz::below(rng, 3) - 1;
  auto boxes1 = fuzz::random_block<T>(rng, 4 * rows, hostility);
  auto boxes2 = fuzz::random_block<T>(rng, 4 * columns, hostility);
  fuzz::Block<T> split(frcnn::kIouColumnArrays * columns), iou(rows * columns);
  fuzz::split(rng, columns, [&](int64_t begin, int64_t end) {
    frcnn::FRCNN_CPU_LEVEL::split_iou_columns(reinterpret_cast<const frcnn::Box<T>*>(boxes2.data.get()), columns, begin,
                                              end, split.data.get());
  });
  fuzz::split(rng, rows * frcnn::iou_tiles_per_row(columns), [&](int64_t begin, int64_t end) {
    frcnn::FRCNN_CPU_LEVEL::box_iou_tiles(reinterpret_cast<const frcnn::Box<T>*>(boxes1.data.get()), split.data.get(),
                                          columns, begin, end, iou.data.get());
  });

  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const T expected = expected_iou(boxes1.data.get() + 4 * i, boxes2.data.get() + 4 * j);
      if (!fuzz::same(iou[i * columns + j], expected)) return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    return round % 2 ? round_is_right<double>(rng) : round_is_right<float>(rng);
  });
}
