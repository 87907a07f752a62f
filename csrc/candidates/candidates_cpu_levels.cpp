// The kernels of generate_proposals and select_detections for one CPU level; compiled once for each.
#include "candidates/candidates_cpu_levels.h"

#include "candidates/candidates_cpu_scan.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const CandidateKernels candidate_kernels = {
    {group_maxima<float>, positions_of<float>, decode<float>},
    {group_maxima<double>, positions_of<double>, decode<double>},
};

}  // namespace frcnn::FRCNN_CPU_LEVEL
