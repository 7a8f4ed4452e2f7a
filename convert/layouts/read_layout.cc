#include "convert/layouts/read_layout.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/layout_blocks.h"
#include "convert/layouts/layout_names.h"
#include "convert/model/expected_tensors.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

[[noreturn]] void Fail(const std::string& tensor, const std::string& what) {
  throw Error(ErrorCode::kBadInput, fmt::format("tensor {}: {}", QuoteForMessage(tensor), what),
              {"", tensor});
}

std::string Counted(std::uint64_t number, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", number, number == 1 ? one : many);
}

// "config.json (deepseek_v3, 61 layers, 1 MTP layer, 256 experts)"
std::string ConfigText(const ModelConfig& config) {
  std::string text =
      fmt::format("config.json ({}, {}, {}", config.model_type,
                  Counted(config.num_hidden_layers, "layer", "layers"),
                  Counted(config.num_nextn_predict_layers, "MTP layer", "MTP layers"));
  if (config.n_routed_experts > 0)
    text += ", " + Counted(config.n_routed_experts, "expert", "experts");
  if (config.tie_word_embeddings) text += ", tied embeddings";
  return text + ")";
}

// Reads the tensors of a layout as those of a model.
class Reader {
 public:
  Reader(const LayoutTable& table, const ModelConfig& config, const std::vector<StackTensor>& model,
         const std::vector<StackTensor>& stack)
      : table_(table),
        config_(config),
        model_(model),
        stack_(stack),
        names_(table, config),
        blocks_(stack.size()),
        located_(model.size()) {}

  LayoutReading Read() {
    Index();
    for (std::size_t i = 0; i < model_.size(); ++i) Locate(i);
    RequireNoneUnknown();
    if (!missing_.empty()) FailMissing(missing_);
    if (reading_.has_mtp && !missing_mtp_.empty()) FailMissing(missing_mtp_);
    RequireShapes();
    Compose();
    return std::move(reading_);
  }

 private:
  // Where a tensor of the model is, or a piece of it.
  struct Located {
    std::uint32_t source = 0;
    LayoutPlace place;
  };

  void Index() {
    positions_.reserve(stack_.size());
    for (std::uint32_t i = 0; i < stack_.size(); ++i) {
      if (!IsOfModel(table_, stack_[i].name)) {
        ++reading_.skipped[NamePattern(stack_[i].name)];
      } else if (!positions_.emplace(stack_[i].name, i).second) {
        Fail(stack_[i].name,
             "the checkpoint has it twice, and which of the two belongs to the model is not known; "
             "save it again");
      }
    }
  }

  void Locate(std::size_t position) {
    const StackTensor& tensor = model_[position];
    const bool is_mtp = names_.IsMtp(tensor.name);
    for (LayoutPlaces& places : names_.PlacesOf(tensor.name)) {
      std::vector<Located> located;
      for (LayoutPlace& place : places.pieces) {
        const auto found = positions_.find(place.name);
        if (found != positions_.end()) located.push_back({found->second, std::move(place)});
      }
      if (located.empty()) continue;
      for (const std::string_view variant : {places.variant, places.prefix_variant}) {
        if (std::find(variants_.begin(), variants_.end(), variant) == variants_.end()) {
          variants_.push_back(variant);
        }
      }
      if (is_mtp) reading_.has_mtp = true;
      for (const Located& piece : located) {
        blocks_[piece.source].Add(piece.place, config_, tensor.shape);
      }
      if (located.size() < places.pieces.size()) break;
      located_[position] = std::move(located);
      return;
    }
    if (names_.CopiedFrom(tensor.name)) return;
    (is_mtp ? missing_mtp_ : missing_).push_back(&tensor);
  }

  void RequireNoneUnknown() const {
    for (std::uint32_t i = 0; i < stack_.size(); ++i) {
      if (!IsOfModel(table_, stack_[i].name) || blocks_[i].has_tensors()) continue;
      Fail(stack_[i].name,
           fmt::format("{} predicts no tensor that it could hold, so a weight would be lost; take "
                       "the config.json that belongs to this checkpoint, and if it does, the "
                       "checkpoint was saved by a version of {} whose names are not known here",
                       ConfigText(config_), table_.title));
    }
  }

  [[noreturn]] void FailMissing(const std::vector<const StackTensor*>& missing) const {
    const std::string& name = missing.front()->name;
    const std::vector<LayoutPlaces> places = names_.PlacesOf(name);
    if (places.empty()) {
      Fail(name, fmt::format("{} predicts it, but no name for it is known in {}, so checkpoints of "
                             "this model cannot be read from there",
                             ConfigText(config_), table_.title));
    }
    const auto of_stack = std::find_if(places.begin(), places.end(),
                                       [&](const LayoutPlaces& of) { return of.IsOf(variants_); });
    const std::vector<LayoutPlace>& pieces =
        (of_stack == places.end() ? places.back() : *of_stack).pieces;
    const auto lacking = std::find_if(pieces.begin(), pieces.end(), [&](const LayoutPlace& piece) {
      return positions_.count(piece.name) == 0;
    });
    const std::string& stack_name = (lacking == pieces.end() ? pieces.front() : *lacking).name;
    const std::string others =
        missing.size() == 1
            ? ""
            : fmt::format(" ({} in all)",
                          Counted(missing.size(), "tensor is missing", "tensors are missing"));
    const std::string_view advice =
        names_.IsMtp(name)
            ? "other tensors of the MTP layers are there, so these were saved in part: save the "
              "checkpoint again, or set num_nextn_predict_layers to the number of MTP layers in it"
            : "it was saved in part, or the config is of another model: save it again, or take the "
              "config.json that belongs to it";
    Fail(name, fmt::format(
                   "{} predicts it, but the checkpoint lacks {}, which {} keeps it in{}; {}",
                   ConfigText(config_), QuoteForMessage(stack_name), table_.title, others, advice));
  }

  void RequireShape(const std::string& model, std::uint32_t source) {
    const LayoutBlocks& blocks = blocks_[source];
    const StackTensor& found = stack_[source];
    formats::Shape expected = blocks.shape();
    if (blocks.is_padded() && found.shape.size() == expected.size() &&
        found.shape[0] > expected[0]) {
      reading_.padding_rows = std::max(reading_.padding_rows, found.shape[0] - expected[0]);
      expected[0] = found.shape[0];
    }
    if (found.shape != expected) {
      Fail(found.name,
           fmt::format("it has shape {}, but {} predicts {}{} for {}; the config is of another "
                       "model: take the config.json that belongs to this checkpoint",
                       formats::ShapeToString(found.shape), ConfigText(config_),
                       formats::ShapeToString(expected), blocks.is_padded() ? " or more rows" : "",
                       QuoteForMessage(model)));
    }
    if (!blocks.IsFull()) {
      Fail(found.name, fmt::format("it holds a layer or an expert that {} does not predict; take "
                                   "the config.json that belongs to this checkpoint",
                                   ConfigText(config_)));
    }
  }

  void RequireShapes() {
    for (std::size_t i = 0; i < model_.size(); ++i) {
      for (const Located& piece : located_[i]) RequireShape(model_[i].name, piece.source);
    }
  }

  // Where the tensor is, or the one that it is a copy of.
  const std::vector<Located>& FindPieces(std::size_t position) const {
    if (!located_[position].empty()) return located_[position];
    const auto main = names_.CopiedFrom(model_[position].name);
    for (std::size_t i = 0; main && i < model_.size(); ++i) {
      if (model_[i].name == *main && !located_[i].empty()) return located_[i];
    }
    FailMissing({&model_[position]});
  }

  void Compose() {
    for (std::size_t i = 0; i < model_.size(); ++i) {
      const StackTensor& tensor = model_[i];
      if (names_.IsMtp(tensor.name) && !reading_.has_mtp) continue;
      const std::vector<Located>& pieces = FindPieces(i);
      ComposedTensor composed{
          tensor.name, tensor.shape, ModelMatrix(pieces.front().place, tensor.shape), {}};
      for (const auto& [source, place] : pieces) {
        const LayoutBlocks& blocks = blocks_[source];
        const MatrixShape matrix =
            blocks.is_padded() ? MatrixOf(stack_[source].shape) : blocks.matrix();
        for (const LayoutLink& link : blocks.Links(place, config_, tensor.shape)) {
          composed.parts.push_back({source, matrix, link.stack, link.transposed,
                                    link.model.row_begin, link.model.col_begin});
        }
      }
      std::sort(composed.parts.begin(), composed.parts.end(),
                [](const TensorPart& a, const TensorPart& b) { return a.row < b.row; });
      reading_.tensors.push_back(std::move(composed));
    }
  }

  const LayoutTable& table_;
  const ModelConfig& config_;
  const std::vector<StackTensor>& model_;
  const std::vector<StackTensor>& stack_;
  LayoutNames names_;
  std::unordered_map<std::string_view, std::uint32_t> positions_;  // in stack_
  std::vector<LayoutBlocks> blocks_;                               // for each of stack_
  std::vector<std::vector<Located>> located_;                      // for each of model_
  std::vector<const StackTensor*> missing_;
  std::vector<const StackTensor*> missing_mtp_;
  std::vector<std::string_view> variants_;  // of the names that were found
  LayoutReading reading_;
};

}  // namespace

std::vector<StackTensor> ModelTensorsOf(const ModelConfig& config) {
  if (!config.known) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("config.json: the model_type {} is not one whose tensors are known here, so "
                    "a training checkpoint of it cannot be read; take the config.json that "
                    "belongs to this checkpoint",
                    QuoteForMessage(config.model_type)),
        {"config.json", ""});
  }
  if (config.v4) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("config.json: training checkpoints of model_type {} are not read here; "
                            "take the config.json that belongs to this checkpoint",
                            QuoteForMessage(config.model_type)),
                {"config.json", ""});
  }
  std::vector<StackTensor> tensors;
  ForEachExpected(config, "", [&](const ExpectedTensorView& tensor) {
    tensors.push_back({std::string(tensor.name), {tensor.shape.begin(), tensor.shape.end()}});
  });
  return tensors;
}

LayoutReading ReadLayout(const LayoutTable& table, const ModelConfig& config,
                         const std::vector<StackTensor>& model,
                         const std::vector<StackTensor>& stack) {
  return Reader(table, config, model, stack).Read();
}

LayoutReading ReadLayout(const LayoutTable& table, const ModelConfig& config,
                         const std::vector<StackTensor>& stack) {
  return ReadLayout(table, config, ModelTensorsOf(config), stack);
}

}  // namespace dsv3::convert
