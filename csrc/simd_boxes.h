// Between rows of boxes in memory and one vector per coordinate. No torch.
//
//   rows      x1 y1 x2 y2 | x1 y1 x2 y2 | …      columns    x1 x1 x1 …   y1 y1 y1 …   x2 x2 x2 …   y2 y2 y2 …
//
// kLanes<T> boxes at a time: four vectors of rows are four vectors of columns. Two rounds of taking every second number
// (or, backwards, of alternating two vectors) do it; each is one instruction where there are two-source permutations.
#pragma once

#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {

namespace lanes {

template <int... I>
struct Numbers {};
template <int N, int... I>
struct Below : Below<N - 1, N - 1, I...> {};
template <int... I>
struct Below<0, I...> {
  using type = Numbers<I...>;
};
template <typename T>
using All = typename Below<kLanes<T>>::type;  // 0, 1, … kLanes<T> - 1

// Numbers 0, 2, 4, … (or 1, 3, 5, …) of `a` and then of `b`.
template <typename V, int... I>
FRCNN_INLINE V evens(V a, V b, Numbers<I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <typename V, int... I>
FRCNN_INLINE V odds(V a, V b, Numbers<I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}

// a0 b0 a1 b1 …, from the lower (or upper) halves of both.
template <typename V, int... I>
FRCNN_INLINE V alternate_low(V a, V b, Numbers<I...>) {
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * static_cast<int>(sizeof...(I)))...);
}
template <typename V, int... I>
FRCNN_INLINE V alternate_high(V a, V b, Numbers<I...>) {
  constexpr int kCount = static_cast<int>(sizeof...(I));
  return __builtin_shufflevector(a, b, (kCount / 2 + I / 2 + I % 2 * kCount)...);
}

}  // namespace lanes

// Four columns of kLanes<T> rows: boxes (x1, y1, x2, y2) or deltas (dx, dy, dw, dh).
template <typename T>
struct Columns {
  Vec<T> c0, c1, c2, c3;
};

template <typename T>
FRCNN_INLINE Columns<T> load_columns(const T* rows) {  // [kLanes<T>, 4]
  constexpr lanes::All<T> kAll;
  constexpr int kStep = kLanes<T>;
  const Vec<T> a = load(rows), b = load(rows + kStep), c = load(rows + 2 * kStep), d = load(rows + 3 * kStep);
  const Vec<T> c02_first = lanes::evens(a, b, kAll), c13_first = lanes::odds(a, b, kAll);
  const Vec<T> c02_last = lanes::evens(c, d, kAll), c13_last = lanes::odds(c, d, kAll);
  return {lanes::evens(c02_first, c02_last, kAll), lanes::evens(c13_first, c13_last, kAll),
          lanes::odds(c02_first, c02_last, kAll), lanes::odds(c13_first, c13_last, kAll)};
}

template <typename T>
FRCNN_INLINE void store_columns(T* rows, const Columns<T>& columns) {  // [kLanes<T>, 4]
  constexpr lanes::All<T> kAll;
  constexpr int kStep = kLanes<T>;
  const Vec<T> c02_first = lanes::alternate_low(columns.c0, columns.c2, kAll);
  const Vec<T> c02_last = lanes::alternate_high(columns.c0, columns.c2, kAll);
  const Vec<T> c13_first = lanes::alternate_low(columns.c1, columns.c3, kAll);
  const Vec<T> c13_last = lanes::alternate_high(columns.c1, columns.c3, kAll);
  store(rows, lanes::alternate_low(c02_first, c13_first, kAll));
  store(rows + kStep, lanes::alternate_high(c02_first, c13_first, kAll));
  store(rows + 2 * kStep, lanes::alternate_low(c02_last, c13_last, kAll));
  store(rows + 3 * kStep, lanes::alternate_high(c02_last, c13_last, kAll));
}

}  // namespace frcnn::FRCNN_CPU_LEVEL
