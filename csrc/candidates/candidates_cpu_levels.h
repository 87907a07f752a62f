// The kernels of generate_proposals and select_detections that exist once per CPU level (cpu_level.h). No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"
#include "geometry/decode_steps.h"

namespace frcnn {

// Boxes of one image between selection and NMS, as columns of `count` numbers.
template <typename T>
struct UndecodedColumns {
  const T *cx, *cy, *w, *h, *grow_w, *grow_h;
  int64_t count;
};

template <typename T>
struct CandidateKernelsOf {
  // Cuts x[n] into disjoint groups of about group_size and writes the largest value of each, NaN left out (-inf for
  // nothing but NaN). Returns their number, at most n / group_size + 64.
  int64_t (*group_maxima)(const T* x, int64_t n, int64_t group_size, T* maxima);
  // Writes the positions of the values >= least, ascending, and returns their number; `positions` has room for n.
  int64_t (*positions_of)(const T* x, int64_t n, T least, uint32_t* positions);
  // Decodes and clips: boxes [count, 4], and usable[i] whether box i is finite and large enough.
  void (*decode)(const UndecodedColumns<T>& columns, const BoxLimits<T>& limits, T* boxes, uint8_t* usable);
};

struct CandidateKernels {
  CandidateKernelsOf<float> of_float;
  CandidateKernelsOf<double> of_double;

  template <typename T>
  const CandidateKernelsOf<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return of_float;
    } else {
      return of_double;
    }
  }
};

FRCNN_CPU_KERNELS(CandidateKernels, candidate_kernels)

}  // namespace frcnn
