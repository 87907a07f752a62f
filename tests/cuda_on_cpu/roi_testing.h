// What the programs of the RoI operators share: maps of every dtype, RoIs of every kind. After shim/testing.h.
#pragma once

#include <vector>

#include "cuda_common.cuh"

namespace roi_testing {

using cuda_on_cpu::Buffer;
using cuda_on_cpu::Random;

// Passes launches on with at most `most` blocks, so that blocks must stride over the work.
template <typename Launch>
struct FewBlocks {
  const Launch& launch;
  unsigned most;

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                  const Arguments&... arguments) const {
    launch(kernel, dim3(grid.x < most ? grid.x : most, grid.y, grid.z), block, shared_bytes, arguments...);
  }
};

// A buffer whose first element lies one element past an aligned address.
template <typename T>
struct Misaligned {
  explicit Misaligned(const std::vector<T>& values) : memory(pushed(values)) {}
  explicit Misaligned(std::size_t count) : memory(count + 1) {}
  T* data() const { return memory.data() + 1; }
  std::vector<T> values() const { return std::vector<T>(data(), memory.data() + memory.size()); }

  static std::vector<T> pushed(const std::vector<T>& values) {
    std::vector<T> more(1);
    more.insert(more.end(), values.begin(), values.end());
    return more;
  }
  Buffer<T> memory;
};

// Numbers that a half type holds exactly, and what they are in the type the kernels compute in.
template <typename scalar_t>
struct Values {
  using T = frcnn::widened_t<scalar_t>;
  std::vector<scalar_t> stored;
  std::vector<T> wide;

  void push(T value) {
    stored.push_back(frcnn::narrow<scalar_t>(value));
    wide.push_back(frcnn::widen(stored.back()));
  }
};

template <typename scalar_t>
Values<scalar_t> random_values(Random& random, std::int64_t count) {
  Values<scalar_t> values;
  for (std::int64_t i = 0; i < count; ++i) values.push(static_cast<frcnn::widened_t<scalar_t>>(random.uniform(-4, 4)));
  return values;
}

template <typename scalar_t, typename T>
std::vector<scalar_t> narrowed(const std::vector<T>& wide) {
  std::vector<scalar_t> stored;
  for (const T value : wide) stored.push_back(frcnn::narrow<scalar_t>(value));
  return stored;
}

enum class Rois { kOrdinary, kHostile };

// [count, 5] in input pixels; the map reaches to (width, height) / scale. Hostile ones: beyond every edge, inverted,
// without area, huge, NaN, infinite, of images that do not exist.
template <typename T>
std::vector<T> random_rois(Random& random, std::int64_t count, Rois kind, std::int64_t images, std::int64_t height,
                           std::int64_t width, double scale) {
  std::vector<T> rois;
  for (std::int64_t k = 0; k < count; ++k) {
    T roi[5] = {static_cast<T>(random.integer(0, images > 0 ? images - 1 : 0)),
                static_cast<T>(random.uniform(-0.2, 0.9) * width / scale),
                static_cast<T>(random.uniform(-0.2, 0.9) * height / scale)};
    roi[3] = roi[1] + static_cast<T>(random.uniform(0, 0.8) * width / scale);
    roi[4] = roi[2] + static_cast<T>(random.uniform(0, 0.8) * height / scale);
    if (kind == Rois::kHostile) {
      const T nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
      const T most = std::numeric_limits<T>::max();
      switch (k % 16) {
        case 0:
          roi[1] = roi[2] = T(-1e7), roi[3] = roi[4] = T(1e7);
          break;
        case 1:
          roi[3] = roi[1] - T(5), roi[4] = roi[2] - T(7);
          break;
        case 2:
          roi[3] = roi[1], roi[4] = roi[2];
          break;
        case 3:
          roi[1 + random.integer(0, 3)] = nan;
          break;
        case 4:
          roi[1 + random.integer(0, 3)] = random.integer(0, 1) ? infinity : -infinity;
          break;
        case 5:
          roi[0] = static_cast<T>(images);
          break;
        case 6:
          roi[0] = T(-1);
          break;
        case 7:
          roi[0] = nan;
          break;
        case 8:
          roi[1] = roi[2] = -most, roi[3] = roi[4] = most;
          break;
        case 9:
          roi[1] = static_cast<T>(-1 / scale), roi[3] = static_cast<T>(width / scale);
          break;
        case 10:
          roi[2] = static_cast<T>(height / scale), roi[4] = static_cast<T>(2 * height / scale);
          break;
        case 11:
          roi[1] = roi[2] = T(1e7), roi[3] = roi[4] = T(-1e7);
          break;
        case 12:
          roi[1] = roi[2] = T(0), roi[3] = static_cast<T>(width / scale), roi[4] = static_cast<T>(height / scale);
          break;
        default:
          break;
      }
    }
    rois.insert(rois.end(), roi, roi + 5);
  }
  return rois;
}

}  // namespace roi_testing
