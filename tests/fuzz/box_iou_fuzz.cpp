// Drives the torch-free kernels of box_iou and its gradient under AddressSanitizer and UBSan. Each IoU is checked
// against the formula with NaN handled in words rather than by the order of comparisons, each gradient in long double.
#include <vector>

#include "box_iou/box_iou_backward_cpu_kernel.h"
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

// What the pair (a, b) with gradient g adds to the edges of a.
void add_gradient(const long double* a, const long double* b, long double g, long double* sum) {
  const auto relu = [](long double v) { return v > 0 ? v : 0; };
  const long double w = std::min(a[2], b[2]) - std::max(a[0], b[0]), h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  const long double area = (a[2] - a[0]) * (a[3] - a[1]), other = (b[2] - b[0]) * (b[3] - b[1]);
  const long double inter = relu(w) * relu(h), both = area + other - inter;
  const long double of_area = -g * inter / (both * both), of_inter = g / both - of_area;
  const auto share = [](long double inner, long double outer) { return inner > outer ? 1 : inner == outer ? 0.5L : 0; };
  if (w > 0) sum[0] -= of_inter * relu(h) * share(a[0], b[0]), sum[2] += of_inter * relu(h) * share(b[2], a[2]);
  if (h > 0) sum[1] -= of_inter * relu(w) * share(a[1], b[1]), sum[3] += of_inter * relu(w) * share(b[3], a[3]);
  for (int c = 0; c < 4; ++c) sum[c] += (c < 2 ? -1 : 1) * of_area * (c % 2 == 0 ? a[3] - a[1] : a[2] - a[0]);
}

template <typename T>
bool gradient_is_right(fuzz::Rng& rng) {
  const bool ordinary = fuzz::below(rng, 3) != 0;
  const int64_t rows = fuzz::below(rng, 40), columns = fuzz::below(rng, 70);
  auto boxes1 = fuzz::random_block<T>(rng, 4 * rows, ordinary ? 0 : 20);
  auto boxes2 = fuzz::random_block<T>(rng, 4 * columns, ordinary ? 0 : 20);
  auto grad = fuzz::random_block<T>(rng, rows * columns, ordinary ? 0 : 5);
  for (auto* boxes : {&boxes1, &boxes2}) {
    for (int64_t i = 0; ordinary && i < boxes->size; i += 4) {  // of an area, on eighths of a pixel
      for (int64_t c = i; c < i + 2; ++c) (*boxes)[c + 2] = (*boxes)[c] + T(1) + std::abs((*boxes)[c + 2]);
    }
  }
  fuzz::Block<T> split(frcnn::kIouColumnArrays * columns), grad1(4 * rows), grad2(4 * columns);
  const auto* first = reinterpret_cast<const frcnn::Box<T>*>(boxes1.get());
  const auto* second = reinterpret_cast<const frcnn::Box<T>*>(boxes2.get());
  frcnn::FRCNN_CPU_LEVEL::split_iou_columns(second, columns, 0, columns, split.get());
  const frcnn::IouGradient<T> task{grad.get(),
                                   first,
                                   split.get(),
                                   rows,
                                   columns,
                                   reinterpret_cast<frcnn::Box<T>*>(grad1.get()),
                                   reinterpret_cast<frcnn::Box<T>*>(grad2.get())};
  fuzz::split(rng, rows,
              [&](int64_t begin, int64_t end) { frcnn::FRCNN_CPU_LEVEL::iou_gradient_rows(task, begin, end); });
  fuzz::split(rng, columns,
              [&](int64_t begin, int64_t end) { frcnn::FRCNN_CPU_LEVEL::iou_gradient_columns(task, begin, end); });
  if (!ordinary) return true;

  std::vector<long double> a(boxes1.get(), boxes1.get() + 4 * rows), b(boxes2.get(), boxes2.get() + 4 * columns);
  std::vector<long double> expected1(4 * rows), expected2(4 * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      add_gradient(&a[4 * i], &b[4 * j], grad[i * columns + j], &expected1[4 * i]);
      add_gradient(&b[4 * j], &a[4 * i], grad[i * columns + j], &expected2[4 * j]);
    }
  }
  for (int64_t i = 0; i < 4 * rows; ++i) {
    if (!fuzz::close(grad1[i], static_cast<T>(expected1[i]), T(400))) return false;
  }
  for (int64_t i = 0; i < 4 * columns; ++i) {
    if (!fuzz::close(grad2[i], static_cast<T>(expected2[i]), T(400))) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    if (round % 4 < 2) return round % 2 ? round_is_right<double>(rng) : round_is_right<float>(rng);
    return round % 2 ? gradient_is_right<double>(rng) : gradient_is_right<float>(rng);
  });
}
