#include "convert/recipes/mla_edit.h"

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/model/config_edit.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/slice_expression.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kJoined = "kv_b_proj";
constexpr std::string_view kKeys = "k_b_proj";
constexpr std::string_view kValues = "v_b_proj";

// Which rows of each head a half takes.
struct HeadRows {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t size() const { return end - begin; }
};

[[noreturn]] void Refuse(const std::string& tensor, const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("tensor {}: {}", QuoteForMessage(tensor), problem),
              {"", tensor});
}

// The name with the module's other name; nothing where the tensor is not of kv_b_proj.
std::optional<std::string> Renamed(const std::string& name, std::string_view half) {
  const std::string module = '.' + std::string(kJoined) + '.';
  const std::size_t at = name.rfind(module);
  if (at == std::string::npos) return std::nullopt;
  std::string renamed = name;
  return renamed.replace(at + 1, kJoined.size(), half);
}

// The rows of a half, of all heads, of a tensor with `unit` rows of the weight in each of its own.
ExpressionPtr RowsOfHeads(const ExpressionPtr& whole, std::uint64_t heads, std::uint64_t head_rows,
                          HeadRows half, std::uint64_t unit) {
  formats::Shape shape = whole->shape();
  shape[0] = heads * half.size() / unit;
  const std::uint64_t cols = MatrixOf(whole->shape()).cols;
  std::vector<SlicePart> parts;
  parts.reserve(heads);
  for (std::uint64_t head = 0; head < heads; ++head) {
    const std::uint64_t first = head * head_rows;
    parts.push_back({whole, {(first + half.begin) / unit, (first + half.end) / unit, 0, cols}});
  }
  return std::make_shared<SliceExpression>(whole->dtype(), std::move(shape), std::move(parts));
}

class Splitter {
 public:
  explicit Splitter(const OpenedModel& model)
      : config_(model.config),
        catalog_(model.catalog),
        scaled_(FindScaledWeights(model.catalog, model.config)),
        scales_(scaled_.pairs, model.catalog.tensors().size()),
        keys_{0, config_.qk_nope_head_dim},
        values_{config_.qk_nope_head_dim, config_.qk_nope_head_dim + config_.v_head_dim} {}

  void Split(ModelEdit& edit) {
    std::vector<EditedTensor> tensors;
    tensors.reserve(edit.tensors.size());
    for (EditedTensor& tensor : edit.tensors) {
      std::optional<std::string> keys = Renamed(tensor.name, kKeys);
      if (!keys) {
        tensors.push_back(std::move(tensor));
        continue;
      }
      std::string values = *Renamed(tensor.name, kValues);
      const std::uint64_t unit = RowsOfOneRow(tensor);
      if (tensor.name.ends_with(".weight")) edit.split.push_back(tensor.name);
      for (const auto& [name, half] :
           {std::pair{std::move(*keys), keys_}, std::pair{std::move(values), values_}}) {
        // One scale for the whole weight serves both halves.
        ExpressionPtr part = unit == 0 ? tensor.expression
                                       : RowsOfHeads(tensor.expression, config_.num_attention_heads,
                                                     values_.end, half, unit);
        tensors.push_back({name, tensor.file, std::move(part), Catalog::kNone});
      }
    }
    edit.tensors = std::move(tensors);
  }

 private:
  // How many rows of the weight a row of this tensor of kv_b_proj stands for; 0: all of them.
  std::uint64_t RowsOfOneRow(const EditedTensor& tensor) const {
    const formats::Shape& shape = tensor.expression->shape();
    if (formats::NumElements(shape) == std::uint64_t{1}) return 0;
    if (tensor.name.ends_with(".weight")) return RequireWeight(tensor);
    const ScaledWeight* const pair =
        tensor.copy_of == Catalog::kNone ? nullptr : scales_.OfScale(tensor.copy_of);
    if (pair == nullptr) {
      Refuse(tensor.name,
             "how it belongs to the rows of kv_b_proj is not known, so it cannot be split; leave "
             "--mla split out");
    }
    const std::uint64_t block = pair->block.rows;
    if (keys_.size() % block != 0 || values_.size() % block != 0) {
      Refuse(tensor.name,
             fmt::format("its blocks of {} rows of {} lie across the borders between the {} rows "
                         "of keys and the {} rows of values of a head, so FP8 weights cannot be "
                         "split without a change; convert them first: dsv3-convert fp8-to-bf16",
                         block, QuoteForMessage(catalog_.tensors()[pair->weight].name),
                         keys_.size(), values_.size()));
    }
    return block;
  }

  std::uint64_t RequireWeight(const EditedTensor& tensor) const {
    const std::optional<QuantizedForm> form =
        tensor.copy_of == Catalog::kNone ? std::nullopt
                                         : RecogniseForm(catalog_, config_, tensor.copy_of);
    if (form) {
      Refuse(tensor.name,
             fmt::format("it holds {} weights, which --mla split does not split; leave the option "
                         "out",
                         form->name));
    }
    const std::uint64_t rows = config_.num_attention_heads * values_.end;
    const formats::Shape& shape = tensor.expression->shape();
    if (shape.size() != 2 || shape[0] != rows) {
      Refuse(tensor.name,
             fmt::format("it has shape {}, but {} heads of {} + {} rows are {}; take the "
                         "config.json that belongs to the weights",
                         formats::ShapeToString(shape), config_.num_attention_heads, keys_.size(),
                         values_.size(), rows));
    }
    return 1;
  }

  const ModelConfig& config_;
  const Catalog& catalog_;
  const ScaledWeights scaled_;
  const ScaleMap scales_;
  const HeadRows keys_;
  const HeadRows values_;
};

// Entries of lists of modules that name kv_b_proj name both halves.
void RenameModules(const ModelConfig& config, std::string& text) {
  EditModuleLists(
      config,
      [](std::vector<std::string>& modules) {
        std::vector<std::string> renamed;
        for (std::string& module : modules) {
          const std::size_t at = module.find(kJoined);
          if (at == std::string::npos) {
            renamed.push_back(std::move(module));
            continue;
          }
          for (const std::string_view half : {kKeys, kValues}) {
            renamed.push_back(std::string(module).replace(at, kJoined.size(), half));
          }
        }
        modules = std::move(renamed);
      },
      text);
}

}  // namespace

void SplitKvB(const OpenedModel& model, ModelEdit& edit) {
  const ModelConfig& config = model.config;
  if (!config.known) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: --mla split needs the sizes of the attention's heads, and the "
                            "model_type {} is not one whose tensors are known here",
                            formats::kConfigName, QuoteForMessage(config.model_type)),
                {formats::kConfigName, ""});
  }
  Splitter(model).Split(edit);
  if (edit.split.empty()) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: no tensor is called kv_b_proj.weight, so there is nothing to "
                            "split; leave --mla split out",
                            formats::ShownPath(model.directory)),
                {model.directory.string(), ""});
  }
  RenameModules(config, edit.config);
}

}  // namespace dsv3::convert
