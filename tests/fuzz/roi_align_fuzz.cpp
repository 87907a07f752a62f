// Drives the torch-free roi_align kernels under AddressSanitizer and UBSan: random and hostile RoIs on maps in exactly
// sized heap blocks. Every result is finite, gradients are the transpose of the forward, and RoIs with few samples are
// compared with a direct sum over all samples.
//
// Usage: roi_align_fuzz SEED ROUNDS. Prints the number of rounds done; a wrong result prints the round and exits
// with 1.
#include <cstdio>
#include <cstdlib>

#include "roi_align/roi_align_cpu_kernel.h"
#include "roi_fuzz.h"

namespace {

using frcnn::RoiAlignParams;
using fuzz::below;
using fuzz::Block;
using fuzz::Rng;

int64_t offset(const RoiAlignParams& p, int64_t n, int64_t c, int64_t pixel, int64_t pixels) {
  const auto strides = frcnn::map_strides(p.channels, pixels, p.channels_last);
  return n * strides.image + c * strides.channel + pixel * strides.pixel;
}

// The definition: the mean over all samples of the bilinear interpolation of four pixels.
template <typename T>
double direct(const T* input, const T* roi, const RoiAlignParams& p, int64_t c, int64_t ph, int64_t pw) {
  const T scale = static_cast<T>(p.spatial_scale);
  const auto y_axis = frcnn::sampled_axis(roi[2], roi[4], scale, p.pooled_height, p.sampling_ratio, p.aligned);
  const auto x_axis = frcnn::sampled_axis(roi[1], roi[3], scale, p.pooled_width, p.sampling_ratio, p.aligned);
  if (y_axis.samples == 0 || x_axis.samples == 0) return 0;
  const int64_t image = frcnn::image_of_roi(roi, p.num_images);
  double sum = 0;
  for (int64_t iy = 0; iy < y_axis.samples; ++iy) {
    for (int64_t ix = 0; ix < x_axis.samples; ++ix) {
      double y = frcnn::sample_position(y_axis, ph, iy), x = frcnn::sample_position(x_axis, pw, ix);
      if (!(y >= -1 && y <= p.height && x >= -1 && x <= p.width)) continue;
      y = std::fmin(std::fmax(y, 0), p.height - 1), x = std::fmin(std::fmax(x, 0), p.width - 1);
      const int64_t top = static_cast<int64_t>(y), left = static_cast<int64_t>(x);
      const int64_t bottom = std::min(top + 1, p.height - 1), right = std::min(left + 1, p.width - 1);
      const double ly = y - top, lx = x - left;
      const auto at = [&](int64_t h, int64_t w) -> double {
        return input[offset(p, image, c, h * p.width + w, p.height * p.width)];
      };
      sum += (1 - ly) * ((1 - lx) * at(top, left) + lx * at(top, right)) +
             ly * ((1 - lx) * at(bottom, left) + lx * at(bottom, right));
    }
  }
  return sum / static_cast<double>(y_axis.samples) / static_cast<double>(x_axis.samples);
}

template <typename T>
const char* round(Rng& rng) {
  RoiAlignParams p;
  p.num_images = below(rng, 4);
  p.channels = below(rng, 8) == 0 ? 60 + below(rng, 12) : below(rng, 5);
  p.height = 1 + below(rng, 12), p.width = 1 + below(rng, 12);
  p.num_rois = below(rng, 6);
  p.pooled_height = 1 + below(rng, 5), p.pooled_width = 1 + below(rng, 5);
  const int64_t ratios[] = {-1, 0, 1, 2, 3, 60, 1000, int64_t{1} << 31, int64_t{1} << 52, INT64_MAX, INT64_MIN};
  p.sampling_ratio = ratios[below(rng, std::size(ratios))];
  p.spatial_scale = below(rng, 10) == 0 ? static_cast<double>(fuzz::hostile_value<T>(rng)) : 1.0 / 4;
  p.aligned = below(rng, 2);
  p.channels_last = below(rng, 2);
  const bool tame = p.spatial_scale == 0.25 && below(rng, 2);
  const auto rois = fuzz::random_rois<T>(rng, p.num_rois, p.num_images, p.height, 0.25, tame ? 0 : 3, !tame);
  const auto input = fuzz::random_map<T>(rng, p.num_images * p.channels * p.height * p.width);
  const int64_t bins = p.pooled_height * p.pooled_width;
  const Block<T> output(p.num_rois * p.channels * bins, std::numeric_limits<T>::quiet_NaN());

  const int64_t items = frcnn::roi_align_forward_items(p), cut = items ? below(rng, items + 1) : 0;
  frcnn::roi_align_forward_range(input.get(), rois.get(), p, 0, cut, output.get());
  frcnn::roi_align_forward_range(input.get(), rois.get(), p, cut, items, output.get());
  for (int64_t i = 0; i < output.size; ++i) {
    if (!std::isfinite(output.data[i])) return "an output is not finite, or not written";
  }

  const auto grad = fuzz::random_map<T>(rng, output.size);
  const Block<T> grad_input(input.size);
  const int64_t back = frcnn::roi_align_backward_items(p), back_cut = back ? below(rng, back + 1) : 0;
  frcnn::roi_align_backward_range(grad.get(), rois.get(), p, 0, back_cut, grad_input.get());
  frcnn::roi_align_backward_range(grad.get(), rois.get(), p, back_cut, back, grad_input.get());
  double forward = 0, backward = 0, size = 0;
  for (int64_t i = 0; i < output.size; ++i) forward += static_cast<double>(grad.data[i]) * output.data[i];
  for (int64_t i = 0; i < output.size; ++i) size += std::fabs(static_cast<double>(grad.data[i]) * output.data[i]);
  for (int64_t i = 0; i < input.size; ++i) backward += static_cast<double>(grad_input.data[i]) * input.data[i];
  const double slack = sizeof(T) == 4 ? 1e-4 : 1e-11;
  if (!(std::fabs(forward - backward) <= slack * (1 + size))) return "the backward is not the transpose";

  if (!tame || p.sampling_ratio > 60) return nullptr;
  for (int64_t k = 0; k < p.num_rois; ++k) {
    if (p.num_images == 0 || p.channels == 0) break;
    const int64_t c = below(rng, p.channels), ph = below(rng, p.pooled_height), pw = below(rng, p.pooled_width);
    const double expected = direct(input.get(), rois.get() + k * 5, p, c, ph, pw);
    const T found = output.data[offset(p, k, c, ph * p.pooled_width + pw, bins)];
    if (!(std::fabs(found - expected) <= slack)) return "differs from the direct sum";
  }
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
