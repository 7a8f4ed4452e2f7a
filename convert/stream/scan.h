#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/plan/expression.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// Bytes [begin, begin + bytes.size()) of a source tensor.
struct ScanPiece {
  std::uint32_t tensor = 0;  // position in the catalog
  std::uint64_t begin = 0;
  std::span<const std::byte> bytes;
  // The bytes of the ranges that ScanOptions::side named.
  std::span<const std::span<const std::byte>> side;
};

// The largest cut that a scan makes: a place at or before `position` where a piece of this tensor
// may end, and so the next begin; 0 is always one. By default any element is one. A scan that works
// on panels of rows returns the panel's start; panels longer than a piece make longer pieces.
// Called with 0 < position < the tensor's length.
using ScanCut = std::function<std::uint64_t(std::uint32_t tensor, std::uint64_t position)>;

// Appends the ranges that are read together with bytes [begin, end) of a tensor: the scales that
// belong to them.
using ScanSide = std::function<void(std::uint32_t tensor, std::uint64_t begin, std::uint64_t end,
                                    std::vector<SourceRange>& reads)>;

struct ScanOptions {
  unsigned threads = 1;            // compute threads, at least 1; those that wait for the disk come
                                   // on top
  std::uint64_t memory_bytes = 0;  // bound for all pieces together; 0: kDefaultMemoryBytes. What
                                   // `side` names comes on top
  std::string_view phase;          // passed to ProgressSink::OnPhase, with the bytes to read
  ScanSide side;                   // may be empty
  bool in_order = false;           // whether a tensor's pieces are visited one after the other
};

// Reads every byte of the tensors once, in the order of the disk, and calls `visit` for each piece,
// from several threads at once; pieces of one tensor may come in any order unless the options say
// otherwise, an empty tensor has none. Small tensors that lie together are read together. `cut` may
// be empty. Throws the first error of any thread, kInterrupted when `stop` was requested before all
// was visited.
void ScanTensors(const Catalog& catalog, std::span<const std::uint32_t> tensors,
                 SourceFiles& sources, const ScanOptions& options, const ScanCut& cut,
                 const std::function<void(const ScanPiece&)>& visit, ProgressSink& progress,
                 const StopToken& stop);

}  // namespace dsv3::convert
