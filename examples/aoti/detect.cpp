// Runs a detector packaged by AOTInductor, without Python:
//
//   detect fasterrcnn_ops/_cpu.abi3.so detector.pt2 images.pt image_sizes.pt detections.pt
//
// The .pt files are tensors written by torch.save; detections.pt becomes (boxes, labels, scores, count).
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

namespace {

at::Tensor read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  return torch::jit::pickle_load(bytes).toTensor();
}

void write(const char* path, const std::vector<at::Tensor>& tensors) {
  const auto tuple = c10::ivalue::Tuple::create(std::vector<c10::IValue>(tensors.begin(), tensors.end()));
  const std::vector<char> bytes = torch::jit::pickle_save(tuple);
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return std::cerr << "usage: detect LIBRARY PACKAGE IMAGES SIZES OUT\n", 2;
  // The library registers the operators with libtorch when it is loaded; there is nothing to call in it.
  if (dlopen(argv[1], RTLD_NOW) == nullptr) return std::cerr << dlerror() << '\n', 1;
  torch::inductor::AOTIModelPackageLoader detector(argv[2]);
  const std::vector<at::Tensor> found = detector.run({read(argv[3]), read(argv[4])});
  write(argv[5], found);
  std::cout << "found " << found[3].sum().item<int64_t>() << " objects in " << found[3].size(0) << " images\n";
}
