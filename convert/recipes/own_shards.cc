#include "convert/recipes/own_shards.h"

#include <unordered_map>
#include <utility>

#include "convert/open/model_files.h"

namespace dsv3::convert {

std::vector<PlannedFile> PlanOwnShards(
    const OpenedModel& model, std::vector<std::string> headers, const IsWanted& is_wanted,
    const std::function<void(std::uint32_t position, PlannedTensor& tensor)>& complete) {
  const Catalog& catalog = model.catalog;
  std::vector<PlannedFile> files;
  std::uint32_t next = 0;
  for (std::uint32_t i = 0; i < headers.size(); ++i) {
    const SourceFile& shard = catalog.files()[i];
    const formats::SafetensorsHeader header = ParseHeader(shard, headers[i]);
    NamedExpressions held;
    std::unordered_map<std::string, std::uint32_t> positions;
    for (; next < catalog.tensors_end() && catalog.tensors()[next].extent.file == i; ++next) {
      std::string name(catalog.NameInFile(next));
      if (is_wanted && !is_wanted(name)) continue;
      positions.emplace(name, next);
      held.emplace_back(std::move(name), OriginOf(model, next));
    }
    if (is_wanted && held.empty()) continue;
    PlannedFile& file = files.emplace_back(
        is_wanted ? PlanFile(shard.name, std::move(held), header.metadata)
                  : PlanFileLike(shard.name, std::move(headers[i]), header, std::move(held)));
    if (!complete) continue;
    for (PlannedTensor& tensor : file.tensors) complete(positions.at(tensor.entry.name), tensor);
  }
  return files;
}

std::vector<std::size_t> PlanSameShards(const Catalog& catalog, std::vector<NamedExpressions> held,
                                        bool write_index, Plan& plan) {
  std::vector<std::size_t> planned(held.size(), 0);
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (held[i].empty()) continue;
    planned[i] = plan.files.size();
    plan.files.push_back(PlanFile(catalog.files()[i].name, std::move(held[i])));
  }
  if (write_index) plan.index = PlanIndex(plan);
  return planned;
}

}  // namespace dsv3::convert
