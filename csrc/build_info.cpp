// What this library was built with, for `python -m fasterrcnn_ops`; setup.py defines the text.
#if defined(_WIN32)
#define FRCNN_EXPORT extern "C" __declspec(dllexport)
#else
#define FRCNN_EXPORT extern "C" __attribute__((visibility("default")))
#endif

FRCNN_EXPORT const char* fasterrcnn_ops_build_info() { return FRCNN_BUILD_INFO; }
