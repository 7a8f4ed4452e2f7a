#include "convert/verify/unreadable_tensors.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "convert/model/code_names.h"
#include "convert/model/quantized_form.h"
#include "convert/model/scale_names.h"

namespace dsv3::convert {
namespace {

using formats::Finding;

// The names that may be those of what a finding misses: tensors beside a weight, or the weight.
std::vector<std::string> CounterpartNames(const Finding& finding) {
  std::vector<std::string> names;
  if (finding.kind == "missing-tensor") {
    names = OtherCodeNamesOf(finding.tensor);
    names.push_back(finding.tensor);
  } else if (finding.kind == "missing-scale" || finding.kind == "missing-companion") {
    names = NamesBesideWeight(WeightOfCodes(finding.tensor));
  } else if (finding.kind == "companion-without-codes") {
    const std::string weight = finding.tensor.substr(0, finding.tensor.rfind('.')) + ".weight";
    names = OtherCodeNamesOf(weight);
    names.push_back(weight);
  } else if (finding.kind == "scale-without-weight") {
    if (auto scale = ParseScaleName(finding.tensor)) names.push_back(std::move(scale->weight));
  }
  return names;
}

bool IsBlind(const Finding& finding, const UnreadableTensors& unreadable) {
  const std::vector<std::string> names = CounterpartNames(finding);
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return unreadable.MayHold(name); });
}

}  // namespace

UnreadableTensors::UnreadableTensors(const formats::CheckpointFiles& files) : index_(files.index) {
  for (const formats::ShardFile& shard : files.shards) {
    readable_.push_back(shard.header.file_bytes != 0);
  }
  any_ = std::find(readable_.begin(), readable_.end(), false) != readable_.end();
}

bool UnreadableTensors::MayHold(std::string_view name) const {
  if (!any_) return false;
  if (!index_) return true;
  const std::optional<std::uint32_t> shard = index_->FindShard(name);
  return shard && !readable_[*shard];
}

void RemoveBlindFindings(const UnreadableTensors& unreadable, formats::Findings& findings) {
  if (!unreadable.any()) return;
  std::erase_if(findings, [&](const Finding& finding) { return IsBlind(finding, unreadable); });
}

}  // namespace dsv3::convert
