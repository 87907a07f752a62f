// The shim itself: what the CUDA Programming Guide says its functions return, on inputs where answers are known.
#include "shim/testing.h"

#include "cuda_common.cuh"

namespace {

using namespace cuda_on_cpu;
using frcnn::kFullWarp;

// ---------------------------------------------------------------------------------------------------------------------
// Half types: widening against the formula; narrowing at every representable value, every midpoint and its neighbours.
// Rounding is monotonic, so that fixes it everywhere.
// ---------------------------------------------------------------------------------------------------------------------

double half_value(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
  return exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
}
double bfloat_value(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 7 & 255), mantissa = static_cast<int>(bits & 127);
  return exponent == 0 ? std::ldexp(mantissa, -133) : std::ldexp(128 + mantissa, exponent - 134);
}

template <typename Widen, typename Narrow, typename Value>
void check_half_type(unsigned infinity, Widen widen, Narrow narrow, Value value_of) {
  constexpr unsigned kSign = 0x8000;
  for (unsigned bits = 0; bits < infinity; ++bits) {
    const float value = static_cast<float>(value_of(bits));
    expect(widen(bits) == value && widen(bits | kSign) == -value, "widened");
    expect(std::signbit(widen(bits | kSign)), "sign of zero");
    expect(narrow(value) == bits && narrow(-value) == (bits | kSign), "narrowed");
    // The midpoint to the next value (to where it would be, beyond the largest) is exact in float, a tie.
    const float middle = static_cast<float>((value_of(bits) + value_of(bits + 1)) / 2);
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    expect(narrow(middle) == even && narrow(-middle) == (even | kSign), "tie");
    expect(narrow(std::nextafter(middle, 0.0f)) == bits, "below a tie");
    expect(narrow(std::nextafter(middle, INFINITY)) == bits + 1, "above a tie");
  }
  expect(narrow(INFINITY) == infinity && narrow(-INFINITY) == (infinity | kSign), "infinity");
  expect(widen(infinity) == INFINITY && std::isnan(widen(infinity + 1)), "wide infinity and NaN");
  expect(std::isnan(widen(narrow(NAN))) && std::isnan(widen(narrow(-NAN))), "NaN");
  expect(narrow(FLT_MAX) == infinity && narrow(1e-45f) == 0, "extremes");
}

CASE(float16) {
  check_half_type(
      0x7c00, [](unsigned bits) { return __half2float(__ushort_as_half(static_cast<unsigned short>(bits))); },
      [](float x) { return unsigned{__half_as_ushort(__float2half_rn(x))}; }, half_value);
}
CASE(bfloat16) {
  check_half_type(
      0x7f80, [](unsigned bits) { return __bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(bits))); },
      [](float x) { return unsigned{__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }, bfloat_value);
}

// ---------------------------------------------------------------------------------------------------------------------
// Warp and block collectives: one block of 64 threads; each thread writes kRow results.
// ---------------------------------------------------------------------------------------------------------------------

constexpr int kThreads = 64;

template <typename Kernel>
std::vector<long long> run(Kernel* kernel, int per_thread) {
  return in_every_order([&](const Launcher& launch) {
    Buffer<long long> out(static_cast<std::size_t>(per_thread * kThreads));
    launch(kernel, dim3(1), dim3(kThreads), 0, out.data());
    return out.values();
  });
}

__global__ void shuffles(long long* out) {
  const int lane = frcnn::lane_index();
  const double value = 100.5 + lane;  // 8 bytes
  out += threadIdx.x * 10;
  out[0] = __shfl_sync(kFullWarp, lane, 5);
  out[1] = __shfl_sync(kFullWarp, lane, lane + 1);  // wraps around
  out[2] = __shfl_sync(kFullWarp, lane, 3, 8);
  out[3] = __shfl_up_sync(kFullWarp, lane, 2);
  out[4] = __shfl_up_sync(kFullWarp, lane, 3, 16);
  out[5] = __shfl_down_sync(kFullWarp, lane, 2);
  out[6] = __shfl_down_sync(kFullWarp, lane, 3, 16);
  out[7] = __shfl_xor_sync(kFullWarp, lane, 7);
  out[8] = __shfl_xor_sync(kFullWarp, lane, 4, 4);  // reaches earlier segments, not later ones
  out[9] = static_cast<long long>(2 * __shfl_xor_sync(kFullWarp, value, 16));
}
CASE(shuffle) {
  std::vector<long long> wanted;
  for (int t = 0; t < kThreads; ++t) {
    const int l = t % 32;
    for (const int value :
         {5, (l + 1) % 32, l / 8 * 8 + 3, l < 2 ? l : l - 2, l % 16 < 3 ? l : l - 3, l > 29 ? l : l + 2,
          l % 16 > 12 ? l : l + 3, l ^ 7, l & 4 ? l - 4 : l, 201 + 2 * (l ^ 16)}) {
      wanted.push_back(value);
    }
  }
  expect_same(run(shuffles, 10), wanted, "shuffles");
}

__global__ void votes(long long* out) {
  const int lane = frcnn::lane_index();
  out += threadIdx.x * 10;
  out[0] = __ballot_sync(kFullWarp, lane % 3 == 0);
  out[1] = __any_sync(kFullWarp, threadIdx.x == 40);
  out[2] = __all_sync(kFullWarp, threadIdx.x != 40);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;  // two groups, each on its own
  out[3] = __ballot_sync(half, lane % 2);
  out[4] = __match_any_sync(kFullWarp, lane / 10);
  out[5] = __reduce_add_sync(kFullWarp, threadIdx.x);
  out[6] = __reduce_min_sync(kFullWarp, lane - 7);
  out[7] = __syncthreads_count(threadIdx.x < 13);
  out[8] = 2 * __syncthreads_or(threadIdx.x == 63) + __syncthreads_or(0);
  out[9] = 2 * __syncthreads_and(1) + __syncthreads_and(threadIdx.x != 63);
}
CASE(vote) {
  std::vector<long long> wanted;
  for (int t = 0; t < kThreads; ++t) {
    const int l = t % 32, tens = l / 10;
    const long long match = tens == 3 ? 0xc0000000ll : 0x3ffll << 10 * tens;
    for (const long long value :
         {0x49249249ll, t < 32 ? 0ll : 1ll, t < 32 ? 1ll : 0ll, l < 16 ? 0xaaaall : 0xaaaa0000ll, match,
          t < 32 ? 496ll : 1520ll, -7ll, 13ll, 2ll, 2ll}) {
      wanted.push_back(value);
    }
  }
  expect_same(run(votes, 10), wanted, "votes");
}

// ---------------------------------------------------------------------------------------------------------------------
// Indices, atomics, bits, packs
// ---------------------------------------------------------------------------------------------------------------------

__global__ void indices(unsigned* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  out[i] = i + (thread == thread_rank() ? 0 : 1000000);
}
CASE(index) {
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<unsigned> out(2 * 3 * 4 * 5 * 6 * 7);
    launch(indices, dim3(2, 3, 4), dim3(5, 6, 7), 0, out.data());
    return out.values();
  });
  std::vector<unsigned> wanted;
  for (unsigned i = 0; i < got.size(); ++i) wanted.push_back(i);
  expect_same(got, wanted, "indices");
}

// Shared memory of one block is not that of the next, though it lies at the same place; and a full block fits.
template <typename T>
__global__ void reverse_blocks(const T* in, T* out) {
  __shared__ T first[1023], last;
  T* copy = frcnn::dynamic_shared<T>();
  const unsigned i = threadIdx.x, base = blockIdx.x * blockDim.x;
  if (i < 1023) first[i] = in[base + i];
  if (i == 1023) last = in[base + i];
  __syncthreads();
  copy[1023 - i] = i < 1023 ? first[i] : last;
  __syncthreads();
  out[base + i] = copy[i];
}
template <typename T>
void check_reverse() {
  constexpr int kBlocks = 4;
  std::vector<T> values, wanted;
  for (int i = 0; i < 1024 * kBlocks; ++i) {
    values.push_back(static_cast<T>(i % 3000));
    wanted.push_back(static_cast<T>((i / 1024 * 1024 + 1023 - i % 1024) % 3000));
  }
  const Buffer<T> in(values);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<T> out(values.size());
    launch(reverse_blocks<T>, dim3(kBlocks), dim3(1024), 1024 * sizeof(T), in.data(), out.data());
    return out.values();
  });
  expect_same(got, wanted, "reversed");
}
CASE(shared_memory) {
  check_reverse<short>();
  check_reverse<double>();
}

__global__ void atomics(unsigned long long* wide, int* narrow) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&wide[0], 1ull << 33);
  atomicMax(&wide[1], static_cast<unsigned long long>(i) << 40);
  atomicOr(&wide[2], 1ull << (i % 64));
  atomicAdd(&narrow[0], -i);
  atomicMin(&narrow[1], 5 - i);
  if (atomicCAS(&narrow[2], 0, i + 1) == 0) atomicExch(&narrow[3], 1);
  if (i == 0) narrow[4] = 0;
}
CASE(atomic) {
  const auto [wide, narrow] = in_every_order([&](const Launcher& launch) {
    const Buffer<unsigned long long> wide_out(std::vector<unsigned long long>(3, 0));
    const Buffer<int> narrow_out(std::vector<int>(5, 0));
    launch(atomics, dim3(3), dim3(kThreads), 0, wide_out.data(), narrow_out.data());
    expect(narrow_out.data()[2] > 0, "one thread won");
    narrow_out.data()[2] = 0;  // which one depends on the order, rightly
    return std::tuple{wide_out.values(), narrow_out.values()};
  });
  expect_same(wide, {192ull << 33, 191ull << 40, ~0ull}, "wide");
  expect_same(narrow, {-191 * 96, 5 - 191, 0, 1, 0}, "narrow");
}

CASE(bits) {
  expect(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64, "popc");
  expect(__clz(0) == 32 && __clz(1) == 31 && __clz(-1) == 0 && __clzll(1) == 63, "clz");
  expect(__ffs(0) == 0 && __ffs(8) == 4 && __ffsll(1ll << 40) == 41, "ffs");
  expect(__brev(1) == 0x80000000u && __brevll(2) == 0x4000000000000000ull, "brev");
  expect(__umulhi(0x80000000u, 6) == 3 && __umul64hi(1ull << 63, 6) == 3, "mulhi");
  expect(__float_as_uint(-0.0f) == 0x80000000u && __int_as_float(0x3f800000) == 1.0f, "reinterpretation");
  expect(__float2int_rd(-1.5f) == -2 && __float2int_ru(1.2f) == 2 && __float2int_rn(2.5f) == 2, "to integer");
  expect(__float2int_rz(1e20f) == INT_MAX && __float2int_rz(-1e20f) == INT_MIN && __float2int_rz(NAN) == 0,
         "saturated");
  expect(min(NAN, 1.0f) == 1.0f && max(2.0, static_cast<double>(NAN)) == 2.0 && max(-1, 3) == 3, "min and max");
  expect(__fmaf_rn(1 + 0x1p-23f, 1 - 0x1p-23f, -1.0f) == -0x1p-46f, "fma rounds once");
  expect(__fadd_rn(__fmul_rn(1 + 0x1p-23f, 1 - 0x1p-23f), -1.0f) == 0, "two operations round twice");
}

template <typename T>
__global__ void copy_packs(const T* in, T* out, std::int64_t count) {
  for (std::int64_t i = 4 * frcnn::global_thread(); i < count; i += 4 * frcnn::grid_threads()) {
    auto pack = frcnn::load_pack<T, 4>(in + i);
    for (T& value : pack.values) value = frcnn::narrow<T>(frcnn::widen(value) * frcnn::widened_t<T>(2));
    frcnn::store_pack(out + i, pack);
  }
}
template <typename T>
void check_packs() {
  std::vector<T> values, wanted;
  for (int i = 0; i < 400; ++i) {
    values.push_back(frcnn::narrow<T>(static_cast<float>(i)));
    wanted.push_back(frcnn::narrow<T>(static_cast<float>(2 * i)));
  }
  const Buffer<T> in(values);
  expect(frcnn::allows_packs<4>(in.data(), 400) && !frcnn::allows_packs<4>(in.data() + 1, 400), "alignment");
  expect(!frcnn::allows_packs<4>(in.data(), 398), "stride");
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<T> out(values.size());
    launch(copy_packs<T>, frcnn::grid_for(100, 32), dim3(32), 0, static_cast<const T*>(in.data()), out.data(), 400);
    return out.values();
  });
  expect_same(got, wanted, "packs");
}
CASE(packs) {
  check_packs<float>();
  check_packs<__half>();
  check_packs<__nv_bfloat16>();
  expect(frcnn::grid_for(0, 32).x == 0 && frcnn::grid_for(33, 32).x == 2, "grid");
  expect(frcnn::grid_for(std::int64_t{1} << 40, 32).x == 1 << 20, "large grid");
}

}  // namespace
