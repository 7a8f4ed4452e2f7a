#include "convert/open/missing_tensors.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/layers_held.h"
#include "convert/model/model_check.h"
#include "convert/model/stored_instead.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {

using formats::Finding;
using formats::kConfigName;
using formats::Severity;

std::optional<Finding> FindMissingTensors(const ModelConfig& config, const Catalog& catalog) {
  // Weights whose codes are there in a form that is not known are not missing.
  Finding missing;
  Finding otherwise;
  std::uint64_t num_missing = 0;
  std::uint64_t num_otherwise = 0;
  for (Finding& finding : CheckAgainstModel(config, catalog)) {
    if (finding.kind != "missing-tensor") continue;
    const bool is_there = !UnknownFormIn(finding).empty();
    if ((is_there ? num_otherwise : num_missing)++ == 0) {
      (is_there ? otherwise : missing) = std::move(finding);
    }
  }
  if (num_missing == 0 && num_otherwise == 0) return std::nullopt;
  const bool incomplete = num_missing > 0;
  Finding summary = std::move(incomplete ? missing : otherwise);
  const std::uint64_t count = incomplete ? num_missing : num_otherwise;
  const std::string advice =
      incomplete ? fmt::format("{}`dsv3-verify structure` lists what is missing; download it{}",
                               kIncomplete, FittingValue(config, catalog, summary.tensor))
                 : std::string(UnknownFormIn(summary));
  summary.severity = incomplete ? Severity::kError : Severity::kWarning;
  summary.file = kConfigName;
  summary.message = fmt::format(
      "{}: it predicts {} that no file of the checkpoint holds{}, such as {}{}", kConfigName,
      count == 1 ? std::string("1 tensor") : fmt::format("{} tensors", count),
      incomplete ? "" : " under these names", QuoteForMessage(summary.tensor), advice);
  return summary;
}

}  // namespace dsv3::convert
