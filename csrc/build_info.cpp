// What this library was built with, for `python -m fasterrcnn_ops`; setup.py defines the text.
#include "library_export.h"

FRCNN_EXPORT const char* fasterrcnn_ops_build_info() { return FRCNN_BUILD_INFO; }
