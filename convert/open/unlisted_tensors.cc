#include "convert/open/unlisted_tensors.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/model_check.h"
#include "convert/model/stored_instead.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

using formats::CheckpointFiles;
using formats::Finding;
using formats::Findings;

void AddTensorsOf(const formats::ShardFile& file, UnlistedTensors& unlisted) {
  for (const formats::SafetensorsTensor& tensor : file.header.tensors) {
    unlisted.files.emplace(tensor.name, file.name);
  }
}

// Of the files in subdirectories. One that cannot be read holds nothing.
void AddTensorsBelow(const CheckpointFiles& files, UnlistedTensors& unlisted) {
  std::set<std::string_view> shards;
  for (const formats::ShardFile& shard : files.shards) shards.insert(shard.name);
  for (const std::string& name : formats::ListCheckpoint(files.directory, true).safetensors) {
    if (name.find('/') == std::string::npos || shards.count(name) != 0) continue;
    formats::ShardFile file;
    file.name = name;
    file.path = files.directory / name;
    try {
      file.header = formats::ReadSafetensorsHeader(formats::InputFile(file.path, name));
    } catch (const Error&) {
      continue;
    }
    AddTensorsOf(file, unlisted);
  }
}

std::uint64_t CountOf(const UnlistedTensors& unlisted, std::string_view file) {
  return static_cast<std::uint64_t>(
      std::count_if(unlisted.files.begin(), unlisted.files.end(),
                    [&](const auto& tensor) { return tensor.second == file; }));
}

// "model-00001-of-00002 (1).safetensors" of "model-00001-of-00002.safetensors".
bool IsCopyOf(std::string_view file, std::string_view shard) {
  return file.find(shard.substr(0, shard.rfind('.'))) != std::string_view::npos;
}

}  // namespace

UnlistedTensors FindUnlistedTensors(const formats::CheckpointFiles& files) {
  UnlistedTensors unlisted;
  unlisted.has_index = files.index.has_value();
  for (const formats::ShardFile& file : files.unlisted) AddTensorsOf(file, unlisted);
  AddTensorsBelow(files, unlisted);
  return unlisted;
}

void NameUnlistedHolders(const UnlistedTensors& unlisted, formats::Findings& findings) {
  for (Finding& finding : findings) {
    if (finding.kind != "missing-tensor") continue;
    const auto holder = unlisted.files.find(finding.tensor);
    if (holder == unlisted.files.end()) continue;
    // What lies there is neither to be downloaded nor left out on purpose.
    const std::string_view advice = finding.file.empty() ? kNoFileHoldsIt : kIncomplete;
    const std::size_t end = finding.message.rfind(advice);
    if (end != std::string::npos) finding.message.resize(end);
    finding.message += fmt::format(
        "; {} holds {} and lies beside the checkpoint, {}: use an index that lists all files",
        formats::ShownPath(holder->second),
        finding.file.empty() ? "it" : QuoteForMessage(finding.tensor),
        unlisted.has_index ? "but the index does not list that file"
                           : "but does not belong to it without an index");
  }
}

void NameUnlistedHolders(const formats::CheckpointFiles& files, formats::Findings& findings) {
  const UnlistedTensors unlisted = FindUnlistedTensors(files);
  if (unlisted.files.empty()) return;
  NameUnlistedHolders(unlisted, findings);
  for (Finding& finding : findings) {
    if (finding.kind != "missing-shard" || !files.index) continue;
    const formats::ShardIndex& index = *files.index;
    const auto shard = std::lower_bound(index.files.begin(), index.files.end(), finding.file);
    if (shard == index.files.end() || *shard != finding.file) continue;
    const auto position = static_cast<std::uint32_t>(shard - index.files.begin());
    std::uint64_t listed = 0;
    std::uint64_t held = 0;
    std::set<std::string_view> holders;
    for (const auto& [tensor, of] : index.weight_map) {
      if (of != position) continue;
      ++listed;
      const auto holder = unlisted.files.find(tensor);
      if (holder == unlisted.files.end()) continue;
      ++held;
      holders.insert(holder->second);
    }
    if (held == 0) continue;
    // Nothing is to be downloaded where all of it is there.
    constexpr std::string_view kDownload = "; download the file again";
    if (!finding.message.ends_with(kDownload)) continue;
    const bool all = held == listed;
    if (all) finding.message.resize(finding.message.size() - kDownload.size());
    const std::string_view holder = *holders.begin();
    if (all && CountOf(unlisted, holder) == listed && IsCopyOf(holder, finding.file)) {
      finding.message +=
          fmt::format("; {} holds just what the index lists for it: give it this name",
                      formats::ShownPath(std::string(holder)));
      continue;
    }
    finding.message += fmt::format(
        "; {}the index is of another division into files: {} of the {} tensors that it lists for "
        "this shard are in files that it does not list, such as {}; if those files are the whole "
        "checkpoint, take the index that belongs to them, or move this one away",
        all ? "" : "or ", held, listed, holder);
  }
}

}  // namespace dsv3::convert
