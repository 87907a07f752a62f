// Drives the torch-free encode_boxes and decode_boxes kernels under AddressSanitizer and UBSan: hostile inputs must not
// trap, and on ordinary ones each result is checked by its formula in long double.
#include "box_coder/box_coder_cpu_kernel.h"
#include "fuzz.h"

namespace {

using Wide = long double;

template <typename T>
frcnn::BoxCoderParams<T> random_params(fuzz::Rng& rng) {
  frcnn::BoxCoderParams<T> params{};
  for (T* weight : {&params.weight_x, &params.weight_y, &params.weight_w, &params.weight_h}) {
    *weight = static_cast<T>(1 + fuzz::below(rng, 10));
  }
  params.clip = fuzz::below(rng, 8) ? T(4.135166556742356) : fuzz::hostile_value<T>(rng);
  params.clip_to_image = fuzz::below(rng, 2) != 0;
  params.max_x = static_cast<T>(fuzz::below(rng, 40));
  params.max_y = static_cast<T>(fuzz::below(rng, 40));
  params.extent = static_cast<T>(fuzz::below(rng, 2));
  return params;
}

// One axis of the definition: low and high edge of the decoded box.
template <typename T>
void decode_axis(Wide shift, Wide scale, T low, T high, T weight_shift, T weight_scale, Wide limit,
                 const frcnn::BoxCoderParams<T>& params, Wide* edges) {
  const Wide side = Wide(high) - low + params.extent;
  const Wide center = low + side / 2 + shift / weight_shift * side;
  const Wide grown = std::exp(std::min<Wide>(scale / weight_scale, params.clip)) * side;
  edges[0] = center - grown / 2;
  edges[1] = center + grown / 2 - params.extent;
  for (int i = 0; i < 2 && params.clip_to_image; ++i) edges[i] = std::min(std::max<Wide>(edges[i], 0), limit);
}

template <typename T>
bool decode_is_right(fuzz::Rng& rng) {
  const bool ordinary = fuzz::below(rng, 2) != 0;
  const int64_t hostility = ordinary ? 0 : 1 + fuzz::below(rng, 60);
  const int64_t rows = fuzz::below(rng, 30), per_anchor = fuzz::below(rng, 5);
  auto deltas = fuzz::random_block<T>(rng, 4 * rows * per_anchor, hostility);
  auto anchors = fuzz::random_block<T>(rng, 4 * rows, hostility);
  auto params = random_params<T>(rng);
  if (ordinary) params.clip = T(2);
  fuzz::Block<T> boxes(deltas.size);
  fuzz::split(rng, rows, [&](int64_t begin, int64_t end) {
    frcnn::FRCNN_CPU_LEVEL::decode_boxes_rows(deltas.get(), anchors.get(), per_anchor, params, begin, end, boxes.get());
  });

  for (int64_t i = 0; i < boxes.size; ++i) {
    // Only a NaN passes the image border.
    const T limit = i % 2 == 0 ? params.max_x : params.max_y;
    if (params.clip_to_image && !std::isnan(boxes[i]) && !(boxes[i] >= 0 && boxes[i] <= limit)) return false;
  }
  for (int64_t k = 0; ordinary && k < rows * per_anchor; ++k) {
    const T* delta = deltas.data.get() + 4 * k;
    const T* anchor = anchors.data.get() + 4 * (k / per_anchor);
    Wide x[2], y[2];
    decode_axis(delta[0], delta[2], anchor[0], anchor[2], params.weight_x, params.weight_w, params.max_x, params, x);
    decode_axis(delta[1], delta[3], anchor[1], anchor[3], params.weight_y, params.weight_h, params.max_y, params, y);
    const T expected[] = {T(x[0]), T(y[0]), T(x[1]), T(y[1])};
    for (int64_t c = 0; c < 4; ++c) {
      if (!fuzz::close(boxes[4 * k + c], expected[c], T(4000))) return false;
    }
  }
  return true;
}

template <typename T>
bool encode_is_right(fuzz::Rng& rng) {
  const bool ordinary = fuzz::below(rng, 2) != 0;
  const int64_t hostility = ordinary ? 0 : 1 + fuzz::below(rng, 60);
  const int64_t rows = fuzz::below(rng, 60);
  auto boxes = fuzz::random_block<T>(rng, 4 * rows, hostility);
  auto anchors = fuzz::random_block<T>(rng, 4 * rows, hostility);
  const auto params = random_params<T>(rng);
  fuzz::Block<T> deltas(4 * rows);
  fuzz::split(rng, rows, [&](int64_t begin, int64_t end) {
    frcnn::FRCNN_CPU_LEVEL::encode_boxes_rows(boxes.get(), anchors.get(), params, begin, end, deltas.get());
  });

  const T weights[] = {params.weight_x, params.weight_y, params.weight_w, params.weight_h};
  for (int64_t i = 0; ordinary && i < 4 * rows; ++i) {
    const int64_t row = 4 * (i / 4), axis = i % 2;
    const Wide side_a = Wide(anchors[row + 2 + axis]) - anchors[row + axis] + params.extent;
    const Wide side = Wide(boxes[row + 2 + axis]) - boxes[row + axis] + params.extent;
    const Wide shift = (boxes[row + axis] + side / 2 - anchors[row + axis] - side_a / 2) / side_a;
    const T expected = static_cast<T>(weights[i % 4] * (i % 4 < 2 ? shift : std::log(side / side_a)));
    if (!fuzz::close(deltas[i], expected, T(1) + std::abs(expected))) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    switch (round % 4) {
      case 0:
        return decode_is_right<float>(rng);
      case 1:
        return decode_is_right<double>(rng);
      case 2:
        return encode_is_right<float>(rng);
      default:
        return encode_is_right<double>(rng);
    }
  });
}
