// fasterrcnn_ops._numpy: the CPU kernels on NumPy arrays, without torch. Callers use fasterrcnn_ops/numpy.py, which has
// the documentation and makes arrays of whatever came; what is an array is checked here.
#include "cpu_level.h"
#include "numpy_api/functions.h"

PYBIND11_MODULE(_numpy, module) {
  // The checks' errors (checks.h). Anything else is translated by pybind11: bad_alloc to MemoryError, a wrong
  // FASTERRCNN_OPS_CPU_LEVEL to RuntimeError.
  pybind11::register_local_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const frcnn::DtypeError& wrong) {
      PyErr_SetString(PyExc_TypeError, wrong.what());
    } catch (const frcnn::ArgumentError& wrong) {
      PyErr_SetString(PyExc_ValueError, wrong.what());
    }
  });
  module.def("cpu_level", [] { return frcnn::cpu_level_name(frcnn::cpu_level()); });
  frcnn::define_anchors(module);
  frcnn::define_box_coder(module);
  frcnn::define_box_iou(module);
  frcnn::define_nms(module);
  frcnn::define_soft_nms(module);
}
