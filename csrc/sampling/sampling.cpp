// Schema of sample_candidates; the contract is in sampling.h.
#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, library) {
  library.def(
      "sample_candidates(Tensor positive, Tensor negative, Tensor seeds, int num_samples, int max_positive, "
      "int stage=0, Tensor? index=None) -> (Tensor sampled_positives, Tensor sampled_negatives)");
}
