// encode_boxes and decode_boxes on CUDA: plain kernels and their grid arithmetic; no torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "geometry/box.h"

namespace frcnn {
namespace {

constexpr int kBoxCoderBlock = 256;

// One thread per box, the grid striding over them: neighbours read and write neighbouring boxes.
template <typename T>
__global__ void encode_boxes_kernel(const Box<T>* __restrict__ boxes, const Box<T>* __restrict__ anchors, int64_t count,
                                    BoxCoderParams<T> params, Deltas<T>* __restrict__ deltas) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    deltas[i] = encode_box(boxes[i], anchors[i], params);
  }
}

// One thread per decoded box; the K boxes of an anchor are neighbours, so its coordinates come from the cache.
template <typename T>
__global__ void decode_boxes_kernel(const Deltas<T>* __restrict__ deltas,  // [N * K]
                                    const Box<T>* __restrict__ anchors,    // [N]
                                    int64_t per_anchor, int64_t count, BoxCoderParams<T> params,
                                    Box<T>* __restrict__ boxes) {  // [N * K]
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    boxes[i] = decode_box(deltas[i], anchors[i / per_anchor], params);
  }
}

inline dim3 box_coder_grid(int64_t count) {
  constexpr int64_t kMostBlocks = 1 << 20;
  const int64_t blocks = (count + kBoxCoderBlock - 1) / kBoxCoderBlock;
  return dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
}

template <typename T, typename Launch>
void launch_encode_boxes(const Launch& launch, const T* boxes, const T* anchors, int64_t count,
                         BoxCoderParams<T> params, T* deltas) {
  if (count == 0) return;
  launch(encode_boxes_kernel<T>, box_coder_grid(count), dim3(kBoxCoderBlock), 0, reinterpret_cast<const Box<T>*>(boxes),
         reinterpret_cast<const Box<T>*>(anchors), count, params, reinterpret_cast<Deltas<T>*>(deltas));
}

template <typename T, typename Launch>
void launch_decode_boxes(const Launch& launch, const T* deltas, const T* anchors, int64_t num_anchors,
                         int64_t per_anchor, BoxCoderParams<T> params, T* boxes) {
  const int64_t count = num_anchors * per_anchor;
  if (count == 0) return;
  launch(decode_boxes_kernel<T>, box_coder_grid(count), dim3(kBoxCoderBlock), 0,
         reinterpret_cast<const Deltas<T>*>(deltas), reinterpret_cast<const Box<T>*>(anchors), per_anchor, count,
         params, reinterpret_cast<Box<T>*>(boxes));
}

}  // namespace
}  // namespace frcnn
