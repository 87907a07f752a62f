// What the kernels of sample_candidates read and write, on both devices. No torch.
#pragma once

#include <cstdint>

#include "geometry/candidate_hash.h"
#include "geometry/host_device.h"

namespace frcnn {

// Booleans are bytes, 0 for false; results are 0 and 1.
struct SamplingTask {
  const uint8_t* positive;     // [B, N]
  const uint8_t* negative;     // [B, N]
  const int64_t* seeds;        // [B]
  const int64_t* index;        // [B, N], [N] for every image, or null: the numbers are the positions
  int64_t indices_per_image;   // N, or 0 where the images share theirs
  int64_t images;              // B
  int64_t candidates;          // N, below 2^31
  int64_t num_samples;         // 0 … 2 N
  int64_t max_positive;        // 0 … N
  uint32_t stage;              // below 2^16
  uint8_t* sampled_positives;  // [B, N]
  uint8_t* sampled_negatives;  // [B, N]
};

// The candidates of one image, and their keys.
struct SamplingImage {
  const uint8_t* positive;
  const uint8_t* negative;
  const int64_t* index;
  CandidateHash hash;
  uint8_t* sampled_positives;
  uint8_t* sampled_negatives;

  FRCNN_HD uint32_t number_of(int64_t position) const {
    return static_cast<uint32_t>(index == nullptr ? position : index[position]);
  }
  FRCNN_HD uint64_t key_of(int64_t position) const {
    return sampling_key(hash(number_of(position)), static_cast<uint32_t>(position));
  }
};

FRCNN_HD SamplingImage image_of(const SamplingTask& task, int64_t image) {
  const int64_t first = image * task.candidates;
  return {task.positive + first,
          task.negative + first,
          task.index == nullptr ? nullptr : task.index + image * task.indices_per_image,
          candidate_hash(task.seeds[image], task.stage),
          task.sampled_positives + first,
          task.sampled_negatives + first};
}

}  // namespace frcnn
