// Drives the torch-free soft-NMS kernel under AddressSanitizer and UBSan: random and hostile inputs in exactly sized
// heap blocks, every result checked against a direct form that selects, lowers and drops one box after the other.
#include <algorithm>
#include <cmath>
#include <vector>

#include "fuzz.h"
#include "soft_nms/soft_nms_cpu_kernel.h"
#include "soft_nms/soft_nms_cpu_levels.cpp"  // the level this program is compiled for

namespace {

using namespace fuzz;

template <typename T>
struct Scene {
  Block<T> boxes, scores;
  int64_t n;
  T threshold, sigma, min_score;
  int64_t method, max_output;
};

template <typename T>
Scene<T> random_scene(Rng& rng) {
  const int64_t n = below(rng, 4) ? below(rng, 40) : below(rng, 250);
  const int64_t hostility = below(rng, 2) ? 0 : below(rng, 30);
  Scene<T> scene{random_block<T>(rng, 4 * n, 0), random_block<T>(rng, n, hostility), n, 0, 0, 0, 0, 0};
  const int64_t reach = 1 + below(rng, 30);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < 4; ++k) {
      T& corner = scene.boxes[4 * i + k];
      corner = static_cast<T>(below(rng, reach) + (k >= 2 ? 4 + below(rng, 6) : 0));
      if (below(rng, 100) < hostility) corner = hostile_value<T>(rng);
    }
    if (std::isfinite(scene.scores[i])) scene.scores[i] = std::abs(scene.scores[i]) / T(64);
    if (below(rng, 20) == 0) scene.scores[i] = -scene.scores[i];
  }
  const double thresholds[] = {0.3, 0.5, 0.7, 1.0 / 3, 0.0, 1.0, -0.25, 1.5};
  const double sigmas[] = {0.5, 0.1, 2.0, 1e-4, 1e30};
  const double least[] = {1e-3, 0.05, 0.3, 0.0, -1.0};
  scene.threshold = static_cast<T>(below(rng, 8) ? thresholds[below(rng, 8)] : hostile_value<double>(rng));
  scene.sigma = static_cast<T>(sigmas[below(rng, 5)]);
  scene.min_score = static_cast<T>(below(rng, 8) ? least[below(rng, 5)] : hostile_value<double>(rng));
  scene.method = below(rng, 3);
  scene.max_output = below(rng, 2) ? n : below(rng, n + 5);
  return scene;
}

template <typename T>
bool comes_before(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
  return a > b;
}

template <typename T>
T weight(const Scene<T>& scene, const T* a, const T* b) {
  const T w = std::max(T(0), std::min(a[2], b[2]) - std::max(a[0], b[0]));
  const T h = std::max(T(0), std::min(a[3], b[3]) - std::max(a[1], b[1]));
  const T iou = w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h);
  if (scene.method == 2) return std::isnan(iou) ? T(1) : static_cast<T>(std::exp(double(-(iou * iou) / scene.sigma)));
  if (!(iou >= scene.threshold)) return T(1);
  return scene.method == 1 ? T(1) - iou : T(0);
}

// Selected indices and their scores.
template <typename T>
std::pair<std::vector<int64_t>, std::vector<T>> textbook(const Scene<T>& scene) {
  std::vector<T> scores(scene.scores.get(), scene.scores.get() + scene.n);
  std::vector<char> remains(scene.n, 1);
  std::vector<int64_t> keep;
  std::vector<T> kept;
  while (static_cast<int64_t>(keep.size()) < scene.max_output) {
    int64_t best = -1;
    for (int64_t i = 0; i < scene.n; ++i) {
      if (remains[i] && (best < 0 || comes_before(scores[i], scores[best]))) best = i;
    }
    if (best < 0) break;
    keep.push_back(best);
    kept.push_back(scores[best]);
    remains[best] = 0;
    for (int64_t i = 0; i < scene.n; ++i) {
      if (!remains[i]) continue;
      scores[i] *= weight(scene, scene.boxes.get() + 4 * best, scene.boxes.get() + 4 * i);
      if (scores[i] < scene.min_score) remains[i] = 0;
    }
  }
  return {keep, kept};
}

template <typename T>
bool round_is_right(Rng& rng) {
  const Scene<T> scene = random_scene<T>(rng);
  const auto [keep, kept] = textbook(scene);
  const int64_t room = std::min(scene.n, scene.max_output);
  Block<int64_t> found(room);
  Block<T> found_scores(room);
  const int64_t count = frcnn::soft_nms(frcnn::FRCNN_CPU_LEVEL::soft_nms_kernels, scene.boxes.get(), scene.scores.get(),
                                        scene.n, double(scene.threshold), double(scene.sigma), double(scene.min_score),
                                        scene.method, scene.max_output, found.get(), found_scores.get());
  // Exponentials in float64 may differ from the library's in the last place, and so swap scores that all but tie.
  if (scene.method == 2 && sizeof(T) == 8) return count >= 0 && (count == 0 || found[0] == keep[0]);
  if (std::vector<int64_t>(found.get(), found.get() + count) != keep) return false;
  return std::equal(kept.begin(), kept.end(), found_scores.get(), [](T a, T b) { return same(a, b); });
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv, [](Rng& rng, long round) {
    return round % 3 != 0 ? round_is_right<float>(rng) : round_is_right<double>(rng);
  });
}
