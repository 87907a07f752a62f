// The merge of sorted lists against a sort of all entries.
#include "shim/testing.h"

#include <algorithm>

#include "candidates/merge_lists.cuh"

namespace {

using namespace cuda_on_cpu;

struct Scene {
  std::int64_t images = 1, room = 5, slots = 8;
  std::int32_t lists = 3;
  std::int64_t key_values = 4;  // few: many ties
  bool ties = false, places = false;
  double filled = 0.7;
};

struct Entry {
  std::uint64_t key;
  std::uint32_t tie;
  std::int32_t list;
  std::int64_t place, at;
};

struct Slots {
  std::int64_t* at;    // [images, slots]
  std::int32_t* list;  // [images, slots]
  std::int64_t* used;  // [images]
  std::int64_t slots;

  void write(std::int64_t image, std::int64_t slot, std::int32_t list_, std::int64_t at_) const {
    at[image * slots + slot] = at_;
    list[image * slots + slot] = list_;
  }
  void pad(std::int64_t image, std::int64_t slot) const { write(image, slot, -1, -1); }
  void write_count(std::int64_t image, std::int64_t count) const { used[image] = count; }
};

template <typename Key>
void check(const Scene& scene) {
  Random random(static_cast<std::uint64_t>(scene.images * 1000 + scene.lists * 10 + scene.room));
  const std::int64_t all = scene.images * scene.lists;
  std::vector<Key> keys(all * scene.room, Key(0));  // what is not used looks like the best of all
  std::vector<std::uint32_t> ties(all * scene.room, 0);
  std::vector<std::int32_t> places(all * scene.room, 0), sizes;
  std::vector<std::int64_t> wanted_at, wanted_used;
  std::vector<std::int32_t> wanted_list;
  for (std::int64_t image = 0; image < scene.images; ++image) {
    std::vector<Entry> entries;
    for (std::int32_t list = 0; list < scene.lists; ++list) {
      const std::int64_t begin = (image * scene.lists + list) * scene.room;
      std::vector<Entry> own;
      for (std::int64_t place = 0; place < scene.room; ++place) {
        if (random.uniform() >= scene.filled) continue;
        const auto key = static_cast<std::uint64_t>(random.integer(1, scene.key_values));
        own.push_back({key, scene.ties ? static_cast<std::uint32_t>(random.integer(0, 3)) : 0, list, 0, 0});
      }
      std::sort(own.begin(), own.end(),
                [](const Entry& a, const Entry& b) { return std::tie(a.key, a.tie) < std::tie(b.key, b.tie); });
      const auto size = static_cast<std::int64_t>(own.size());
      sizes.push_back(static_cast<std::int32_t>(size));
      for (std::int64_t i = 0; i < size; ++i) {
        // With places, the entries stand at the end of the room.
        const std::int64_t place = scene.places ? scene.room - size + i : i;
        places[begin + i] = static_cast<std::int32_t>(place);
        own[i].place = i;
        own[i].at = begin + place;
        keys[own[i].at] = static_cast<Key>(own[i].key);
        ties[own[i].at] = own[i].tie;
      }
      entries.insert(entries.end(), own.begin(), own.end());
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.key, a.tie, a.list, a.place) < std::tie(b.key, b.tie, b.list, b.place);
    });
    entries.resize(std::min<std::size_t>(entries.size(), scene.slots));
    wanted_used.push_back(static_cast<std::int64_t>(entries.size()));
    entries.resize(scene.slots, {0, 0, -1, 0, -1});
    for (const Entry& entry : entries) {
      wanted_at.push_back(entry.at);
      wanted_list.push_back(entry.list);
    }
  }

  const Buffer<Key> keys_in(keys);
  const Buffer<std::uint32_t> ties_in(ties);
  const Buffer<std::int32_t> places_in(places), sizes_in(sizes);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<std::int64_t> at(scene.images * scene.slots), used(scene.images);
    Buffer<std::int32_t> list(scene.images * scene.slots);
    frcnn::launch_merge_lists<Key>(
        launch,
        {keys_in.data(), scene.ties ? ties_in.data() : nullptr, scene.places ? places_in.data() : nullptr,
         sizes_in.data(), scene.images, scene.room, scene.lists},
        scene.slots, Slots{at.data(), list.data(), used.data(), scene.slots});
    return std::tuple{at.values(), list.values(), used.values()};
  });
  expect_same(std::get<0>(got), wanted_at, "at");
  expect_same(std::get<1>(got), wanted_list, "list");
  expect_same(std::get<2>(got), wanted_used, "used");
}

CASE(numbers_of_lists) {
  for (const std::int32_t lists : {1, 2, 3, 5, 31, 32, 33, 80}) {
    check<std::uint32_t>({.slots = 20, .lists = lists});
    check<std::uint64_t>({.slots = 20, .lists = lists, .ties = true, .places = true});
  }
}

CASE(ties_and_places) {
  for (const bool ties : {false, true}) {
    for (const bool places : {false, true}) {
      check<std::uint32_t>({.images = 3, .room = 9, .slots = 12, .ties = ties, .places = places});
      check<std::uint32_t>({.images = 2, .room = 9, .slots = 12, .key_values = 1, .ties = ties, .places = places});
    }
  }
}

// Fewer slots than a list has, more than there are entries, none.
CASE(slots) {
  for (const std::int64_t slots : {0, 1, 4, 15, 100}) check<std::uint32_t>({.images = 2, .slots = slots});
  check<std::uint32_t>({.images = 2, .filled = 1.0});
}

CASE(nothing) {
  check<std::uint32_t>({.images = 0});
  check<std::uint32_t>({.images = 2, .lists = 0});
  check<std::uint32_t>({.images = 2, .room = 0});
  check<std::uint32_t>({.images = 2, .filled = 0.0});
  check<std::uint32_t>({.images = 2, .slots = 0, .lists = 0});
}

}  // namespace
