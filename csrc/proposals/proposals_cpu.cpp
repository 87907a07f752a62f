// generate_proposals on the CPU: checks, layouts, dispatch, exp and sigmoid, registration. The kernel is in
// proposals_cpu_kernel.h.
#include "candidates/limits.h"
#include "candidates/map_layout.h"
#include "candidates/torch_math.h"
#include "proposals/proposals.h"
#include "proposals/proposals_cpu_kernel.h"

namespace frcnn {
namespace {

using proposals_cpu::LevelMaps;
using proposals_cpu::LevelSlots;
using proposals_cpu::Slots;

// The maps of all levels in a layout the kernel reads.
struct Maps {
  std::vector<Tensor> logits, deltas, cells;
};

Maps readable_maps(const ProposalArguments& args, ScalarType dtype) {
  Maps maps;
  for (size_t level = 0; level < args.objectness.size(); ++level) {
    maps.logits.push_back(readable(cast(args.objectness[level], dtype)));
    maps.deltas.push_back(readable(args.deltas[level]));
    maps.cells.push_back(contiguous_as(args.cell_anchors[level], dtype));
  }
  return maps;
}

template <typename T, typename S>
LevelMaps<T, S> level_of(const Maps& maps, const ProposalArguments& args, size_t level, int64_t image) {
  const Tensor& logits = maps.logits[level];
  const Tensor& deltas = maps.deltas[level];
  return {data_of<T>(logits) + image * logits.stride(0),
          data_of<S>(deltas) + image * deltas.stride(0),
          reinterpret_cast<const Box<T>*>(data_of<T>(maps.cells[level])),
          logits.size(1),
          logits.size(2),
          logits.size(3),
          !is_channels_first(logits),
          !is_channels_first(deltas),
          {static_cast<T>(args.strides[2 * level + 1]), static_cast<T>(args.strides[2 * level]),
           static_cast<T>(args.anchor_offset)}};
}

// filter_before_topk: the logits of one level of all images, NaN where the box is not usable; laid out as they were.
template <typename T, typename S>
void mask_small_boxes(const Maps& maps, const ProposalArguments& args, const BoxCoderParams<T>& coder,
                      const std::vector<BoxLimits<T>>& limits, size_t level, const Tensor& masked) {
  const auto batch = static_cast<int64_t>(limits.size());
  const int64_t n = level_of<T, S>(maps, args, level, 0).size();
  Tensor growth = empty_on(masked, {batch, 2 * n}, masked.scalar_type());
  T* growth_data = mutable_data_of<T>(growth);
  T* masked_data = static_cast<T*>(masked.mutable_data_ptr());
  parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      growth_of_level(level_of<T, S>(maps, args, level, image), coder, growth_data + image * 2 * n);
    }
  });
  exp_in_place(growth);
  parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      mask_level(level_of<T, S>(maps, args, level, image), coder, limits[image], growth_data + image * 2 * n,
                 masked_data + image * n);
    }
  });
}

template <typename T, typename S>
void run_proposals(const ProposalArguments& args, ScalarType dtype, Tensor& boxes, Tensor& scores, Tensor& count) {
  const CandidateKernelsOf<T>& kernels = candidate_kernels().of<T>();
  const NmsKernels& nms = nms_kernels();
  const Maps maps = readable_maps(args, dtype);
  const auto coder = coder_params<T>(args.weights, args.inclusive, kDeltaClip);
  const auto levels = static_cast<int64_t>(maps.logits.size());
  const int64_t batch = args.image_sizes.size(0);
  const std::vector<BoxLimits<T>> limits = limits_of_images<T>(
      args.image_sizes, args.min_sizes ? numbers_of(*args.min_sizes) : std::vector<double>(batch, args.min_size),
      args.inclusive);

  std::vector<int64_t> begin(levels + 1, 0);  // of each level's slots
  std::vector<Tensor> masked(levels, maps.logits[0]);
  for (int64_t level = 0; level < levels; ++level) {
    const int64_t n = level_of<T, S>(maps, args, level, 0).size();
    begin[level + 1] = begin[level] + std::min(n, args.pre_nms_top_n);
    if (args.filter_before_topk) {
      masked[level] = empty_on(boxes, {batch, n}, dtype);
      mask_small_boxes<T, S>(maps, args, coder, limits, level, masked[level]);
    }
  }
  const int64_t slots = begin[levels];

  Tensor logits = empty_on(boxes, {batch, slots}, dtype);
  Tensor growth = empty_on(boxes, {2, batch, slots}, dtype);
  const std::unique_ptr<T[]> rest(new T[4 * batch * slots]);
  const int64_t all = batch * slots;
  const Slots<T> columns{mutable_data_of<T>(logits),
                         rest.get(),
                         rest.get() + all,
                         rest.get() + 2 * all,
                         rest.get() + 3 * all,
                         mutable_data_of<T>(growth),
                         mutable_data_of<T>(growth) + all};
  std::vector<LevelSlots> used(batch * levels);
  parallel_for(batch * levels, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t image = task / levels, level = task % levels;
      LevelMaps<T, S> level_maps = level_of<T, S>(maps, args, level, image);
      if (args.filter_before_topk) {
        level_maps.logits = data_of<T>(masked[level]) + image * level_maps.size();
      }
      used[task] = {begin[level], select_level(kernels, level_maps, coder, begin[level + 1] - begin[level],
                                               columns.from(image * slots + begin[level]))};
    }
  });
  exp_in_place(growth);
  sigmoid_rows_in_place(logits);

  T* box_data = mutable_data_of<T>(boxes);
  T* score_data = mutable_data_of<T>(scores);
  int64_t* count_data = mutable_data_of<int64_t>(count);
  parallel_for(batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t image = first; image < last; ++image) {
      const std::vector<LevelSlots> of_image(used.begin() + image * levels, used.begin() + (image + 1) * levels);
      const int64_t capacity = args.post_nms_top_n;
      count_data[image] =
          proposals_cpu::propose(kernels, nms, of_image, columns.from(image * slots), columns.logit + image * slots,
                                 limits[image], static_cast<T>(args.score_threshold), args.nms_threshold,
                                 {box_data + image * capacity * 4, score_data + image * capacity, capacity});
    }
  });
}

void generate_proposals_cpu(const ProposalArguments& args, Tensor& boxes, Tensor& scores, Tensor& count) {
  dispatch_floating(args.objectness[0].scalar_type(), "objectness", [&]<typename S>() {
    run_proposals<compute_t<S>, S>(args, boxes.scalar_type(), boxes, scores, count);
  });
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, library) {
  library.impl("generate_proposals", TORCH_BOX(&frcnn::generate_proposals_op<&frcnn::generate_proposals_cpu>));
}
