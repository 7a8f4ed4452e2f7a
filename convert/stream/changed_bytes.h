#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "formats/io/file_system.h"

namespace dsv3::convert {

// Makes an empty file for what does not fit in memory. Throws Error (kIo).
using MakeScratch = std::function<std::unique_ptr<formats::ScratchFile>()>;

// Positions and new bytes of a tensor that changed, in the order in which they are added. A bounded
// number is in memory, the others in files without a name. One thread at a time.
class ChangedBytes {
 public:
  static constexpr std::size_t kMostKept = std::size_t{1} << 16;
  // Of one instance, and of ForEach.
  static constexpr std::size_t kMemoryBytes = kMostKept * (2 * sizeof(std::uint32_t) + 1);

  // Files are made when they are needed.
  explicit ChangedBytes(MakeScratch make_scratch) : make_scratch_(std::move(make_scratch)) {}

  // Throws Error (kIo).
  void Add(std::uint32_t position, std::byte value);
  std::uint64_t count() const { return spilled_ + positions_.size(); }
  void Clear();

  // Gives all positions, as u32 in the machine's order, then all bytes, in pieces. Throws Error:
  // kIo; kVerification where a file gave other bytes than it got; and what `take` throws.
  void ForEach(const std::function<void(std::span<const std::byte>)>& take) const;

 private:
  void Spill();

  const MakeScratch make_scratch_;
  std::vector<std::uint32_t> positions_;
  std::vector<std::byte> values_;
  std::uint64_t spilled_ = 0;
  std::unique_ptr<formats::ScratchFile> position_file_;
  std::unique_ptr<formats::ScratchFile> value_file_;
};

}  // namespace dsv3::convert
