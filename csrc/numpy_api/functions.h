// The functions of the module; each file defines those of one room.
#pragma once

#include "numpy_api/array.h"

namespace frcnn {

void define_anchors(py::module_& module);
void define_box_coder(py::module_& module);
void define_box_iou(py::module_& module);
void define_nms(py::module_& module);
void define_soft_nms(py::module_& module);

}  // namespace frcnn
