#include "convert/open/assembled_model.h"

#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "convert/plan/plan.h"

namespace dsv3::convert {

std::vector<PlannedFile> PlanShards(NamedExpressions&& tensors, std::uint64_t shard_bytes) {
  std::vector<NamedExpressions> shards(1);
  std::uint64_t bytes = 0;
  for (auto& [name, expression] : tensors) {
    const std::uint64_t more = expression->num_bytes();
    if (bytes > 0 && bytes + more > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().emplace_back(std::move(name), std::move(expression));
  }
  std::vector<PlannedFile> files;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    std::string name = shards.size() == 1
                           ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    files.push_back(PlanFile(std::move(name), std::move(shards[i])));
  }
  return files;
}

Catalog MakeShards(NamedExpressions&& tensors, std::uint64_t shard_bytes,
                   AssembledModel& assembled) {
  Plan plan;
  plan.files = PlanShards(std::move(tensors), shard_bytes);
  if (plan.files.size() > 1) assembled.index = PlanIndex(plan);
  for (const PlannedFile& planned : plan.files) {
    assembled.headers.push_back(FileHeader(planned));
    for (const PlannedTensor& tensor : planned.tensors) {
      assembled.origins.push_back(tensor.expression);
    }
  }
  const Catalog catalog = CatalogOf(plan);
  std::vector<SourceFile> shards = catalog.files();
  for (SourceFile& shard : shards) shard.header_digest.clear();
  return Catalog(std::move(shards), catalog.tensors());
}

bool IsMadeUp(const SourceFile& shard) { return shard.path.empty() && shard.header_digest.empty(); }

}  // namespace dsv3::convert
