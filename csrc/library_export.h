// Marks the few C functions that Python finds by name (fasterrcnn_ops/_library.py); everything else stays hidden.
#pragma once

#if defined(_WIN32)
#define FRCNN_EXPORT extern "C" __declspec(dllexport)
#else
#define FRCNN_EXPORT extern "C" __attribute__((visibility("default")))
#endif
