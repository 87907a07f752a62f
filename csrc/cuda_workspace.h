// Temporary memory of a CUDA operator; included by .cu files only.
#pragma once

#include "torch_api.h"

namespace frcnn {

// All temporary arrays in one block of memory: one allocation costs the host about as much as a launch.
// take_all(take) calls take(bytes) for each array, of which it gets memory aligned to 256 bytes, and returns Buffers.
template <typename Buffers>
struct Workspace {
  Tensor memory;
  Buffers buffers;

  template <typename TakeAll>
  Workspace(const Tensor& like, const TakeAll& take_all)
      : memory(empty_on(like, {bytes_of(take_all)}, ScalarType::Byte)) {
    char* next = mutable_data_of<char>(memory);
    buffers = take_all([&](int64_t bytes) {
      char* taken = next;
      next += rounded(bytes);
      return static_cast<void*>(taken);
    });
  }

 private:
  static int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

  template <typename TakeAll>
  static int64_t bytes_of(const TakeAll& take_all) {
    int64_t total = 0;
    take_all([&](int64_t bytes) {
      total += rounded(bytes);
      return static_cast<void*>(nullptr);
    });
    return total;
  }
};

}  // namespace frcnn
