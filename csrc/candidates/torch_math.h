// torch's own exp, sigmoid and softmax, called through the dispatcher.
//
// Proposals and detections are ordered by scores, and one ulp in a score can swap two of them. So scores come from the
// very functions that a composition of torch calls would use, and so does the exponential of box decoding.
#pragma once

#include <algorithm>
#include <array>

#include "torch_api.h"

namespace frcnn {

// Of a tensor that nobody else sees, in place.
inline void apply_in_place(const char* operation, const Tensor& tensor) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(tensor)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(operation, "", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes over the returned reference
}

inline void exp_in_place(const Tensor& tensor) { apply_in_place("aten::exp_", tensor); }

// Row by row of a contiguous [B, S]. torch's sigmoid is not the same function in a whole vector and in the rest at the
// end of what one thread gets, so the rows of a batch are taken one by one, in pieces that torch gives to one thread:
// each row equals torch.sigmoid of that row alone with one thread, whatever the batch and the number of threads.
inline void sigmoid_rows_in_place(const Tensor& rows) {
  constexpr int64_t kPiece = 32768;  // a whole number of vectors, and not more than torch's grain size
  for (int64_t row = 0; row < rows.size(0); ++row) {
    for (int64_t begin = 0; begin < rows.size(1); begin += kPiece) {
      const int64_t length = std::min(kPiece, rows.size(1) - begin);
      Tensor piece = torch::stable::select(rows, 0, row);
      if (length < rows.size(1)) piece = torch::stable::narrow(piece, 0, begin, length);
      apply_in_place("aten::sigmoid_", piece);
    }
  }
}

inline Tensor softmax(const Tensor& logits, int64_t dim) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(logits), torch::stable::detail::from(dim),
                                    torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::_softmax", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace frcnn
