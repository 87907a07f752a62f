// exp of numbers <= 0 in double, for soft_nms: the same bits on the host and on the device; no torch.
//
// To an ulp or so; 0 below -708. Each operation is rounded on its own: x = k ln 2 + r with |r| <= ln 2 / 2, the series
// of e^r, and 2^k through the exponent. The CPU levels have the same steps for vectors (soft_nms_cpu_decay.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "geometry/host_device.h"

namespace frcnn {

FRCNN_HD double exp_of_negative(double x) {
  if (x < -708.0) return 0.0;
  constexpr double kShift = 0x1.8p52;  // adding it rounds to a whole number, which is then in the low bits
  const double shifted = x * 0x1.71547652b82fep0 + kShift;
  const double k = shifted - kShift;
  const double r = (x - k * 0x1.62e42fefa0000p-1) - k * 0x1.cf79abc9e3b3ap-40;
  constexpr double kFactors[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  double sum = 1.0 / 6227020800;  // 1 / 13!
  for (const double factor : kFactors) sum = sum * r + factor;
  int64_t bits, power, zero_power;
  const double shift = kShift;
  std::memcpy(&bits, &sum, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  std::memcpy(&zero_power, &shift, sizeof zero_power);
  bits += static_cast<int64_t>(static_cast<uint64_t>(power - zero_power) << 52);
  double result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

}  // namespace frcnn
