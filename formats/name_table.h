#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace dsv3::formats {

// Hash of a name, with a seed that differs from process to process: a file cannot be made so that
// its names collide.
std::uint32_t HashName(std::string_view name);

// Finds positions by name: a hash table with open addressing over names that the caller holds.
// `name_at(position)` gives the name at a position; it must give the same in every call.
class NameTable {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  // For at most `max_names` names.
  explicit NameTable(std::size_t max_names) : slots_(std::bit_ceil(2 * max_names + 1)) {}

  // Adds the position of a new name and returns kNone, or returns that of an equal name which is
  // there already. `hash` is HashName of the name.
  template <typename NameAt>
  std::uint32_t Add(std::uint32_t position, std::uint32_t hash, const NameAt& name_at) {
    const std::string_view name = name_at(position);
    Slot& slot = slots_[Place(name, hash, name_at)];
    if (slot.position != kNone) return slot.position;
    slot = {hash, position};
    return kNone;
  }

  // The position of `name`, or kNone.
  template <typename NameAt>
  std::uint32_t Find(std::string_view name, const NameAt& name_at) const {
    return slots_[Place(name, HashName(name), name_at)].position;
  }

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::uint32_t position = kNone;
  };

  // The slot of `name`, or the free one where it belongs. At most half of them are taken.
  template <typename NameAt>
  std::size_t Place(std::string_view name, std::uint32_t hash, const NameAt& name_at) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t place = hash & mask;
    while (slots_[place].position != kNone &&
           (slots_[place].hash != hash || name_at(slots_[place].position) != name)) {
      place = (place + 1) & mask;
    }
    return place;
  }

  std::vector<Slot> slots_;
};

}  // namespace dsv3::formats
