// anchors.h, box.h and pairwise_iou.h, bit by bit, on the host, in float.
//
// exp and log are held to one ulp of the exact value, and their vectors to the bits of the scalars.
//
// The expected value takes each operation of the formula on its own, in a function of its own (compilers narrow and
// contract what they can see together): in double, then rounded to float. For + - * / that
// is the correctly rounded float result (double has more than twice the digits), so nothing here may be contracted to
// an FMA, reassociated or kept in a wider register. The device runs the same lines under -fmad=false.
//
// Usage: box_geometry CASE COUNT. Prints the number of comparisons; the first mismatch is printed and exits with 1.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "geometry/anchors.h"
#include "geometry/box.h"
#include "geometry/elementary.h"
#include "geometry/pairwise_iou.h"
#include "simd_elementary.h"

namespace {

using Rng = std::mt19937_64;

[[gnu::noinline]] float add(float a, float b) {
  return static_cast<float>(static_cast<double>(a) + static_cast<double>(b));
}
[[gnu::noinline]] float sub(float a, float b) {
  return static_cast<float>(static_cast<double>(a) - static_cast<double>(b));
}
[[gnu::noinline]] float mul(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}
[[gnu::noinline]] float divide(float a, float b) {
  return static_cast<float>(static_cast<double>(a) / static_cast<double>(b));
}

// Coordinates of every magnitude, NaN and infinity now and then.
float number(Rng& rng) {
  using Limits = std::numeric_limits<float>;
  const float special[] = {
      0.0f, -0.0f, Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(), Limits::max(), Limits::min(), 1.0f};
  if (rng() % 64 == 0) return special[rng() % std::size(special)];
  const double unit = static_cast<double>(static_cast<int64_t>(rng())) * 0x1p-63;  // [-1, 1)
  return static_cast<float>(unit * std::ldexp(1.0, static_cast<int>(rng() % 24) - 4));
}

frcnn::Box<float> box(Rng& rng) {
  const float x = number(rng), y = number(rng);
  return {x, y, add(x, std::fabs(number(rng))), add(y, std::fabs(number(rng)))};
}

bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

bool same(const float* found, const float* expected, int count) {
  for (int i = 0; i < count; ++i) {
    if (!same(found[i], expected[i])) {
      std::printf("value %d: found %a, expected %a\n", i, found[i], expected[i]);
      return false;
    }
  }
  return true;
}

bool anchor_at(Rng& rng) {
  const frcnn::Box<float> cell = box(rng);
  const frcnn::AnchorGrid<float> grid{number(rng), number(rng), number(rng)};
  const int64_t y = static_cast<int64_t>(rng() % 5000), x = static_cast<int64_t>(rng() % 5000);
  const frcnn::Box<float> found = frcnn::anchor_at(cell, y, x, grid);
  const float shift_x = add(mul(static_cast<float>(x), grid.stride_x), grid.offset);
  const float shift_y = add(mul(static_cast<float>(y), grid.stride_y), grid.offset);
  const float expected[] = {add(cell.x1, shift_x), add(cell.y1, shift_y), add(cell.x2, shift_x), add(cell.y2, shift_y)};
  return same(&found.x1, expected, 4);
}

frcnn::BoxCoderParams<float> params(Rng& rng) {
  frcnn::BoxCoderParams<float> p{};
  const float weights[] = {1.0f, 5.0f, 10.0f, 0.1f, 3.3f};
  p.weight_x = weights[rng() % 5], p.weight_y = weights[rng() % 5];
  p.weight_w = weights[rng() % 5], p.weight_h = weights[rng() % 5];
  p.clip = rng() % 2 ? 4.135f : std::numeric_limits<float>::infinity();
  p.extent = static_cast<float>(rng() % 2);
  p.clip_to_image = rng() % 2;
  p.max_x = 1333.0f - p.extent, p.max_y = 800.0f - p.extent;
  return p;
}

struct Side {
  float centre, length;
};

Side side(float low, float high, float extent) {
  const float length = add(sub(high, low), extent);
  return {add(low, mul(0.5f, length)), length};
}

bool encode(Rng& rng) {
  const frcnn::Box<float> to = box(rng), from = box(rng);
  const auto p = params(rng);
  const frcnn::Deltas<float> found = frcnn::encode_box(to, from, p);
  const Side to_x = side(to.x1, to.x2, p.extent), to_y = side(to.y1, to.y2, p.extent);
  const Side from_x = side(from.x1, from.x2, p.extent), from_y = side(from.y1, from.y2, p.extent);
  const float expected[] = {divide(mul(p.weight_x, sub(to_x.centre, from_x.centre)), from_x.length),
                            divide(mul(p.weight_y, sub(to_y.centre, from_y.centre)), from_y.length),
                            mul(p.weight_w, frcnn::Elementary<float>::log(divide(to_x.length, from_x.length))),
                            mul(p.weight_h, frcnn::Elementary<float>::log(divide(to_y.length, from_y.length)))};
  return same(&found.dx, expected, 4);
}

float limited(float value, const frcnn::BoxCoderParams<float>& p, float most) {
  if (!p.clip_to_image || std::isnan(value)) return value;
  return std::fmin(std::fmax(value, 0.0f), most);
}

bool decode(Rng& rng) {
  const frcnn::Box<float> from = box(rng);
  const frcnn::Deltas<float> d{mul(number(rng), 0.01f), mul(number(rng), 0.01f), mul(number(rng), 0.01f), number(rng)};
  const auto p = params(rng);
  const frcnn::Box<float> found = frcnn::decode_box(d, from, p);
  const auto axis = [&](float shift, float shift_weight, float scale, float scale_weight, float low, float high) {
    const Side anchor = side(low, high, p.extent);
    float growth = divide(scale, scale_weight);
    if (growth > p.clip) growth = p.clip;
    const float centre = add(mul(divide(shift, shift_weight), anchor.length), anchor.centre);
    const float half = mul(0.5f, mul(frcnn::Elementary<float>::exp(growth), anchor.length));
    return Side{sub(centre, half), sub(add(centre, half), p.extent)};  // low and high ends
  };
  const Side x = axis(d.dx, p.weight_x, d.dw, p.weight_w, from.x1, from.x2);
  const Side y = axis(d.dy, p.weight_y, d.dh, p.weight_h, from.y1, from.y2);
  float expected[] = {limited(x.centre, p, p.max_x), limited(y.centre, p, p.max_y), limited(x.length, p, p.max_x),
                      limited(y.length, p, p.max_y)};
  // fmax(-0, 0) may give either zero: adding 0 leaves one. The clamp itself is the subject of the case below.
  float normal[] = {add(found.x1, 0.0f), add(found.y1, 0.0f), add(found.x2, 0.0f), add(found.y2, 0.0f)};
  for (float& value : expected) value = add(value, 0.0f);
  return same(normal, expected, 4);
}

// A float of any sign, exponent and mantissa.
float any_float(Rng& rng) { return std::bit_cast<float>(static_cast<uint32_t>(rng())); }

// Whether `found` is within one ulp of `exact`.
bool within_an_ulp(float found, double exact) {
  const float rounded = static_cast<float>(exact);
  if (std::isnan(exact) || std::isinf(rounded) || std::isinf(found)) {
    const bool edge = std::isinf(rounded) != std::isinf(found) && std::fabs(exact) < 0x1.000001p128 &&
                      std::fabs(exact) > 0x1.fffffcp127;  // the last float, or the first too large
    return edge || same(found, rounded);
  }
  int exponent = 0;
  std::frexp(exact, &exponent);
  const double ulp = std::ldexp(1.0, std::max(exponent - 24, -149));
  return std::fabs(found - exact) <= ulp;
}

// A vector's lanes have the bits of the scalar.
template <typename V>
bool same_in_lanes(V found, const float* x, float (*scalar)(float)) {
  for (size_t lane = 0; lane < sizeof(V) / sizeof(float); ++lane) {
    if (!same(found[lane], scalar(x[lane]))) {
      std::printf("lane %zu: %a of %a\n", lane, found[lane], x[lane]);
      return false;
    }
  }
  return true;
}

bool elementary(Rng& rng, float most, float (*scalar)(float), double (*exact)(double), bool is_exp) {
  using Floats = frcnn::FRCNN_CPU_LEVEL::Vec<float>;
  float x[sizeof(Floats) / sizeof(float)];
  for (float& value : x) value = rng() % 4 == 0 ? any_float(rng) : mul(std::fabs(number(rng)), most * 0x1p-20f);
  for (float& value : x) value = is_exp && rng() % 2 ? -value : value;
  const Floats in = frcnn::FRCNN_CPU_LEVEL::load(x);
  const Floats found = is_exp ? frcnn::Elementary<Floats>::exp(in) : frcnn::Elementary<Floats>::log(in);
  if (!same_in_lanes(found, x, scalar)) return false;
  for (const float value : x) {
    if (!within_an_ulp(scalar(value), exact(value))) {
      std::printf("%a: found %a, exact %a\n", value, scalar(value), exact(value));
      return false;
    }
  }
  return true;
}

bool exponential(Rng& rng) { return elementary(rng, 90.0f, frcnn::Elementary<float>::exp, std::exp, true); }

bool logarithm(Rng& rng) { return elementary(rng, 1000.0f, frcnn::Elementary<float>::log, std::log, false); }

bool clamp(Rng& rng) {
  const float value = number(rng), high = std::fabs(number(rng));
  if (std::isnan(high)) return true;
  const float found[] = {frcnn::clamp_keep_nan(value, 0.0f, high), frcnn::clamp_max_keep_nan(value, high)};
  const float expected[] = {std::isnan(value) ? value
                            : value < 0.0f    ? 0.0f
                            : value > high    ? high
                                              : value,
                            std::isnan(value) ? value
                            : value > high    ? high
                                              : value};
  return same(found, expected, 2);
}

bool pairwise(Rng& rng) {
  const frcnn::Box<float> a = box(rng);
  frcnn::Box<float> b = rng() % 4 == 0 ? a : box(rng);
  if (rng() % 4 == 0) b.x2 = a.x2, b.y1 = a.y1;
  const auto area = [](const frcnn::Box<float>& box) { return mul(sub(box.x2, box.x1), sub(box.y2, box.y1)); };
  const auto overlap = [](float low_a, float high_a, float low_b, float high_b) {
    const float raw = sub(high_a < high_b ? high_a : high_b, low_a > low_b ? low_a : low_b);
    return raw > 0.0f ? raw : 0.0f;
  };
  const float inter = mul(overlap(a.x1, a.x2, b.x1, b.x2), overlap(a.y1, a.y2, b.y1, b.y2));
  const float expected = divide(inter, sub(add(area(a), area(b)), inter));
  const float found = frcnn::pairwise_iou(a, frcnn::box_area(a), b, frcnn::box_area(b));
  return same(&found, &expected, 1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  bool (*check)(Rng&) = nullptr;
  if (!std::strcmp(argv[1], "anchor_at")) check = anchor_at;
  if (!std::strcmp(argv[1], "encode")) check = encode;
  if (!std::strcmp(argv[1], "decode")) check = decode;
  if (!std::strcmp(argv[1], "clamp")) check = clamp;
  if (!std::strcmp(argv[1], "exp")) check = exponential;
  if (!std::strcmp(argv[1], "log")) check = logarithm;
  if (!std::strcmp(argv[1], "pairwise_iou")) check = pairwise;
  if (check == nullptr) return 2;
  Rng rng(7);
  const long count = std::strtol(argv[2], nullptr, 10);
  for (long i = 0; i < count; ++i) {
    if (!check(rng)) {
      std::printf("comparison %ld\n", i);
      return 1;
    }
  }
  std::printf("%ld\n", count);
  return 0;
}
