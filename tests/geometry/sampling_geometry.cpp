// candidate_hash.h, for test_sampling_geometry.py to compare with the reference: reads "seed stage number" lines from
// standard input and prints a hash for each.
#include <cinttypes>
#include <cstdint>
#include <cstdio>

#include "geometry/candidate_hash.h"

int main() {
  int64_t seed = 0, number = 0;
  uint32_t stage = 0;
  while (std::scanf("%" SCNd64 " %" SCNu32 " %" SCNd64, &seed, &stage, &number) == 3) {
    std::printf("%" PRIu32 "\n", frcnn::candidate_hash(seed, stage)(static_cast<uint32_t>(number)));
  }
}
