#include "convert/layouts/megatron_ranks.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/flatten.h"
#include "convert/layouts/megatron_live_names.h"
#include "convert/layouts/megatron_names.h"
#include "convert/layouts/read_layout.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// A rank's slice of a tensor of the whole model.
struct Slice {
  std::uint32_t source = 0;
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

class RankReader {
 public:
  RankReader(const ModelConfig& config, const MegatronSizes& sizes,
             const std::vector<MegatronRank>& ranks)
      : config_(config), sizes_(sizes), ranks_(ranks) {}

  RankReading Read() {
    RequireRanks();
    std::uint32_t source = 0;
    for (const MegatronRank& rank : ranks_) {
      for (const StackTensor& tensor : rank.tensors) AddSlice(source++, rank, tensor);
    }
    std::vector<StackTensor> whole;
    std::vector<ComposedTensor> composed;
    for (const Sliced& sliced : sliced_) {
      composed.push_back(Joined(sliced));
      whole.push_back({composed.back().name, composed.back().shape});
    }
    reading_.model = ReadLayout(MegatronNames(), config_, whole);
    reading_.model.skipped += skipped_;
    for (ComposedTensor& tensor : reading_.model.tensors) tensor = Flatten(tensor, composed);
    return std::move(reading_);
  }

 private:
  using Place = std::tuple<std::uint64_t, std::uint64_t>;  // pipeline, virtual stage

  void RequireSizes() const {
    const bool is_any_zero = sizes_.tensor == 0 || sizes_.pipeline == 0 || sizes_.expert == 0 ||
                             sizes_.virtual_stages == 0 || sizes_.expert_tensor == 0;
    if (!is_any_zero && sizes_.tensor <= ranks_.size() && sizes_.expert_tensor <= sizes_.tensor) {
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
      std::uint64_t& layers = layers_[{rank.pipeline, rank.virtual_stage}];
      for (const StackTensor& tensor : rank.tensors) {
        if (const auto layer = MegatronLayer(tensor.name)) layers = std::max(layers, *layer + 1);
      }
    }
    for (std::uint64_t pipeline = 0; pipeline < sizes_.pipeline; ++pipeline) {
      for (std::uint64_t stage = 0; stage < sizes_.virtual_stages; ++stage) {
        if (layers_.count({pipeline, stage}) != 0) continue;
        Fail("", "",
             fmt::format("no file is of pipeline rank {}{}, but the checkpoint was saved by {}; "
                         "copy the missing mp_rank_* folders",
                         pipeline,
                         sizes_.virtual_stages > 1 ? fmt::format(", virtual stage {}", stage) : "",
                         SizesText()));
      }
    }
  }

  std::string SizesText() const {
    return fmt::format("{} tensor, {} pipeline, {} expert and {} expert tensor parallel ranks",
                       sizes_.tensor, sizes_.pipeline, sizes_.expert, sizes_.expert_tensor);
  }

  // The number of the first layer of a rank.
  std::uint64_t FirstLayer(const MegatronRank& rank) const {
    if (sizes_.virtual_stages > 1) {
      const std::uint64_t stages = sizes_.virtual_stages;
      return rank.virtual_stage * (config_.num_hidden_layers / stages) +
             rank.pipeline * (config_.num_hidden_layers / (sizes_.pipeline * stages));
    }
    std::uint64_t layers = 0;  // stages may have different numbers of layers
    for (std::uint64_t i = 0; i < rank.pipeline; ++i) layers += layers_.at({i, 0});
    return layers;
  }

  void AddSlice(std::uint32_t source, const MegatronRank& rank, const StackTensor& tensor) {
    if (!IsOfModel(MegatronNames(), tensor.name)) {
      ++skipped_;
      return;
    }
    std::string name = tensor.name;
    if (const auto layer = MegatronLayer(name)) {
      name = WithMegatronLayer(name, FirstLayer(rank) + *layer);
    }
    const std::optional<std::uint64_t> expert = MegatronExpert(name);
    if (expert) {
      const std::uint64_t experts = config_.n_routed_experts / sizes_.expert;
      if (*expert >= experts) {
        Fail(rank.file, tensor.name,
             fmt::format("{}: tensor {} is of expert {}, but {} expert parallel ranks have {} of "
                         "the {} experts that config.json predicts; take the config.json that "
                         "belongs to this checkpoint",
                         rank.file, QuoteForMessage(tensor.name), *expert, sizes_.expert, experts,
                         config_.n_routed_experts));
      }
      name = WithMegatronExpert(name, rank.expert * experts + *expert);
    }
    const auto [position, is_new] = positions_.emplace(name, sliced_.size());
    if (is_new) {
      sliced_.push_back({name, expert ? "expert tensor" : "tensor", {}});
      sliced_.back().ranks.resize(expert ? sizes_.expert_tensor : sizes_.tensor);
    }
    Sliced& sliced = sliced_[position->second];
    std::vector<Slice>& slices = sliced.ranks[rank.tensor % sliced.ranks.size()];
    slices.push_back({source, &rank, &tensor});
  }

  // The whole tensor, made of a slice of each rank.
  ComposedTensor Joined(const Sliced& sliced) {
    const Slice* first = nullptr;
    for (std::size_t i = 0; i < sliced.ranks.size(); ++i) {
      for (const Slice& slice : sliced.ranks[i]) {
        if (first == nullptr) first = &slice;
        if (slice.tensor->shape != first->tensor->shape) {
          Fail(slice.rank->file, slice.tensor->name,
               fmt::format("{}: tensor {} has shape {}, but in {} it has {}; ranks have slices of "
                           "equal shapes, so take all files from one checkpoint",
                           slice.rank->file, QuoteForMessage(slice.tensor->name),
                           formats::ShapeToString(slice.tensor->shape), first->rank->file,
                           formats::ShapeToString(first->tensor->shape)));
        }
      }
    }
    if (first == nullptr) {
      throw Error(ErrorCode::kInternal, "a tensor of no rank reached the layout",
                  {"", sliced.name});
    }
    const formats::Shape& shape = first->tensor->shape;
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
                        "missing mp_rank_* folders",
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
    const formats::Shape& shape = first.tensor->shape;
    const MatrixShape matrix = MatrixOf(shape);
    return {sliced.name, shape, matrix, {{first.source, matrix, Whole(matrix), false, 0, 0}}};
  }

  void AddCopies(const Slice& first, const std::vector<Slice>& slices) {
    for (const Slice& slice : slices) {
      if (slice.source != first.source) reading_.copies.push_back({first.source, slice.source});
    }
  }

  static void AddParts(ComposedTensor& whole, const Slice& slice, MegatronCut cut,
                       std::uint64_t rank) {
    const MatrixShape matrix = MatrixOf(slice.tensor->shape);
    const auto add = [&](std::uint64_t begin, std::uint64_t end, std::uint64_t row,
                         std::uint64_t col) {
      whole.parts.push_back({slice.source, matrix, {begin, end, 0, matrix.cols}, false, row, col});
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
  std::map<Place, std::uint64_t> layers_;  // how many a stage has
  std::vector<Sliced> sliced_;
  std::unordered_map<std::string, std::size_t> positions_;  // in sliced_, by name
  std::uint64_t skipped_ = 0;
  RankReading reading_;
};

}  // namespace

RankReading ReadMegatronRanks(const ModelConfig& config, const MegatronSizes& sizes,
                              const std::vector<MegatronRank>& ranks) {
  return RankReader(config, sizes, ranks).Read();
}

}  // namespace dsv3::convert
