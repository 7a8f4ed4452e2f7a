#include "convert/layouts/megatron_ranks.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/flatten.h"
#include "convert/layouts/megatron_live_names.h"
#include "convert/layouts/megatron_names.h"
#include "convert/layouts/read_layout.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// A rank's slice of a tensor of the whole model: what `part` takes of a tensor of the rank.
struct Slice {
  TensorPart part;
  formats::Shape shape;
  const MegatronRank* rank = nullptr;
  const StackTensor* tensor = nullptr;
};

// A tensor of the whole model: for each tensor parallel rank its slices, equal to each other.
struct Sliced {
  std::string name;
  std::string_view kind;  // of the ranks, for messages
  std::vector<std::vector<Slice>> ranks;
};

[[noreturn]] void Fail(const std::string& file, const std::string& tensor, std::string message) {
  throw Error(ErrorCode::kBadInput, std::move(message), {file, tensor});
}

// The modules of legacy grouped GEMM keep all experts of a rank in one tensor: weight1 holds the
// elements [experts, hidden, rows of fc1], weight2 [experts, columns of fc2, hidden].
struct GroupedExperts {
  std::string prefix;  // "decoder.layers.3.mlp.experts."
  bool is_first = false;
};

std::optional<GroupedExperts> GroupedExpertsOf(std::string_view name) {
  constexpr std::string_view kFirst = ".mlp.experts.weight1";
  constexpr std::string_view kSecond = ".mlp.experts.weight2";
  if (!name.ends_with(kFirst) && !name.ends_with(kSecond)) return std::nullopt;
  return GroupedExperts{std::string(name.substr(0, name.rfind('.') + 1)), name.ends_with(kFirst)};
}

// Rows [begin, end) of a slice.
TensorPart RowsOf(TensorPart part, std::uint64_t begin, std::uint64_t end) {
  if (part.transposed) {
    part.box.col_end = part.box.col_begin + end;
    part.box.col_begin += begin;
  } else {
    part.box.row_end = part.box.row_begin + end;
    part.box.row_begin += begin;
  }
  return part;
}

class RankReader {
 public:
  RankReader(const ModelConfig& config, const MegatronSizes& sizes,
             const std::vector<MegatronRank>& ranks)
      : config_(config), sizes_(sizes), ranks_(ranks) {}

  RankReading Read() {
    RequireRanks();
    std::uint32_t source = 0;
    for (const MegatronRank& rank : ranks_) {
      for (const StackTensor& tensor : rank.tensors) AddTensor(source++, rank, tensor);
    }
    std::vector<StackTensor> whole;
    std::vector<ComposedTensor> composed;
    for (const Sliced& sliced : sliced_) {
      composed.push_back(Joined(sliced));
      whole.push_back({composed.back().name, composed.back().shape});
    }
    reading_.model = ReadLayout(MegatronNames(), config_, whole);
    for (const auto& [pattern, count] : skipped_) reading_.model.skipped[pattern] += count;
    for (ComposedTensor& tensor : reading_.model.tensors) tensor = Flatten(tensor, composed);
    return std::move(reading_);
  }

 private:
  // Virtual stage and pipeline rank: the layers of the model go through the places in this order.
  using Place = std::tuple<std::uint64_t, std::uint64_t>;
  struct Stage {
    std::uint64_t layers = 0;
    std::uint64_t first_layer = 0;
    std::set<std::uint64_t> tensor_ranks;
    std::set<std::uint64_t> expert_ranks;
  };

  void RequireSizes() const {
    const bool is_any_zero = sizes_.tensor == 0 || sizes_.pipeline == 0 || sizes_.expert == 0 ||
                             sizes_.virtual_stages == 0 || sizes_.expert_tensor == 0;
    if (!is_any_zero && sizes_.tensor <= ranks_.size() &&
        sizes_.tensor % sizes_.expert_tensor == 0) {
      return;
    }
    Fail("", "",
         fmt::format("the checkpoint was saved by {}, which {} cannot be of; copy all mp_rank_* "
                     "folders of one checkpoint",
                     SizesText(),
                     ranks_.size() == 1 ? "1 file" : fmt::format("{} files", ranks_.size())));
  }

  void RequireRanks() {
    RequireSizes();
    std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>> seen;
    for (const MegatronRank& rank : ranks_) {
      if (rank.tensor >= sizes_.tensor || rank.pipeline >= sizes_.pipeline ||
          rank.expert >= sizes_.expert || rank.virtual_stage >= sizes_.virtual_stages) {
        Fail(rank.file, "",
             fmt::format("{}: it is of tensor rank {}, pipeline rank {}, virtual stage {} and "
                         "expert rank {}, but the checkpoint was saved by {}; take all files from "
                         "one checkpoint",
                         rank.file, rank.tensor, rank.pipeline, rank.virtual_stage, rank.expert,
                         SizesText()));
      }
      if (!seen.emplace(rank.pipeline, rank.virtual_stage, rank.tensor, rank.expert).second) {
        Fail(rank.file, "",
             fmt::format("{}: another file is of the same ranks (tensor {}, pipeline {}, expert "
                         "{}); take all files from one checkpoint",
                         rank.file, rank.tensor, rank.pipeline, rank.expert));
      }
      AddTo(stages_[{rank.virtual_stage, rank.pipeline}], rank);
    }
    std::uint64_t layers = 0;  // stages may have different numbers of them
    for (std::uint64_t stage = 0; stage < sizes_.virtual_stages; ++stage) {
      for (std::uint64_t pipeline = 0; pipeline < sizes_.pipeline; ++pipeline) {
        Stage& found = RequireStage(stage, pipeline);
        found.first_layer = layers;
        layers += found.layers;
      }
    }
  }

  void AddTo(Stage& stage, const MegatronRank& rank) const {
    stage.tensor_ranks.insert(rank.tensor);
    stage.expert_ranks.insert(rank.expert);
    for (const StackTensor& tensor : rank.tensors) {
      const auto layer = MegatronLayer(tensor.name);
      if (!layer) continue;
      if (*layer >= config_.num_hidden_layers) {
        Fail(rank.file, tensor.name,
             fmt::format("{}: tensor {} is of layer {} of a pipeline stage, but config.json "
                         "predicts {} layers in all; take the config.json that belongs to this "
                         "checkpoint",
                         rank.file, QuoteForMessage(tensor.name), *layer,
                         config_.num_hidden_layers));
      }
      stage.layers = std::max(stage.layers, *layer + 1);
    }
  }

  // The stage, with a file of each of its ranks.
  Stage& RequireStage(std::uint64_t stage, std::uint64_t pipeline) {
    const std::string where =
        fmt::format("pipeline rank {}{}", pipeline,
                    sizes_.virtual_stages > 1 ? fmt::format(", virtual stage {}", stage) : "");
    const auto fail = [&](const std::string& problem) {
      Fail("", "",
           fmt::format("{}, but the checkpoint was saved by {}; copy the missing mp_rank_* folders",
                       problem, SizesText()));
    };
    const auto found = stages_.find({stage, pipeline});
    if (found == stages_.end()) fail(fmt::format("no file is of {}", where));
    for (std::uint64_t rank = 0; rank < sizes_.tensor; ++rank) {
      if (found->second.tensor_ranks.count(rank) != 0) continue;
      fail(fmt::format("{}: no file holds the slice of tensor parallel rank {} of {}", where, rank,
                       sizes_.tensor));
    }
    for (std::uint64_t rank = 0; rank < sizes_.expert; ++rank) {
      if (found->second.expert_ranks.count(rank) != 0) continue;
      fail(fmt::format("{}: no file holds the experts of expert parallel rank {} of {}", where,
                       rank, sizes_.expert));
    }
    return found->second;
  }

  std::string SizesText() const {
    return fmt::format("{} tensor, {} pipeline, {} expert and {} expert tensor parallel ranks",
                       sizes_.tensor, sizes_.pipeline, sizes_.expert, sizes_.expert_tensor);
  }

  void AddTensor(std::uint32_t source, const MegatronRank& rank, const StackTensor& tensor) {
    if (!IsOfModel(MegatronNames(), tensor.name)) {
      ++skipped_[NamePattern(tensor.name)];
      return;
    }
    if (const auto grouped = GroupedExpertsOf(tensor.name)) {
      AddGrouped(source, rank, tensor, *grouped);
      return;
    }
    const MatrixShape matrix = MatrixOf(tensor.shape);
    AddSlice(tensor.name,
             {{source, matrix, Whole(matrix), false, 0, 0}, tensor.shape, &rank, &tensor});
  }

  std::uint64_t ExpertsOfRank() const { return config_.n_routed_experts / sizes_.expert; }

  void AddGrouped(std::uint32_t source, const MegatronRank& rank, const StackTensor& tensor,
                  const GroupedExperts& grouped) {
    const std::uint64_t experts = ExpertsOfRank();
    const std::size_t cut = grouped.is_first ? 1 : 0;
    if (experts == 0 || tensor.shape.size() != 2 || tensor.shape[cut] % experts != 0) {
      Fail(rank.file, tensor.name,
           fmt::format("{}: tensor {} has shape {}, in which the {} experts that a rank has by "
                       "config.json cannot have equal parts; take the config.json that belongs to "
                       "this checkpoint",
                       rank.file, QuoteForMessage(tensor.name),
                       formats::ShapeToString(tensor.shape), experts));
    }
    const std::uint64_t rows = grouped.is_first ? tensor.shape[0] : tensor.shape[0] / experts;
    const std::uint64_t cols = grouped.is_first ? tensor.shape[1] / experts : tensor.shape[1];
    for (std::uint64_t expert = 0; expert < experts; ++expert) {
      const Box box = {expert * rows, (expert + 1) * rows, 0, cols};
      AddSlice(fmt::format("{}local_experts.{}.linear_fc{}.weight", grouped.prefix, expert,
                           grouped.is_first ? 1 : 2),
               {{source, {experts * rows, cols}, box, true, 0, 0}, {cols, rows}, &rank, &tensor});
    }
  }

  // Adds the slice of a tensor that the rank's modules call `name`.
  void AddSlice(std::string name, Slice slice) {
    const MegatronRank& rank = *slice.rank;
    if (const auto layer = MegatronLayer(name)) {
      const Stage& stage = stages_.at({rank.virtual_stage, rank.pipeline});
      name = WithMegatronLayer(name, stage.first_layer + *layer);
    }
    const std::optional<std::uint64_t> expert = MegatronExpert(name);
    if (expert) {
      const std::uint64_t experts = ExpertsOfRank();
      if (*expert >= experts) {
        Fail(rank.file, slice.tensor->name,
             fmt::format("{}: tensor {} is of expert {}, but {} expert parallel ranks have {} of "
                         "the {} experts that config.json predicts; take the config.json that "
                         "belongs to this checkpoint",
                         rank.file, QuoteForMessage(slice.tensor->name), *expert, sizes_.expert,
                         experts, config_.n_routed_experts));
      }
      name = WithMegatronExpert(name, rank.expert * experts + *expert);
    }
    const auto [position, is_new] = positions_.emplace(name, sliced_.size());
    if (is_new) {
      sliced_.push_back({name, expert ? "expert tensor" : "tensor", {}});
      sliced_.back().ranks.resize(expert ? sizes_.expert_tensor : sizes_.tensor);
    }
    Sliced& sliced = sliced_[position->second];
    sliced.ranks[rank.tensor % sliced.ranks.size()].push_back(std::move(slice));
  }

  // The whole tensor, made of a slice of each rank.
  ComposedTensor Joined(const Sliced& sliced) {
    const Slice* first = nullptr;
    for (std::size_t i = 0; i < sliced.ranks.size(); ++i) {
      for (const Slice& slice : sliced.ranks[i]) {
        if (first == nullptr) first = &slice;
        if (slice.shape != first->shape) {
          Fail(slice.rank->file, slice.tensor->name,
               fmt::format("{}: tensor {} has shape {}, but in {} it has {}; ranks have slices of "
                           "equal shapes, so take all files from one checkpoint",
                           slice.rank->file, QuoteForMessage(slice.tensor->name),
                           formats::ShapeToString(slice.shape), first->rank->file,
                           formats::ShapeToString(first->shape)));
        }
      }
    }
    if (first == nullptr) {
      throw Error(ErrorCode::kInternal, "a tensor of no rank reached the layout",
                  {"", sliced.name});
    }
    const formats::Shape& shape = first->shape;
    const MegatronCut cut = MegatronCutOf(sliced.name, shape, config_);
    if (cut == MegatronCut::kWhole || shape.size() != 2) return Copied(sliced, *first);
    if (cut == MegatronCut::kGateUp && shape[0] % 2 != 0) {
      Fail(first->rank->file, first->tensor->name,
           fmt::format("{}: tensor {} has {} rows, which gate and up cannot have half each; save "
                       "the checkpoint again",
                       first->rank->file, QuoteForMessage(first->tensor->name), shape[0]));
    }
    ComposedTensor whole{sliced.name, shape, {}, {}};
    const std::uint64_t ranks = sliced.ranks.size();
    whole.shape[cut == MegatronCut::kColumns ? 1 : 0] *= ranks;
    whole.matrix = MatrixOf(whole.shape);
    for (std::uint64_t i = 0; i < ranks; ++i) {
      if (sliced.ranks[i].empty()) {
        Fail(
            "", sliced.name,
            fmt::format("tensor {}: no file holds the slice of {} parallel rank {} of {}; copy the "
                        "missing mp_rank_* folders, or save the checkpoint again if none is "
                        "missing",
                        QuoteForMessage(sliced.name), sliced.kind, i, ranks));
      }
      AddCopies(sliced.ranks[i].front(), sliced.ranks[i]);
      AddParts(whole, sliced.ranks[i].front(), cut, i);
    }
    return whole;
  }

  // A tensor that every rank has whole.
  ComposedTensor Copied(const Sliced& sliced, const Slice& first) {
    for (const std::vector<Slice>& slices : sliced.ranks) AddCopies(first, slices);
    return {sliced.name, first.shape, MatrixOf(first.shape), {first.part}};
  }

  void AddCopies(const Slice& first, const std::vector<Slice>& slices) {
    for (const Slice& slice : slices) {
      const std::uint32_t source = slice.part.source;
      // A tensor of several experts is added by each.
      if (source == first.part.source || !copied_.insert(source).second) continue;
      reading_.copies.push_back({first.part.source, source});
    }
  }

  static void AddParts(ComposedTensor& whole, const Slice& slice, MegatronCut cut,
                       std::uint64_t rank) {
    const MatrixShape matrix = MatrixOf(slice.shape);
    const auto add = [&](std::uint64_t begin, std::uint64_t end, std::uint64_t row,
                         std::uint64_t col) {
      TensorPart part = RowsOf(slice.part, begin, end);
      part.row = row;
      part.col = col;
      whole.parts.push_back(part);
    };
    if (cut == MegatronCut::kColumns) return add(0, matrix.rows, 0, rank * matrix.cols);
    if (cut == MegatronCut::kRows) return add(0, matrix.rows, rank * matrix.rows, 0);
    const std::uint64_t half = matrix.rows / 2;
    add(0, half, rank * half, 0);
    add(half, matrix.rows, whole.matrix.rows / 2 + rank * half, 0);
  }

  const ModelConfig& config_;
  const MegatronSizes& sizes_;
  const std::vector<MegatronRank>& ranks_;
  std::map<Place, Stage> stages_;
  std::vector<Sliced> sliced_;
  std::unordered_map<std::string, std::size_t> positions_;  // in sliced_, by name
  std::unordered_set<std::uint32_t> copied_;                // the second tensors of reading_.copies
  PatternCounts skipped_;
  RankReading reading_;
};

}  // namespace

RankReading ReadMegatronRanks(const ModelConfig& config, const MegatronSizes& sizes,
                              const std::vector<MegatronRank>& ranks) {
  return RankReader(config, sizes, ranks).Read();
}

}  // namespace dsv3::convert
