// Drives the torch-free grid_anchors kernel under AddressSanitizer and UBSan, each result checked by its formula.
#include "anchors/anchors_cpu_kernel.h"
#include "fuzz.h"

namespace {

template <typename T>
bool round_is_right(fuzz::Rng& rng) {
  const int64_t hostility = fuzz::below(rng, 2) ? 0 : fuzz::below(rng, 40);
  const int64_t height = fuzz::below(rng, 9), width = fuzz::below(rng, 9), num_cells = fuzz::below(rng, 6);
  auto cells = fuzz::random_block<T>(rng, 4 * num_cells, hostility);
  const frcnn::AnchorGrid<T> grid{fuzz::value<T>(rng, hostility), fuzz::value<T>(rng, hostility),
                                  fuzz::value<T>(rng, hostility)};
  fuzz::Block<T> anchors(4 * height * width * num_cells);
  fuzz::split(rng, height, [&](int64_t begin, int64_t end) {
    frcnn::FRCNN_CPU_LEVEL::grid_anchors_rows(cells.data.get(), num_cells, width, grid, begin, end, anchors.data.get());
  });

  for (int64_t i = 0; i < anchors.size; ++i) {
    const int64_t corner = i % 4, a = i / 4 % num_cells, x = i / 4 / num_cells % width, y = i / 4 / num_cells / width;
    const T shift = corner % 2 == 0 ? x * grid.stride_x + grid.offset : y * grid.stride_y + grid.offset;
    if (!fuzz::same(anchors[i], cells[4 * a + corner] + shift)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    return round % 2 ? round_is_right<double>(rng) : round_is_right<float>(rng);
  });
}
