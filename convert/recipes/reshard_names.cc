#include "convert/recipes/reshard_names.h"

#include "formats/error.h"

namespace dsv3::convert {
namespace {

[[noreturn]] void FailUnknown() {
  throw Error(ErrorCode::kInternal, "an option has a value that there is not");
}

}  // namespace

std::string_view FormatName(RankFormat format) {
  switch (format) {
    case RankFormat::kHfRank:
      return "hf-rank";
    case RankFormat::kDeepseek:
      return "deepseek";
    case RankFormat::kKeys:
      return "keys";
  }
  FailUnknown();
}

std::string_view GroupingName(RankGrouping grouping) {
  switch (grouping) {
    case RankGrouping::kRank:
      return "rank";
    case RankGrouping::kComponent:
      return "component";
  }
  FailUnknown();
}

std::string_view OnMisalignedName(OnMisaligned misaligned) {
  switch (misaligned) {
    case OnMisaligned::kError:
      return "error";
    case OnMisaligned::kReplicateModule:
      return "replicate-module";
    case OnMisaligned::kSubblock:
      return "subblock";
    case OnMisaligned::kBF16:
      return "bf16";
  }
  FailUnknown();
}

std::string_view PlacementName(PlacementKind kind) {
  switch (kind) {
    case PlacementKind::kContiguous:
      return "contiguous";
    case PlacementKind::kRoundRobin:
      return "round-robin";
    case PlacementKind::kFile:
      return "file";
  }
  FailUnknown();
}

}  // namespace dsv3::convert
