// Merges sorted lists of scored entries into the slots of each image: the last step of generate_proposals, where a list
// is a level, and of select_detections, where it is a class. No torch, no <<< >>>.
//
// Nothing is merged step by step: the rank of an entry is its own place plus, for every other list of its image, the
// number of entries there that come before it, which a binary search finds. Ranks are distinct, so every slot has one
// writer, and neither atomics nor a second pass are needed.
//
// Order: ascending key (descending score), then `tie`, then list, then place in the list.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"

namespace frcnn {
namespace {

constexpr int kMergeBlock = 256;
constexpr int64_t kMostMergeImages = 65535;  // of grid.y

// `lists` lists for each image, each in (key, tie) order and with room for `stride` entries; list l of image b begins
// at (b * lists + l) * stride of every array. Fewer than 2^31 entries in an image.
template <typename Key>
struct SortedLists {
  const Key* keys;
  const uint32_t* ties;    // nullptr: all are equal
  const int32_t* places;   // entry i of a list is place places[i] of it, ascending; nullptr: place i
  const int32_t* sizes;    // [images, lists], each `sizes_stride` after the one before
  int64_t images, stride;  // stride: also the most entries a list may have
  int32_t lists;
  int64_t sizes_stride = 1;

  __device__ __forceinline__ int32_t size(int64_t list) const { return sizes[list * sizes_stride]; }

  // Where entry i of a list, counted over all images, lies in `keys` and `ties`.
  __device__ __forceinline__ int64_t at(int64_t list, int32_t i) const {
    return list * stride + (places == nullptr ? i : places[list * stride + i]);
  }
  __device__ __forceinline__ uint32_t tie(int64_t at) const { return ties == nullptr ? 0 : ties[at]; }

  // How many entries of a list come before (key, tie), those equal to it included or not.
  __device__ __forceinline__ int32_t entries_before(int64_t list, Key key, uint32_t tie_, bool with_equal) const {
    int32_t low = 0, high = size(list);
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      const int64_t here = at(list, middle);
      const Key other = keys[here];
      const bool before = other != key ? other < key : (with_equal ? tie(here) <= tie_ : tie(here) < tie_);
      if (before) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// The sum over `width` neighbouring lanes, a power of two. All lanes of the warp call it.
__device__ __forceinline__ int32_t sum_of_lanes(int32_t value, int width) {
  for (int step = width / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullWarp, value, step);
  return value;
}

// Items of one image: item i is entry i % most of list i / most, and slot i.
struct MergeItems {
  int64_t most;     // entries of a list that can reach a slot
  int64_t entries;  // of all lists
  int64_t count;    // at least one, which writes the number of slots in use

  FRCNN_HD MergeItems(int64_t stride, int32_t lists, int64_t slots)
      : most(stride < slots ? stride : slots), entries(lists * most), count(entries > slots ? entries : slots) {
    if (count == 0) count = 1;
  }
};

// `width` lanes have one item, and share the lists of its image; grid.x strides over items, grid.y over images. Output
// is a plain struct with
//
//   __device__ void write(int64_t image, int64_t slot, int32_t list, int64_t at) const;   at: into keys and the like
//   __device__ void pad(int64_t image, int64_t slot) const;                               a slot that stays unused
//   __device__ void write_count(int64_t image, int64_t used) const;
template <typename Key, typename Output>
__global__ void __launch_bounds__(kMergeBlock, 4)
    merge_lists_kernel(SortedLists<Key> from, int64_t slots, int width, Output out) {
  const MergeItems items(from.stride, from.lists, slots);
  const int64_t first = global_thread() / width;
  const int lane = static_cast<int>(threadIdx.x) % width;
  for (int64_t image = blockIdx.y; image < from.images; image += gridDim.y) {
    const int64_t first_list = image * from.lists;
    // The lanes of a warp stay together: sum_of_lanes wants all of them.
    for (int64_t item = first; __any_sync(kFullWarp, item < items.count); item += grid_threads() / width) {
      // Fewer than 2^31 entries: a division of 32 bits.
      const auto entry = static_cast<uint32_t>(item < items.entries ? item : 0);
      const auto most = static_cast<uint32_t>(items.most > 0 ? items.most : 1);
      const auto list = static_cast<int32_t>(entry / most), place = static_cast<int32_t>(entry % most);
      const bool exists = item < items.entries && place < from.size(first_list + list);
      int64_t at = 0;
      int32_t rank = 0;
      if (exists) {
        at = from.at(first_list + list, place);
        const Key key = from.keys[at];
        const uint32_t tie = from.tie(at);
        for (int32_t other = lane; other < from.lists; other += width) {
          rank += other == list ? place : from.entries_before(first_list + other, key, tie, other < list);
        }
      }
      rank = sum_of_lanes(rank, width);
      if (exists && lane == 0 && rank < slots) out.write(image, rank, list, at);

      int32_t total = 0;
      const bool wants_total = item < slots || item == 0;
      if (wants_total) {
        for (int32_t other = lane; other < from.lists; other += width) total += from.size(first_list + other);
      }
      total = sum_of_lanes(total, width);
      if (wants_total && lane == 0) {
        if (item >= total && item < slots) out.pad(image, item);
        if (item == 0) out.write_count(image, total < slots ? total : slots);
      }
    }
  }
}

// Fills all `slots` of every image: best entries first, then padding.
template <typename Key, typename Output, typename Launch>
void launch_merge_lists(const Launch& launch, const SortedLists<Key>& from, int64_t slots, const Output& out) {
  if (from.images == 0) return;
  int width = 1;
  while (width < kWarp && width < from.lists) width *= 2;
  const int64_t items = MergeItems(from.stride, from.lists, slots).count;
  dim3 grid = grid_for(items * width, kMergeBlock);
  grid.y = static_cast<unsigned>(from.images < kMostMergeImages ? from.images : kMostMergeImages);
  launch(merge_lists_kernel<Key, Output>, grid, dim3(kMergeBlock), 0, from, slots, width, out);
}

}  // namespace
}  // namespace frcnn
