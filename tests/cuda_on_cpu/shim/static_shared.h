// Finds the static __shared__ arrays of the running program. Included by runtime.cpp only.
//
// The shim turns __shared__ into `static` with an abi_tag, which ends up in the mangled name; the symbol table then
// knows where each array lies. (A section attribute would be simpler, but g++ ignores it in templates.)
#pragma once

#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

namespace {

struct SharedArray {
  unsigned char* memory;
  std::size_t bytes;
};

std::vector<SharedArray> find_static_shared() {
  constexpr const char* kTag = "B11cuda_shared";
  struct Byte {  // a type of this file only: no code is shared with files compiled with sanitizers
    char value;
  };
  std::ifstream file("/proc/self/exe", std::ios::binary);
  std::vector<Byte> image;
  for (std::istreambuf_iterator<char> it(file), end; it != end; ++it) image.push_back({*it});
  const char* bytes = reinterpret_cast<const char*>(image.data());

  std::uintptr_t base = 0;  // where the program was loaded
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        *static_cast<std::uintptr_t*>(out) = info->dlpi_addr;
        return 1;  // the program itself comes first
      },
      &base);

  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes + header->e_shoff);
  std::vector<SharedArray> arrays;
  bool has_table = false;
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    has_table = true;
    const char* names = bytes + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(bytes + sections[i].sh_offset);
    for (std::size_t s = 0; s < sections[i].sh_size / sizeof(ElfW(Sym)); ++s) {
      const char* name = names + symbols[s].st_name;
      if (std::strncmp(name, "_Z", 2) != 0 || std::strstr(name, kTag) == nullptr || symbols[s].st_size == 0) continue;
      arrays.push_back({reinterpret_cast<unsigned char*>(base + symbols[s].st_value), symbols[s].st_size});
    }
  }
  if (!has_table) {
    std::fprintf(stderr, "cuda_on_cpu: the program was stripped, its __shared__ arrays cannot be found\n");
    std::abort();
  }
  return arrays;
}

}  // namespace
