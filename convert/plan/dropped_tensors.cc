#include "convert/plan/dropped_tensors.h"

#include <cstdint>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace dsv3::convert {

PatternCounts DroppedTensors(const Plan& plan, const Catalog& catalog) {
  std::vector<bool> is_taken(catalog.tensors().size());
  for (const PlannedFile& file : plan.files) {
    for (const PlannedTensor& tensor : file.tensors) {
      const Expression& expression = *tensor.expression;
      for (const std::uint32_t source : expression.streamed_sources()) is_taken[source] = true;
      for (const std::uint32_t side : expression.side_sources()) is_taken[side] = true;
    }
  }
  // Files that share names hold a tensor more than once, such as rank shards.
  std::unordered_set<std::string_view> taken;
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    if (is_taken[i]) taken.insert(catalog.NameInFile(i));
  }
  PatternCounts dropped = plan.not_read;
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    const std::string_view name = catalog.NameInFile(i);
    if (!is_taken[i] && taken.insert(name).second) ++dropped[NamePattern(name)];
  }
  return dropped;
}

}  // namespace dsv3::convert
