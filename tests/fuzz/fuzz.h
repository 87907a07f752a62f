// What the fuzz programs share: random numbers, hostile values, exactly sized blocks, the main loop.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <memory>
#include <random>

namespace fuzz {

using Rng = std::mt19937_64;

inline int64_t below(Rng& rng, int64_t bound) { return static_cast<int64_t>(rng() % static_cast<uint64_t>(bound)); }

template <typename T>
T hostile_value(Rng& rng) {
  using Limits = std::numeric_limits<T>;
  const T values[] = {Limits::quiet_NaN(),
                      -Limits::quiet_NaN(),
                      Limits::infinity(),
                      -Limits::infinity(),
                      Limits::max(),
                      Limits::lowest(),
                      Limits::min(),
                      Limits::denorm_min(),
                      T(0),
                      -T(0),
                      T(1e7),
                      T(-1e7),
                      T(1e30),
                      T(-1e30),
                      T(4.5e15),
                      T(9.3e18)};
  return values[below(rng, std::size(values))];
}

// A number with few digits, so that ties and shared edges are common; hostile in `hostility` of 100 cases.
template <typename T>
T value(Rng& rng, int64_t hostility) {
  if (below(rng, 100) < hostility) return hostile_value<T>(rng);
  return static_cast<T>(below(rng, 400) - 100) / T(8);
}

// An exactly sized heap block, so that AddressSanitizer sees the first step outside; std::vector may reserve more.
template <typename T>
struct Block {
  explicit Block(int64_t size, T value = T(0)) : data(new T[size]), size(size) { std::fill_n(get(), size, value); }
  T& operator[](int64_t i) { return data[i]; }
  T* get() const { return data.get(); }
  std::unique_ptr<T[]> data;
  int64_t size;
};

template <typename T>
Block<T> random_block(Rng& rng, int64_t size, int64_t hostility) {
  Block<T> block(size);
  for (int64_t i = 0; i < size; ++i) block[i] = value<T>(rng, hostility);
  return block;
}

// Equal, or both NaN.
template <typename T>
bool same(T a, T b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

// Equal up to `ulps` roundings of the largest number that took part.
template <typename T>
bool close(T a, T b, T scale, T ulps = 16) {
  return same(a, b) || std::abs(a - b) <= ulps * std::numeric_limits<T>::epsilon() * scale;
}

// Calls round(rng, number) until one returns false. Usage of every program: SEED ROUNDS.
template <typename Round>
int run(int argc, char** argv, Round round) {
  if (argc != 3) return 2;
  Rng rng(std::strtoull(argv[1], nullptr, 10));
  const long rounds = std::strtol(argv[2], nullptr, 10);
  for (long i = 0; i < rounds; ++i) {
    if (!round(rng, i)) {
      std::printf("round %ld is wrong\n", i);
      return 1;
    }
  }
  std::printf("%ld rounds\n", rounds);
  return 0;
}

// Splits [0, count) at random places and calls body(begin, end) on the pieces in random order, as a thread pool might.
template <typename Body>
void split(Rng& rng, int64_t count, Body body) {
  const int64_t middle = below(rng, count + 1);
  if (below(rng, 2)) {
    body(middle, count);
    body(int64_t(0), middle);
  } else {
    body(int64_t(0), middle);
    body(middle, count);
  }
}

}  // namespace fuzz
