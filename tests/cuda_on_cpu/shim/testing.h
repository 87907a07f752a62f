// A small test program around cuda_on_cpu.h: cases, buffers, comparison. Included once per program; holds main().
//
//   CASE(anchors) {
//     const auto got = in_every_order([&](const Launcher& launch) {
//       Buffer<float> out(n);                        // exactly n, poisoned
//       launch_something(launch, ..., out.data());
//       return out.values();
//     });                                            // fails unless the bits are the same in every order
//     expect_same(got, wanted, "anchors");
//   }
//
// `program` runs all cases, `program NAME...` those; exit status 0 if all expectations held.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;  // about ten times slower: cases may take smaller inputs
#else
constexpr bool kThreadSanitizer = false;
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Cases and expectations
// ---------------------------------------------------------------------------------------------------------------------

struct Case {
  const char* name;
  void (*run)();
};
inline std::vector<Case> cases;
inline const char* running_case = "";
inline int failures = 0;

#define CASE(name)                                                                                                 \
  static void case_##name();                                                                                       \
  [[maybe_unused]] static const bool listed_##name = (::cuda_on_cpu::cases.push_back({#name, case_##name}), true); \
  static void case_##name()

#define SLOW_CASE(name) CASE(name)  // for pytest: carries the `slow` marker

inline void fail(const std::string& message, const Where& where = Where::current()) {
  if (++failures <= 20)
    std::printf("%s:%u: in %s: %s\n", where.file_name(), where.line(), running_case, message.c_str());
}
inline void expect(bool condition, const std::string& message, const Where& where = Where::current()) {
  if (!condition) fail(message, where);
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------------------

inline Order current_order;

// Device memory of exactly `count` elements; poisoned unless made from values.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count), memory_(std::malloc(count * sizeof(T)), std::free) {
    poison(memory_.get(), count * sizeof(T), current_order);
  }
  explicit Buffer(const std::vector<T>& values)
      : count_(values.size()), memory_(std::malloc(values.size() * sizeof(T)), std::free) {
    if (!values.empty()) std::memcpy(memory_.get(), values.data(), values.size() * sizeof(T));
  }
  T* data() const { return static_cast<T*>(memory_.get()); }
  std::size_t size() const { return count_; }
  std::vector<T> values() const { return std::vector<T>(data(), data() + count_); }

 private:
  std::size_t count_;
  std::unique_ptr<void, decltype(&std::free)> memory_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Orders
// ---------------------------------------------------------------------------------------------------------------------

inline std::vector<Order> all_orders() {
  // A race is one in every order; the others only show ThreadSanitizer further paths through the code.
  if (kThreadSanitizer) return {{Order::kForward}, {Order::kShuffled, 1}};
  return {{Order::kForward}, {Order::kReverse}, {Order::kShuffled, 1}, {Order::kShuffled, 2}};
}

template <typename T>
void append_bits(std::string& bits, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t count = values.size();
  bits.append(reinterpret_cast<const char*>(&count), sizeof(count));
  bits.append(reinterpret_cast<const char*>(values.data()), count * sizeof(T));
}
template <typename... Parts>
void append_bits(std::string& bits, const std::tuple<Parts...>& parts) {
  std::apply([&](const auto&... part) { (append_bits(bits, part), ...); }, parts);
}

// Calls `body(launcher)` for every order; it returns a vector, or a tuple of vectors, whose bits must not depend on the
// order (nor, so, on poison). Returns the result.
template <typename Body>
auto in_every_order(Body&& body, const Where& where = Where::current()) {
  decltype(body(Launcher())) first;
  std::string first_bits;
  for (const Order order : all_orders()) {
    current_order = order;
    auto result = body(Launcher(order));
    std::string bits;
    append_bits(bits, result);
    if (order.kind == Order::kForward) {
      first = std::move(result);
      first_bits = std::move(bits);
    } else if (bits != first_bits) {
      fail(std::string("the result in ") + order.name() + " order differs from that in forward order", where);
    }
  }
  return first;
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparison
// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
double to_double(T value) {
  return static_cast<double>(value);
}
inline double to_double(__half value) { return __half2float(value); }
inline double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }

// Element by element: the same bits, except that one NaN is as good as another.
template <typename T>
void expect_same(const std::vector<T>& got, const std::vector<T>& wanted, const std::string& what,
                 const Where& where = Where::current()) {
  expect(got.size() == wanted.size(),
         what + ": " + std::to_string(got.size()) + " elements instead of " + std::to_string(wanted.size()), where);
  if (got.size() != wanted.size()) return;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &wanted[i], sizeof(T)) == 0) continue;
    const double a = to_double(got[i]), b = to_double(wanted[i]);
    if (std::isnan(a) && std::isnan(b)) continue;
    char text[160];
    std::snprintf(text, sizeof(text), ": element %zu is %.17g instead of %.17g", i, a, b);
    return fail(what + text, where);
  }
}

// |got - wanted| <= absolute + relative * |wanted|; infinities and NaNs must agree.
template <typename T, typename U>
void expect_close(const std::vector<T>& got, const std::vector<U>& wanted, double relative, double absolute,
                  const std::string& what, const Where& where = Where::current()) {
  expect(got.size() == wanted.size(),
         what + ": " + std::to_string(got.size()) + " elements instead of " + std::to_string(wanted.size()), where);
  if (got.size() != wanted.size()) return;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double a = to_double(got[i]), b = to_double(wanted[i]);
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (std::isfinite(b) && std::abs(a - b) <= absolute + relative * std::abs(b)) continue;
    char text[160];
    std::snprintf(text, sizeof(text), ": element %zu is %.17g instead of %.17g", i, a, b);
    return fail(what + text, where);
  }
}

// Seeded, and the same on every machine: splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform(double low = 0, double high = 1) {
    return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53;
  }
  std::int64_t integer(std::int64_t low, std::int64_t high) {  // both included
    return low + static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(high - low + 1));
  }

 private:
  std::uint64_t state_;
};

}  // namespace cuda_on_cpu

int main(int argc, char** argv) {
  int ran = 0;
  for (const auto& one : cuda_on_cpu::cases) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted |= std::strcmp(argv[i], one.name) == 0;
    if (!wanted) continue;
    cuda_on_cpu::running_case = one.name;
    one.run();
    ++ran;
  }
  if (ran == 0 || (argc > 1 && ran != argc - 1)) {
    std::printf("no such case\n");
    return 2;
  }
  if (cuda_on_cpu::failures != 0) std::printf("%d failures\n", cuda_on_cpu::failures);
  return cuda_on_cpu::failures != 0;
}
