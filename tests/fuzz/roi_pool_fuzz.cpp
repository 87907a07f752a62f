// Drives the torch-free roi_pool kernels under AddressSanitizer and UBSan: random and hostile RoIs, features and argmax
// in exactly sized heap blocks, results compared with a direct search of every bin.
//
// Usage: roi_pool_fuzz SEED ROUNDS. Prints the number of rounds done; a wrong result prints the round and exits with 1.
#include <cstdio>
#include <cstdlib>

#include "roi_fuzz.h"
#include "roi_pool/roi_pool_cpu_kernel.h"

namespace {

using frcnn::RoiPoolParams;
using fuzz::below;
using fuzz::Block;
using fuzz::Rng;

template <typename T>
const char* round(Rng& rng) {
  RoiPoolParams p;
  p.num_images = below(rng, 4);
  p.channels = below(rng, 5) == 0 ? 14 + below(rng, 20) : below(rng, 5);
  p.height = below(rng, 10), p.width = below(rng, 10);
  p.num_rois = below(rng, 6);
  p.pooled_height = 1 + below(rng, 5), p.pooled_width = 1 + below(rng, 5);
  p.spatial_scale = below(rng, 10) == 0 ? static_cast<double>(fuzz::hostile_value<T>(rng)) : 1.0 / 4;
  p.channels_last = below(rng, 2);
  const auto rois = fuzz::random_rois<T>(rng, p.num_rois, p.num_images, p.height, 0.25, below(rng, 4), below(rng, 2));
  const int64_t pixels = p.height * p.width, bins = p.pooled_height * p.pooled_width;
  auto input = fuzz::random_map<T>(rng, p.num_images * p.channels * pixels);
  for (int64_t i = 0; i < input.size; ++i) {
    if (below(rng, 6) == 0) input.data[i] = below(rng, 2) ? fuzz::hostile_value<T>(rng) : std::round(input.data[i]);
  }
  const Block<T> output(p.num_rois * p.channels * bins, std::numeric_limits<T>::quiet_NaN());
  const Block<int64_t> argmax(output.size, -77);
  const int64_t items = frcnn::roi_pool_forward_items(p), cut = items ? below(rng, items + 1) : 0;
  frcnn::roi_pool_forward_range(input.get(), rois.get(), p, 0, cut, output.get(), argmax.get());
  frcnn::roi_pool_forward_range(input.get(), rois.get(), p, cut, items, output.get(), argmax.get());

  const auto map = frcnn::map_strides(p.channels, pixels, p.channels_last);
  const auto bin = frcnn::map_strides(p.channels, bins, p.channels_last);
  for (int64_t k = 0; k < p.num_rois; ++k) {
    const T* roi = rois.get() + k * 5;
    const int64_t image = frcnn::image_of_roi(roi, p.num_images);
    const T scale = static_cast<T>(p.spatial_scale);
    const auto y_axis = frcnn::pooled_axis(roi[2], roi[4], scale, p.pooled_height);
    const auto x_axis = frcnn::pooled_axis(roi[1], roi[3], scale, p.pooled_width);
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int64_t i = 0; i < bins; ++i) {
        const auto rows = frcnn::pixels_inside(y_axis, i / p.pooled_width, p.height);
        const auto columns = frcnn::pixels_inside(x_axis, i % p.pooled_width, p.width);
        const bool empty = image < 0 || rows.begin >= rows.end || columns.begin >= columns.end;
        T value = empty ? T(0) : std::numeric_limits<float>::lowest();
        int64_t at = -1;
        for (int64_t h = rows.begin; h < rows.end && !empty; ++h) {
          for (int64_t w = columns.begin; w < columns.end; ++w) {
            const int64_t pixel = h * p.width + w;
            const T here = input.data[image * map.image + c * map.channel + pixel * map.pixel];
            if (here > value) value = here, at = pixel;
          }
        }
        const int64_t out = k * bin.image + c * bin.channel + i * bin.pixel;
        if (output.data[out] != value || argmax.data[out] != at) return "differs from the direct search";
      }
    }
  }

  for (int64_t i = 0; i < argmax.size; ++i) {  // the backward must bear any argmax
    const int64_t wrong[] = {-1, -2, pixels, pixels + 1, INT64_MAX, INT64_MIN};
    if (below(rng, 5) == 0) argmax.data[i] = wrong[below(rng, std::size(wrong))];
  }
  const Block<T> grad(output.size, T(1)), grad_input(input.size);
  const int64_t back = frcnn::roi_pool_backward_items(p), back_cut = back ? below(rng, back + 1) : 0;
  frcnn::roi_pool_backward_range(grad.get(), rois.get(), argmax.get(), p, 0, back_cut, grad_input.get());
  frcnn::roi_pool_backward_range(grad.get(), rois.get(), argmax.get(), p, back_cut, back, grad_input.get());
  double given = 0, received = 0;
  for (int64_t i = 0; i < argmax.size; ++i) {
    const int64_t k = bin.image ? i / bin.image : 0;
    const bool named = argmax.data[i] >= 0 && argmax.data[i] < pixels;
    given += named && frcnn::image_of_roi(rois.get() + k * 5, p.num_images) >= 0;
  }
  for (int64_t i = 0; i < input.size; ++i) received += grad_input.data[i];
  if (given != received) return "gradient was lost or made";
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](Rng& rng, long number) {
    const char* problem = number % 2 ? round<float>(rng) : round<double>(rng);
    if (problem) std::printf("%s\n", problem);
    return problem == nullptr;
  });
}
