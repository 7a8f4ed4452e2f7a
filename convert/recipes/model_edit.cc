#include "convert/recipes/model_edit.h"

#include <cstddef>
#include <filesystem>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/model_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// A shard of the output.
struct EditedFile {
  NamedExpressions tensors;
  std::size_t as_they_were = 0;
};

PlannedFile PlanUnchanged(const SourceFile& shard, const std::string& header,
                          NamedExpressions tensors) {
  PlannedFile planned =
      PlanFileLike(shard.name, header, ParseHeader(shard, header), std::move(tensors));
  // Of rank shards there is no such file.
  if (!shard.path.empty()) {
    std::error_code error;
    // The file itself: a shard of the hub cache is a symbolic link.
    const std::filesystem::path file = std::filesystem::canonical(shard.path, error);
    if (!error) planned.same_bytes_as = file;
  }
  return planned;
}

}  // namespace

ModelEdit BeginEdit(const OpenedModel& model) {
  ModelEdit edit;
  edit.config = model.config_text;
  edit.needs_index = model.needs_index;
  edit.tensors.reserve(model.catalog.tensors_end());
  const auto add = [&](std::uint32_t i) {
    const CatalogTensor& tensor = model.catalog.tensors()[i];
    edit.tensors.push_back(
        {tensor.name, model.catalog.files()[tensor.extent.file].name, Copy(model.catalog, i), i});
  };
  if (model.has_own_shards()) {
    for (std::uint32_t i = 0; i < model.catalog.tensors_end(); ++i) add(i);
  } else {
    for (const std::uint32_t i : model.training.order) add(i);
  }
  return edit;
}

Plan PlanEdit(const OpenedModel& model, ModelEdit& edit, std::uint64_t shard_bytes) {
  if (!model.has_own_shards() && !edit.names_files) {
    NamedExpressions tensors;
    for (EditedTensor& tensor : edit.tensors) {
      tensors.emplace_back(std::move(tensor.name), std::move(tensor.expression));
    }
    Plan plan;
    plan.files = PlanShards(std::move(tensors), shard_bytes);
    if (plan.files.size() > 1) plan.index = PlanIndex(plan);
    return plan;
  }
  const Catalog& catalog = model.catalog;
  std::map<std::string, std::uint32_t> shards;  // of the source, positions in the catalog
  for (std::uint32_t i = 0; i < catalog.files_end(); ++i)
    shards.emplace(catalog.files()[i].name, i);
  std::vector<std::size_t> held(catalog.files_end(), 0);
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    ++held[catalog.tensors()[i].extent.file];
  }
  std::map<std::string, EditedFile> files;
  for (EditedTensor& tensor : edit.tensors) {
    EditedFile& file = files[tensor.file];
    if (tensor.copy_of != Catalog::kNone) {
      const CatalogTensor& source = catalog.tensors()[tensor.copy_of];
      if (source.name == tensor.name && catalog.files()[source.extent.file].name == tensor.file) {
        ++file.as_they_were;
      }
    }
    file.tensors.emplace_back(std::move(tensor.name), std::move(tensor.expression));
  }
  // A shard without tensors has none to lose.
  for (std::uint32_t i = 0; i < catalog.files_end(); ++i) {
    if (held[i] == 0) files[catalog.files()[i].name];
  }
  const ModelFiles texts = ReadModelFiles(model);
  Plan plan;
  for (auto& [name, file] : files) {
    const auto shard = shards.find(name);
    const bool unchanged = shard != shards.end() && file.as_they_were == file.tensors.size() &&
                           file.as_they_were == held[shard->second];
    plan.files.push_back(unchanged
                             ? PlanUnchanged(catalog.files()[shard->second],
                                             texts.headers[shard->second], std::move(file.tensors))
                             : PlanFile(name, std::move(file.tensors)));
  }
  if (edit.needs_index) plan.index = PlanIndex(plan);
  return plan;
}

}  // namespace dsv3::convert
