#include "formats/checkpoint_check.h"

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/name_table.h"

namespace dsv3::formats {
namespace {

// A tensor name and the position of the shard whose header holds it.
using Placed = std::pair<std::string_view, std::size_t>;

Finding TensorFinding(std::string_view kind, std::string_view file, std::string_view tensor,
                      std::string_view problem) {
  return {.severity = Severity::kError,
          .kind = std::string(kind),
          .file = std::string(file),
          .tensor = std::string(tensor),
          .message = fmt::format("{}: {}", ShownPath(file), problem),
          .unreadable = false};
}

Finding InTwoShards(std::string_view tensor, std::string_view first, std::string_view second) {
  return TensorFinding(
      "tensor-in-two-shards", second, tensor,
      fmt::format("tensor {} is in this shard and in {}; a tensor must be in one shard only, find "
                  "out which of the files does not belong to the checkpoint",
                  QuoteForMessage(tensor), first));
}

std::vector<std::string_view> SortedNames(const SafetensorsHeader& header) {
  std::vector<std::string_view> names;
  names.reserve(header.tensors.size());
  for (const SafetensorsTensor& tensor : header.tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  return names;
}

// How one shard's header and the index differ; both sorted.
struct Difference {
  std::vector<std::string_view> absent;  // listed for the shard, not in it
  std::vector<std::string_view> extra;   // in the shard, not listed for it
};

// Whether the header holds exactly the listed names; neither has a name twice.
bool HoldsExactly(const SafetensorsHeader& header, const std::vector<std::string_view>& listed) {
  if (header.tensors.size() != listed.size()) return false;
  NameTable names(header.tensors.size());
  const auto name_at = [&](std::uint32_t i) -> std::string_view { return header.tensors[i].name; };
  for (std::uint32_t i = 0; i < header.tensors.size(); ++i)
    names.Add(i, HashName(name_at(i)), name_at);
  return std::all_of(listed.begin(), listed.end(), [&](std::string_view name) {
    return names.Find(name, name_at) != NameTable::kNone;
  });
}

// `listed` is sorted.
Difference Compare(const std::vector<std::string_view>& listed, const SafetensorsHeader& header) {
  Difference difference;
  if (HoldsExactly(header, listed)) return difference;
  const std::vector<std::string_view> found = SortedNames(header);
  std::set_difference(listed.begin(), listed.end(), found.begin(), found.end(),
                      std::back_inserter(difference.absent));
  std::set_difference(found.begin(), found.end(), listed.begin(), listed.end(),
                      std::back_inserter(difference.extra));
  return difference;
}

// Adds the findings about tensors that are in a shard that the index does not list for them.
// `extras` is sorted by name and shard; `elsewhere` receives those whose listed shard lacks them.
void JudgeExtras(const ShardIndex& index, const std::vector<ShardToCheck>& shards,
                 const std::vector<Difference>& differences, const std::vector<Placed>& extras,
                 std::vector<Placed>& elsewhere, Findings& findings) {
  const Placed* previous = nullptr;
  for (const Placed& extra : extras) {
    const auto& [tensor, shard] = extra;
    const std::string_view file = shards[shard].name;
    const std::optional<std::uint32_t> listed = index.FindShard(tensor);
    const SafetensorsHeader* const listed_header = listed ? shards[*listed].header : nullptr;
    const bool is_where_listed =
        listed_header != nullptr && !std::binary_search(differences[*listed].absent.begin(),
                                                        differences[*listed].absent.end(), tensor);
    if (is_where_listed) {
      findings.push_back(InTwoShards(tensor, shards[*listed].name, file));
    } else if (previous != nullptr && previous->first == tensor) {
      findings.push_back(InTwoShards(tensor, shards[previous->second].name, file));
    } else if (listed) {
      elsewhere.push_back(extra);
      if (listed_header == nullptr) {
        findings.push_back(TensorFinding(
            "tensor-not-in-shard", shards[*listed].name, tensor,
            fmt::format("the index says that tensor {} is in this shard, which cannot be read, but "
                        "it is in {}; download the index and the shards again",
                        QuoteForMessage(tensor), file)));
      }
    } else {
      findings.push_back(TensorFinding(
          "tensor-not-in-index", file, tensor,
          fmt::format("tensor {} is in this shard, but the index does not list it; the index or "
                      "the shard is from another checkpoint, download both again",
                      QuoteForMessage(tensor))));
    }
    previous = &extra;
  }
}

void CheckTotalSize(const ShardIndex& index, const std::vector<ShardToCheck>& shards,
                    Findings& findings) {
  if (!index.total_size) return;
  std::uint64_t bytes = 0;
  for (const ShardToCheck& shard : shards) {
    if (shard.header == nullptr) return;
    bytes += shard.header->file_bytes - shard.header->data_offset;
  }
  if (bytes == *index.total_size) return;
  findings.push_back(
      {.severity = Severity::kWarning,
       .kind = "wrong-total-size",
       .file = std::string(kShardIndexName),
       .tensor = {},
       .message = fmt::format("{}: metadata.total_size says {}, the tensors have {}; take the "
                              "index and the shards from one place, or correct the figure",
                              kShardIndexName, ExactBytes(*index.total_size), ExactBytes(bytes)),
       .unreadable = false});
}

}  // namespace

Findings CompareWithIndex(const ShardIndex& index, const std::vector<ShardToCheck>& shards) {
  // The names listed for each shard, sorted because weight_map is.
  std::vector<std::vector<std::string_view>> listed(shards.size());
  for (const auto& [name, shard] : index.weight_map) listed[shard].push_back(name);

  std::vector<Difference> differences(shards.size());
  tbb::parallel_for(std::size_t{0}, shards.size(), [&](std::size_t i) {
    if (shards[i].header == nullptr) return;
    differences[i] = Compare(listed[i], *shards[i].header);
  });

  Findings findings;
  std::vector<Placed> extras;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const std::string_view name : differences[i].extra) extras.emplace_back(name, i);
  }
  std::sort(extras.begin(), extras.end());
  std::vector<Placed> elsewhere;
  JudgeExtras(index, shards, differences, extras, elsewhere, findings);
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const std::string_view name : differences[i].absent) {
      const auto other = std::lower_bound(elsewhere.begin(), elsewhere.end(), Placed(name, 0));
      const std::string where = other != elsewhere.end() && other->first == name
                                    ? fmt::format("it is in {}", shards[other->second].name)
                                    : "it is in none";
      findings.push_back(TensorFinding(
          "tensor-not-in-shard", shards[i].name, name,
          fmt::format("the index says that tensor {} is in this shard, but {}; the index or the "
                      "shard is from another checkpoint, download both again",
                      QuoteForMessage(name), where)));
    }
  }
  CheckTotalSize(index, shards, findings);
  return findings;
}

Findings CompareShards(const std::vector<ShardToCheck>& shards) {
  std::vector<Placed> names;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    if (shards[i].header == nullptr) continue;
    for (const SafetensorsTensor& tensor : shards[i].header->tensors) {
      names.emplace_back(tensor.name, i);
    }
  }
  std::sort(names.begin(), names.end());
  Findings findings;
  for (std::size_t i = 1; i < names.size(); ++i) {
    if (names[i - 1].first != names[i].first) continue;
    findings.push_back(InTwoShards(names[i].first, shards[names[i - 1].second].name,
                                   shards[names[i].second].name));
  }
  return findings;
}

std::uint64_t DropSecondCopies(CheckpointFiles& files) {
  std::unordered_map<std::string_view, std::optional<std::size_t>> keepers;
  for (const Finding& finding : files.findings) {
    if (finding.kind == "tensor-in-two-shards") keepers.try_emplace(finding.tensor);
  }
  if (keepers.empty()) return 0;
  for (std::size_t i = 0; i < files.shards.size(); ++i) {
    for (const SafetensorsTensor& tensor : files.shards[i].header.tensors) {
      const auto keeper = keepers.find(tensor.name);
      if (keeper == keepers.end()) continue;
      const bool is_listed = files.index && files.index->FindShard(tensor.name) == i;
      if (is_listed || !keeper->second) keeper->second = i;
    }
  }
  std::uint64_t removed = 0;
  for (std::size_t i = 0; i < files.shards.size(); ++i) {
    removed += std::erase_if(files.shards[i].header.tensors, [&](const SafetensorsTensor& tensor) {
      const auto keeper = keepers.find(tensor.name);
      return keeper != keepers.end() && keeper->second != i;
    });
  }
  return removed;
}

}  // namespace dsv3::formats
