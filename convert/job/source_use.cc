#include "convert/job/source_use.h"

#include <algorithm>

namespace dsv3::convert {

SourceUse::SourceUse(const ModelTensors& source)
    : catalog_(&source.catalog), stored_(&source.catalog) {
  if (source.derived.empty() || source.derived.front().first != 0) return;
  const DerivedTensors& derived = source.derived.front();
  stored_ = derived.stored;
  origins_ = derived.origins;
  copies_ = derived.copies;
  for (std::uint32_t group = 0; group < copies_.size(); ++group) {
    group_of_.emplace(copies_[group].front(), group);
  }
}

void SourceUse::Add(std::uint32_t stored, std::vector<std::uint32_t>& files) const {
  const std::uint32_t file = stored_->tensors()[stored].extent.file;
  if (file < stored_->files_end()) files.push_back(file);
}

std::vector<std::uint32_t> SourceUse::FilesOf(const PlannedFile& file) const {
  std::vector<std::uint32_t> files;
  const auto add_stored = [&](std::uint32_t stored) {
    const auto group = group_of_.find(stored);
    if (group == group_of_.end()) return Add(stored, files);
    for (const std::uint32_t copy : copies_[group->second]) Add(copy, files);
  };
  const auto add = [&](std::uint32_t tensor) {
    if (stored_ == catalog_) return Add(tensor, files);
    if (tensor >= origins_.size()) return;
    for (const std::uint32_t stored : origins_[tensor]->streamed_sources()) add_stored(stored);
    for (const std::uint32_t stored : origins_[tensor]->side_sources()) add_stored(stored);
  };
  for (const PlannedTensor& tensor : file.tensors) {
    for (const std::uint32_t one : tensor.expression->streamed_sources()) add(one);
    for (const std::uint32_t side : tensor.expression->side_sources()) add(side);
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

std::vector<std::uint32_t> SourceUse::CountNeeds(const Plan& plan) const {
  std::vector<std::uint32_t> needs(files().size(), 0);
  for (const PlannedFile& file : plan.files) {
    for (const std::uint32_t source : FilesOf(file)) ++needs[source];
  }
  return needs;
}

}  // namespace dsv3::convert
