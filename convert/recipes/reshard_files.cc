#include "convert/recipes/reshard_files.h"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/layouts/deepseek_names.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// A file before its header is made.
struct FileDraft {
  std::string name;
  std::uint32_t group = 0;
  std::uint32_t series = 0;
  std::vector<std::uint32_t> tensors;  // positions among the rank tensors
};

// Files whose names differ in their part alone.
struct Series {
  std::string stem;
  std::uint64_t bytes = 0;    // in the current group
  std::uint64_t pending = 0;  // of the unit in question
  std::uint32_t parts = 0;
  std::uint32_t draft = UINT32_MAX;  // the latest
};

// What decides the file of a tensor that is stored once.
struct Component {
  std::uint64_t stage = 0;
  std::string_view name;
  std::uint64_t ep_rank = 0;  // of a routed expert
  bool is_cut = false;
  std::uint64_t part = 0;  // of its ways
  // clang-tidy 14 takes the 0 of a default <=> for a pointer.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const Component&, const Component&) = default;
};

constexpr std::string_view kCommon = "common";
constexpr std::string_view kExperts = "experts";

std::string_view ComponentName(ModuleKind kind) {
  switch (kind) {
    case ModuleKind::kEmbedding:
    case ModuleKind::kHead:
      return "embed";
    case ModuleKind::kAttention:
      return "attention";
    case ModuleKind::kDenseMlp:
      return "dense";
    case ModuleKind::kSharedExpert:
      return "shared-expert";
    case ModuleKind::kRoutedExpert:
      return kExperts;
    case ModuleKind::kOther:
      break;
  }
  return kCommon;
}

class FilePlanner {
 public:
  FilePlanner(const SharedModel& shared, const std::vector<RankTensor>& tensors, RankFormat format,
              RankGrouping grouping, std::uint64_t max_shard_bytes)
      : shared_(shared),
        tensors_(tensors),
        format_(format),
        grouping_(grouping),
        max_shard_bytes_(max_shard_bytes) {}

  RankFiles Run() {
    if (grouping_ == RankGrouping::kRank) {
      for (std::uint64_t rank = 0; rank < shared_.topology.world_size(); ++rank) {
        series_.emplace_back().stem = fmt::format("model-rank-{}", rank);
      }
    }
    Fill();
    NameDrafts();
    return MakeFiles();
  }

 private:
  void Fill() {
    for (std::size_t begin = 0; begin < tensors_.size();) {
      std::size_t end = begin;
      while (end < tensors_.size() && tensors_[end].unit == tensors_[begin].unit) ++end;
      BeginGroupFor(begin, end);
      for (std::size_t i = begin; i < end; ++i) {
        ForEachSeries(i, [&](std::uint32_t series) { Put(i, series); });
      }
      begin = end;
    }
  }

  template <typename Visit>
  void ForEachSeries(std::size_t tensor, const Visit& visit) {
    if (grouping_ == RankGrouping::kRank) {
      for (const std::uint32_t rank : tensors_[tensor].ranks) visit(rank);
    } else {
      visit(SeriesOfComponent(tensors_[tensor]));
    }
  }

  // All files begin a new part where one of them would be too long with this unit.
  void BeginGroupFor(std::size_t begin, std::size_t end) {
    bool too_long = false;
    touched_.clear();
    for (std::size_t i = begin; i < end; ++i) {
      const std::uint64_t bytes = tensors_[i].expression->num_bytes();
      ForEachSeries(i, [&](std::uint32_t position) {
        Series& series = series_[position];
        if (series.pending == 0) touched_.push_back(position);
        series.pending += bytes;
        too_long =
            too_long || (series.bytes != 0 && series.bytes + series.pending > max_shard_bytes_);
      });
    }
    if (too_long && format_ != RankFormat::kDeepseek) {
      ++group_;
      for (Series& series : series_) series.bytes = 0;
    }
    for (const std::uint32_t position : touched_) {
      Series& series = series_[position];
      series.bytes += series.pending;
      series.pending = 0;
    }
  }

  void Put(std::size_t tensor, std::uint32_t position) {
    Series& series = series_[position];
    if (series.draft == UINT32_MAX || drafts_[series.draft].group != group_) {
      series.draft = static_cast<std::uint32_t>(drafts_.size());
      FileDraft& draft = drafts_.emplace_back();
      draft.group = group_;
      draft.series = position;
      draft.name = format_ == RankFormat::kDeepseek
                       ? DeepseekFileName(position, shared_.topology.world_size())
                       : fmt::format("{}-part-{}.safetensors", series.stem, series.parts);
      ++series.parts;
    }
    drafts_[series.draft].tensors.push_back(static_cast<std::uint32_t>(tensor));
  }

  std::uint32_t SeriesOfComponent(const RankTensor& tensor) {
    const SlicedTensor& sliced = shared_.slicing.tensors[tensor.parts.front().sliced];
    const Rank first = shared_.topology.RankAt(tensor.ranks.front());
    Component component;
    component.stage = first.stage;
    component.name = ComponentName(sliced.place.kind);
    component.is_cut = sliced.ways > 1;
    component.part = tensor.parts.front().part;
    if (component.name == kExperts) {
      component.ep_rank = first.ep_rank;
    } else if (!component.is_cut) {
      component.name = kCommon;
    }
    const auto [found, is_new] =
        series_of_component_.emplace(component, static_cast<std::uint32_t>(series_.size()));
    if (is_new) series_.emplace_back().stem = StemOf(component);
    return found->second;
  }

  std::string StemOf(const Component& component) const {
    std::string stem = "model";
    if (shared_.topology.pp > 1) stem += fmt::format("-stage-{}", component.stage);
    stem += fmt::format("-{}", component.name);
    if (component.name == kExperts) stem += fmt::format("-ep-{}", component.ep_rank);
    if (component.is_cut) stem += fmt::format("-tp-{}", component.part);
    return stem;
  }

  void NameDrafts() {
    std::sort(drafts_.begin(), drafts_.end(),
              [](const FileDraft& a, const FileDraft& b) { return a.name < b.name; });
  }

  RankFiles MakeFiles() {
    RankFiles made;
    made.files_of_rank.resize(shared_.topology.world_size());
    for (std::uint32_t file = 0; file < drafts_.size(); ++file) {
      if (grouping_ == RankGrouping::kRank) {
        made.files_of_rank[drafts_[file].series].push_back(file);
      } else {
        AddToRanks(file, made.files_of_rank);
      }
    }
    for (std::size_t rank = 0; rank < made.files_of_rank.size(); ++rank) {
      if (!made.files_of_rank[rank].empty()) continue;
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("rank {} would hold no tensor; ask for fewer ranks or stages, or give "
                      "keys that every rank has",
                      rank));
    }
    made.files.resize(drafts_.size());
    const formats::SafetensorsMetadata none;
    tbb::parallel_for(std::size_t{0}, drafts_.size(), [&](std::size_t i) {
      FileDraft& draft = drafts_[i];
      NamedExpressions expressions;
      expressions.reserve(draft.tensors.size());
      for (const std::uint32_t tensor : draft.tensors) {
        expressions.emplace_back(tensors_[tensor].name, tensors_[tensor].expression);
      }
      made.files[i] = PlanFile(std::move(draft.name), std::move(expressions),
                               format_ == RankFormat::kDeepseek ? none : PtMetadata());
      made.files[i].group = draft.group;
    });
    return made;
  }

  // Files of a rank are visited in ascending order.
  void AddToRanks(std::uint32_t file,
                  std::vector<std::vector<std::uint32_t>>& files_of_rank) const {
    for (const std::uint32_t tensor : drafts_[file].tensors) {
      for (const std::uint32_t rank : tensors_[tensor].ranks) {
        std::vector<std::uint32_t>& files = files_of_rank[rank];
        if (files.empty() || files.back() != file) files.push_back(file);
      }
    }
  }

  const SharedModel& shared_;
  const std::vector<RankTensor>& tensors_;
  const RankFormat format_;
  const RankGrouping grouping_;
  const std::uint64_t max_shard_bytes_;
  std::uint32_t group_ = 0;
  std::vector<Series> series_;
  std::map<Component, std::uint32_t> series_of_component_;
  std::vector<std::uint32_t> touched_;  // by the unit in question, positions in series_
  std::vector<FileDraft> drafts_;
};

}  // namespace

RankFiles PlanRankFiles(const SharedModel& shared, const std::vector<RankTensor>& tensors,
                        RankFormat format, RankGrouping grouping, std::uint64_t max_shard_bytes) {
  return FilePlanner(shared, tensors, format, grouping, max_shard_bytes).Run();
}

}  // namespace dsv3::convert
