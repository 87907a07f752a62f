// box_iou for one CPU level; no torch. The compiler vectorises it.
//
// One task is one tile: a row of the result, kIouTile columns wide. The columns' boxes are first split into one array
// per coordinate (with the area as a fifth), so that the inner loop reads and writes consecutive numbers and
// vectorises:
//
//   boxes2  x1 y1 x2 y2 | x1 y1 x2 y2 | …      columns  x1 x1 x1 … | y1 y1 … | x2 … | y2 … | area …
#pragma once

#include <cstdint>

#include "box_iou/box_iou_cpu_levels.h"
#include "geometry/pairwise_iou.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// Boxes [begin, end) of boxes2 into the arrays of `columns`.
template <typename T>
void split_iou_columns(const Box<T>* boxes2, int64_t num_boxes2, int64_t begin, int64_t end,
                       T* columns) {  // [kIouColumnArrays, M]
  for (int64_t j = begin; j < end; ++j) {
    columns[j] = boxes2[j].x1;
    columns[j + num_boxes2] = boxes2[j].y1;
    columns[j + 2 * num_boxes2] = boxes2[j].x2;
    columns[j + 3 * num_boxes2] = boxes2[j].y2;
    columns[j + 4 * num_boxes2] = box_area(boxes2[j]);
  }
}

// Tiles [begin, end) of the result, numbered row by row.
template <typename T>
void box_iou_tiles(const Box<T>* boxes1,
                   const T* columns,  // [kIouColumnArrays, M]
                   int64_t num_boxes2, int64_t begin, int64_t end,
                   T* iou) {  // [N, M]
  const int64_t tiles = iou_tiles_per_row(num_boxes2);
  const T* x1 = columns;
  const T* y1 = x1 + num_boxes2;
  const T* x2 = y1 + num_boxes2;
  const T* y2 = x2 + num_boxes2;
  const T* area = y2 + num_boxes2;
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t row = tile / tiles;
    const int64_t first = tile % tiles * kIouTile;
    const int64_t last = first + kIouTile < num_boxes2 ? first + kIouTile : num_boxes2;
    const Box<T> box = boxes1[row];
    const T box_size = box_area(box);
    T* out = iou + row * num_boxes2;
    for (int64_t j = first; j < last; ++j) {
      out[j] = pairwise_iou(box, box_size, Box<T>{x1[j], y1[j], x2[j], y2[j]}, area[j]);
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL
