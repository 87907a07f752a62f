// The hash that decides which candidates are drawn into a training sample; host and device, no torch.
//
// The definition, in int64 arithmetic, is fasterrcnn_ops/reference/sampling.py; here are its words of 32 bits.
#pragma once

#include <cstdint>

#include "geometry/host_device.h"

namespace frcnn {

// The finaliser "lowbias32" of Chris Wellons' Hash Prospector (2018): a bijection in which every bit of the input moves
// about half of the output's.
FRCNN_HD uint32_t mix_bits(uint32_t word) {
  word ^= word >> 16;
  word *= 0x7feb352dU;
  word ^= word >> 15;
  word *= 0x846ca68bU;
  return word ^ word >> 16;
}

// Of one image and stage. It is a bijection: candidates of different numbers have different hashes. Two words of state,
// so that no two of a few million seeds order their candidates alike.
struct CandidateHash {
  uint32_t first, second;

  FRCNN_HD uint32_t operator()(uint32_t number) const { return mix_bits(mix_bits(number ^ first) ^ second); }
};

FRCNN_HD CandidateHash candidate_hash(int64_t seed, uint32_t stage) {
  const uint32_t low = static_cast<uint32_t>(seed);
  const uint32_t high = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  return {mix_bits(mix_bits(low ^ 0x9e3779b9U) ^ high ^ stage),
          mix_bits(mix_bits(high ^ 0x85ebca6bU) ^ low ^ (stage << 16))};
}

// Candidates are drawn by ascending key: by hash, and by position where numbers repeat. No two of an image are equal.
FRCNN_HD uint64_t sampling_key(uint32_t hash, uint32_t position) {
  return static_cast<uint64_t>(hash) << 32 | position;
}

}  // namespace frcnn
