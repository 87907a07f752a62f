// generate_proposals on CUDA: checks, layouts, dtypes, temporary memory, registration. The kernels are in
// proposals_kernels.cuh.
#include <algorithm>
#include <limits>

#include "candidates/limits.h"
#include "candidates/map_layout.h"
#include "candidates/numbers_on_device.h"
#include "cuda_launch.h"
#include "cuda_workspace.h"
#include "proposals/proposals.h"
#include "proposals/proposals_kernels.cuh"

namespace frcnn {
namespace {

// Tensors that kernels read by pointers, kept alive.
struct ReadableMaps {
  std::vector<Tensor> logits, deltas, cells;
};

ReadableMaps readable_maps(const ProposalArguments& args, ScalarType dtype) {
  ReadableMaps maps;
  for (size_t level = 0; level < args.objectness.size(); ++level) {
    maps.logits.push_back(readable(args.objectness[level]));
    maps.deltas.push_back(readable(args.deltas[level]));
    maps.cells.push_back(contiguous_as(args.cell_anchors[level], dtype));
  }
  return maps;
}

template <typename T, typename S>
ProposalMaps<T, S> proposal_maps(const ProposalArguments& args, const ReadableMaps& tensors) {
  ProposalMaps<T, S> maps{};
  maps.levels = static_cast<int32_t>(tensors.logits.size());
  maps.images = args.image_sizes.size(0);
  maps.coder = coder_params<T>(args.weights, args.inclusive, kDeltaClip);
  for (size_t l = 0; l < tensors.logits.size(); ++l) {
    const Tensor &logits = tensors.logits[l], &deltas = tensors.deltas[l];
    maps.level[l] = {static_cast<const S*>(logits.const_data_ptr()),
                     static_cast<const S*>(deltas.const_data_ptr()),
                     reinterpret_cast<const Box<T>*>(data_of<T>(tensors.cells[l])),
                     logits.stride(0),
                     deltas.stride(0),
                     static_cast<int32_t>(logits.size(1)),
                     static_cast<int32_t>(logits.size(2)),
                     static_cast<int32_t>(logits.size(3)),
                     !is_channels_first(logits),
                     !is_channels_first(deltas),
                     {static_cast<T>(args.strides[2 * l + 1]), static_cast<T>(args.strides[2 * l]),
                      static_cast<T>(args.anchor_offset)}};
  }
  return maps;
}

template <typename T, typename S>
void run_proposals(const ProposalArguments& args, ScalarType dtype, Tensor& boxes, Tensor& scores, Tensor& count) {
  const ReadableMaps tensors = readable_maps(args, dtype);
  ProposalMaps<T, S> maps = proposal_maps<T, S>(args, tensors);
  const NumbersOnDevice sizes(args.image_sizes);
  std::optional<NumbersOnDevice> min_sides;
  if (args.min_sizes) min_sides.emplace(*args.min_sizes);
  maps.limits = {sizes.numbers, min_sides ? min_sides->numbers : DeviceNumbers{}, static_cast<T>(args.min_size),
                 maps.coder.extent};

  int64_t room = 0;
  for (int32_t l = 0; l < maps.levels; ++l) {
    room = std::max(room, std::min<int64_t>(maps.level[l].size(), args.pre_nms_top_n));
  }
  const ProposalPlan plan = plan_proposals(maps.images, maps.levels, room);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // of grid.x, and of entries of an image to merge
  FRCNN_CHECK(plan.walk.tiles <= kMost && plan.levels * plan.tiles_per_segment * kTile <= kMost,
              "pre_nms_top_n: expected fewer than 2^31 candidates an image on CUDA, got ", room, " on ", maps.levels,
              " levels of ", maps.images, " images");
  const ProposalRules<T> rules{args.post_nms_top_n, static_cast<T>(args.score_threshold),
                               make_iou_test<T>(args.nms_threshold), args.filter_before_topk};
  const Workspace<ProposalBuffers<T>> workspace(boxes,
                                                [&](const auto& take) { return take_proposal_buffers<T>(plan, take); });
  launch_generate_proposals(StreamLauncher(boxes), maps, plan, rules, workspace.buffers,
                            reinterpret_cast<SortedBox<T>*>(mutable_data_of<T>(boxes)), mutable_data_of<T>(scores),
                            mutable_data_of<int64_t>(count));
}

void generate_proposals_cuda(const ProposalArguments& args, Tensor& boxes, Tensor& scores, Tensor& count) {
  FRCNN_CHECK(args.objectness.size() <= kMostProposalLevels, "objectness: expected at most ", kMostProposalLevels,
              " levels on CUDA, got ", args.objectness.size());
  const DeviceOf guard(boxes);
  dispatch_floating(args.objectness[0].scalar_type(), "objectness", [&]<typename S>() {
    run_proposals<compute_t<S>, device_t<S>>(args, boxes.scalar_type(), boxes, scores, count);
  });
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("generate_proposals", TORCH_BOX(&frcnn::generate_proposals_op<&frcnn::generate_proposals_cuda>));
}
