#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/run_plan.h"
#include "convert/recipes/repack.h"
#include "convert/stream/source_files.h"
#include "formats/finding.h"
#include "formats/freed_shard.h"

namespace dsv3::convert {

// The look at scales before a weight is repacked: fills RepackedWeight::found, and proves that no
// bit is lost, reading the codes, too, where the scales alone do not show it. Used by one thread at
// a time.
//
// The first run of a job looks at all weights before it writes anything. A run that continues when
// source files were freed looks at what is still there: what an output file needs that is still to
// be made is.
//
// Both functions throw Error (kBadInput): naming the tensor and the block of the first loss, or the
// tensor, row and column of a scale that is NaN, infinite, negative or zero.
class RepackCheck {
 public:
  // Which bytes the scales of a weight's groups have.
  using ScaleBytes = std::array<bool, 256>;

  // Both outlive the object. `freed` are the files that earlier runs deleted.
  RepackCheck(const Catalog& catalog, const RepackedModel& repacked,
              const std::vector<formats::FreedShard>& freed);

  // Looks at all weights, and warns of scales that were never written.
  SideDigests LookAtAll(bool sha256, const PreflightRun& run, ProgressSink& progress,
                        const StopToken& stop);
  // Looks at those of some weights, by position, and of their partners that were not looked at.
  void LookAt(std::span<const std::size_t> weights, SourceFiles& sources, ProgressSink& progress,
              const StopToken& stop);

 private:
  SideDigests Look(std::span<const std::size_t> weights, bool sha256, SourceFiles& sources,
                   const SideDigests& known, ProgressSink& progress, const StopToken& stop);
  // Whether the tensor, if there is one, lay in a file that was freed.
  bool IsGone(std::uint32_t tensor) const;
  // Whether nothing is left to be made that needs the values of this weight's scales.
  bool IsDone(const RepackedWeight& each) const;
  // Takes a piece of a scale tensor; one thread at a time for each tensor.
  void Take(std::uint32_t tensor, std::span<const std::byte> bytes);

  const Catalog& catalog_;
  const RepackedModel& repacked_;
  std::vector<bool> gone_;                                    // by file
  std::unordered_map<std::uint32_t, std::size_t> weight_of_;  // by scale and tensor scale
  std::vector<ScaleBytes> bytes_;                             // by weight
  std::vector<float> tensor_scales_;
  std::vector<bool> looked_;
  std::optional<formats::Finding> zero_scales_;  // of the last look (CheckScalesOfZeros)
};

}  // namespace dsv3::convert
