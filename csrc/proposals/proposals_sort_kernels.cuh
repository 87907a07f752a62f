// generate_proposals on CUDA, second part: the chosen anchors decoded, filtered and in order. No torch, no <<< >>>.
//
// Chosen anchors are cut into tiles of 1024 (of 512 for doubles). A block decodes one tile, a thread an anchor, and
// sorts what is usable by (score, logit, anchor index) in shared memory. If a level has several tiles,
// arrange_tiles_kernel finds the rank of each proposal over all of them by binary search.
#pragma once

#include <cstdint>

#include "candidates/block_sort.cuh"
#include "nms/nms_tiles.cuh"
#include "proposals/proposals_select_kernels.cuh"

namespace frcnn {
namespace {

// Threads, and proposals of a tile. A thread that computes in double takes more than the 64 registers there are for
// 1024.
template <typename T>
constexpr int kSortTile = 1024;
template <>
constexpr int kSortTile<double> = 512;
constexpr int kArrangeTilesBlock = 256;

// Segment s = image * levels + level has the boxes s * tiles_per_segment * 64 … + used[s] - 1, best first: what
// SegmentMap is to nms().
struct FixedSegments {
  const int32_t* used;
  int64_t segments, tiles_per_segment;

  FRCNN_HD int64_t tiles() const { return segments * tiles_per_segment; }
  FRCNN_HD int64_t stride() const { return tiles_per_segment * kTile; }
  FRCNN_HD int64_t home_blocks(int64_t) const { return segments; }
  __device__ int64_t home_of(int64_t tile) const { return tile - tile % tiles_per_segment; }
  __device__ int64_t home_of_block(int64_t b) const { return b * tiles_per_segment; }
  __device__ int64_t long_segment_begin(int64_t home) const { return home * kTile; }

  __device__ uint64_t valid_in(int64_t tile) const {
    const int64_t left = used[tile / tiles_per_segment] - tile % tiles_per_segment * kTile;
    return left <= 0 ? 0 : bits_below(left < kTile ? static_cast<int>(left) : kTile);
  }
  __device__ uint64_t starts_in(int64_t tile) const { return tile % tiles_per_segment == 0 ? valid_in(tile) & 1 : 0; }
  __device__ uint64_t continuation_in(int64_t tile) const { return tile % tiles_per_segment == 0 ? 0 : valid_in(tile); }
  __device__ uint64_t last_segment_in(int64_t) const { return ~uint64_t{0}; }
};

// A proposal's place in the order of its level, and the thread that decoded it.
template <typename Key>
struct ProposalRank {
  Key score, logit;  // descending_key
  uint32_t index;    // of the anchor
  uint32_t thread;

  __device__ __forceinline__ static ProposalRank none() { return {~Key{0}, ~Key{0}, ~uint32_t{0}, 0}; }
  __device__ __forceinline__ bool exists() const { return score != ~Key{0}; }  // no score has that key
  __device__ __forceinline__ bool operator<(const ProposalRank& other) const {
    if (score != other.score) return score < other.score;
    return logit != other.logit ? logit < other.logit : index < other.index;
  }
};

// All proposals of a call, in order within their segments.
template <typename T>
struct ProposalColumns {
  SortedBox<T>* boxes;        // [segments, stride]
  proposal_key_t<T>* scores;  // [segments, stride]
  int32_t* used;              // [segments]
  int32_t* kept_sizes;        // [segments * tiles_per_segment], where an empty segment's is set to 0: the walk does not
};

// The same in order within their tiles only, where a segment may have more than one.
template <typename T>
struct ProposalTiles {
  SortedBox<T>* boxes;                     // [segments, tiles, kSortTile]
  ProposalRank<proposal_key_t<T>>* ranks;  // likewise
  int32_t* used;                           // [segments, tiles]
  int64_t tiles;                           // of a segment
};

template <typename T>
union SortMemory {
  ProposalRank<proposal_key_t<T>> ranks[kSortTile<T>];
  SortedBox<T> boxes[kSortTile<T>];
};

// Block = one tile. With one tile a segment `tiles.ranks` is null and the result is final.
template <typename T, typename S>
__global__ void __launch_bounds__(kSortTile<T>, 1)
    sort_kernel(const __grid_constant__ ProposalMaps<T, S> maps, const uint32_t* __restrict__ chosen,
                const int32_t* __restrict__ chosen_count, int64_t room, T score_threshold, FixedSegments segments,
                ProposalTiles<T> tiles, ProposalColumns<T> columns) {
  using Rank = ProposalRank<proposal_key_t<T>>;
  __shared__ SortMemory<T> memory;
  const int64_t segment = blockIdx.x / tiles.tiles, tile = blockIdx.x % tiles.tiles;
  const int64_t image = segment / maps.levels;
  const ProposalLevel<T, S>& level = maps.level[segment % maps.levels];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t left = chosen_count[segment] - tile * kSortTile<T>;
  const int count = left < kSortTile<T> ? static_cast<int>(left > 0 ? left : 0) : kSortTile<T>;

  Box<T> box{};
  Rank rank = Rank::none();
  if (thread < count) {
    const uint32_t index = chosen[segment * room + tile * kSortTile<T> + thread];
    const BoxLimits<T> limits = maps.limits.of(image);
    box = level.decoded(image, index, maps.coder, limits);
    const T logit = level.logit(image, index), score = torch_sigmoid(logit);
    if (is_usable_box(box, limits.min_side) && score >= score_threshold) {
      rank = {descending_key(score), descending_key(logit), index, static_cast<uint32_t>(thread)};
    }
  }
  memory.ranks[thread] = rank;
  bitonic_sort(memory.ranks, bitonic_size(count));

  rank = memory.ranks[thread];
  const bool is_last = rank.exists() && (thread + 1 == kSortTile<T> || !memory.ranks[thread + 1].exists());
  if (is_last || (thread == 0 && !rank.exists())) {
    const int used = is_last ? thread + 1 : 0;
    tiles.used[blockIdx.x] = used;
    if (tiles.ranks == nullptr && used == 0) columns.kept_sizes[segment * segments.tiles_per_segment] = 0;
  }
  __syncthreads();  // boxes take the place of ranks
  memory.boxes[thread] = {box.x1, box.y1, box.x2, box.y2};
  __syncthreads();
  if (!rank.exists()) return;
  if (tiles.ranks == nullptr) {
    const int64_t at = segment * segments.stride() + thread;
    columns.boxes[at] = memory.boxes[rank.thread];
    columns.scores[at] = rank.score;
  } else {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kSortTile<T> + thread;
    tiles.boxes[at] = memory.boxes[rank.thread];
    tiles.ranks[at] = rank;
  }
}

// How many of count sorted ranks come before `rank`.
template <typename Rank>
__device__ __forceinline__ int ranks_before(const Rank* ranks, int count, const Rank& rank) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ranks[middle] < rank) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// A thread for each place of each tile, the grid striding over them: from order within tiles to order within segments.
template <typename T>
__global__ void arrange_tiles_kernel(ProposalTiles<T> tiles, FixedSegments segments, ProposalColumns<T> columns) {
  using Rank = ProposalRank<proposal_key_t<T>>;
  const int64_t places = tiles.tiles * kSortTile<T>;  // of a segment
  for (int64_t i = global_thread(); i < segments.segments * places; i += grid_threads()) {
    const int64_t segment = i / places, tile = i % places / kSortTile<T>;
    const int place = static_cast<int>(i % kSortTile<T>);
    const int32_t* used = tiles.used + segment * tiles.tiles;
    if (i % places == 0) {
      int32_t total = 0;
      for (int64_t t = 0; t < tiles.tiles; ++t) total += used[t];
      columns.used[segment] = total;
      if (total == 0) columns.kept_sizes[segment * segments.tiles_per_segment] = 0;
    }
    if (place >= used[tile]) continue;
    const Rank rank = tiles.ranks[i];
    int64_t at = segment * segments.stride() + place;
    for (int64_t t = 0; t < tiles.tiles; ++t) {
      if (t != tile) at += ranks_before(tiles.ranks + (segment * tiles.tiles + t) * kSortTile<T>, used[t], rank);
    }
    columns.boxes[at] = tiles.boxes[i];
    columns.scores[at] = rank.score;
  }
}

}  // namespace
}  // namespace frcnn
