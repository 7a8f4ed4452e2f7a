#include "convert/recipes/kv_join.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/config_edit.h"
#include "convert/plan/slice_expression.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kJoined = "kv_b_proj";
constexpr std::string_view kKeys = "k_b_proj";
constexpr std::string_view kValues = "v_b_proj";

[[noreturn]] void Refuse(const std::string& tensor, const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("tensor {}: {}", QuoteForMessage(tensor), problem),
              {"", tensor});
}

// Where `module` begins in a tensor's name; npos where the tensor is not of it.
std::size_t PlaceOfModule(std::string_view name, std::string_view module) {
  const std::size_t at = name.rfind(fmt::format(".{}.", module));
  return at == std::string_view::npos ? at : at + 1;
}

std::string Renamed(const std::string& name, std::string_view from, std::string_view to) {
  std::string renamed = name;
  return renamed.replace(PlaceOfModule(name, from), from.size(), to);
}

class Joiner {
 public:
  explicit Joiner(const OpenedModel& model) : model_(model), config_(model.config) {}

  JoinedKvB Join() {
    JoinedKvB result;
    const std::vector<CatalogTensor>& tensors = model_.catalog.tensors();
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
      const std::string& name = tensors[i].name;
      if (PlaceOfModule(name, kValues) != std::string::npos) {
        Find(name, Renamed(name, kValues, kKeys));
      } else if (PlaceOfModule(name, kKeys) != std::string::npos) {
        Add(i, result);
      } else {
        result.tensors.emplace_back(name, Copy(model_.catalog, i));
      }
    }
    return result;
  }

 private:
  // The other half of the tensor `name`.
  std::uint32_t Find(const std::string& name, const std::string& other) const {
    const std::uint32_t position = model_.catalog.Find(other);
    if (position != Catalog::kNone) return position;
    Refuse(name, fmt::format("the other half, {}, is missing, so that kv_b_proj cannot be put "
                             "together; the checkpoint is incomplete: copy it again",
                             QuoteForMessage(other)));
  }

  void Add(std::uint32_t keys, JoinedKvB& result) const {
    const CatalogTensor& k = model_.catalog.tensors()[keys];
    const std::uint32_t values = Find(k.name, Renamed(k.name, kKeys, kValues));
    const CatalogTensor& v = model_.catalog.tensors()[values];
    std::string joined = Renamed(k.name, kKeys, kJoined);
    if (model_.catalog.Find(joined) != Catalog::kNone) {
      Refuse(k.name, fmt::format("{} is there, too; find out which of them is the model's",
                                 QuoteForMessage(joined)));
    }
    if (joined.ends_with(".weight")) result.joined.push_back(k.name);
    const auto elements = formats::NumElements(k.shape);
    if (elements == std::uint64_t{1} && formats::NumElements(v.shape) == elements) {
      result.equal.push_back({values, keys});
      result.tensors.emplace_back(std::move(joined), Copy(model_.catalog, keys));
      return;
    }
    result.tensors.emplace_back(std::move(joined), Interleaved(keys, values));
  }

  // The rows of each head's keys and then of its values.
  ExpressionPtr Interleaved(std::uint32_t keys, std::uint32_t values) const {
    const CatalogTensor& k = model_.catalog.tensors()[keys];
    const CatalogTensor& v = model_.catalog.tensors()[values];
    const std::uint64_t heads = config_.num_attention_heads;
    const bool same_columns = !k.shape.empty() && k.shape.size() == v.shape.size() &&
                              k.dtype == v.dtype &&
                              std::equal(k.shape.begin() + 1, k.shape.end(), v.shape.begin() + 1);
    // A row of a scale is that of as many rows of the weight in one half as in the other.
    if (!same_columns || heads == 0 || k.shape[0] % heads != 0 || v.shape[0] % heads != 0 ||
        k.shape[0] * config_.v_head_dim != v.shape[0] * config_.qk_nope_head_dim) {
      Refuse(k.name,
             fmt::format("it is {} {}, and {} is {} {}, which are not rows of the {} + {} rows of "
                         "{} heads, so that kv_b_proj cannot be put together; where they are "
                         "quantised in blocks that heads share, convert them first: dsv3-convert "
                         "fp8-to-bf16",
                         formats::DtypeName(k.dtype), formats::ShapeToString(k.shape),
                         QuoteForMessage(v.name), formats::DtypeName(v.dtype),
                         formats::ShapeToString(v.shape), config_.qk_nope_head_dim,
                         config_.v_head_dim, heads));
    }
    formats::Shape shape = k.shape;
    shape[0] += v.shape[0];
    const ExpressionPtr of_keys = Copy(model_.catalog, keys);
    const ExpressionPtr of_values = Copy(model_.catalog, values);
    const std::uint64_t cols = MatrixOf(k.shape).cols;
    const std::uint64_t k_rows = k.shape[0] / heads;
    const std::uint64_t v_rows = v.shape[0] / heads;
    std::vector<SlicePart> parts;
    parts.reserve(2 * heads);
    for (std::uint64_t head = 0; head < heads; ++head) {
      parts.push_back({of_keys, {head * k_rows, (head + 1) * k_rows, 0, cols}});
      parts.push_back({of_values, {head * v_rows, (head + 1) * v_rows, 0, cols}});
    }
    return std::make_shared<SliceExpression>(k.dtype, std::move(shape), std::move(parts));
  }

  const OpenedModel& model_;
  const ModelConfig& config_;
};

// Entries of lists of modules that name both halves name kv_b_proj once.
std::string WithJoinedModules(const ModelConfig& config, std::string text) {
  EditModuleLists(
      config,
      [](std::vector<std::string>& modules) {
        std::vector<std::string> renamed;
        for (std::string& module : modules) {
          for (const std::string_view half : {kKeys, kValues}) {
            const std::size_t at = module.find(half);
            if (at == std::string::npos) continue;
            module.replace(at, half.size(), kJoined);
            break;
          }
          if (std::find(renamed.begin(), renamed.end(), module) == renamed.end()) {
            renamed.push_back(std::move(module));
          }
        }
        modules = std::move(renamed);
      },
      text);
  return text;
}

}  // namespace

std::optional<JoinedKvB> JoinKvB(const OpenedModel& model) {
  const std::vector<CatalogTensor>& tensors = model.catalog.tensors();
  const auto half = std::find_if(tensors.begin(), tensors.end(), [](const CatalogTensor& tensor) {
    return PlaceOfModule(tensor.name, kKeys) != std::string::npos ||
           PlaceOfModule(tensor.name, kValues) != std::string::npos;
  });
  if (half == tensors.end()) return std::nullopt;
  if (!model.config.known) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is a half of kv_b_proj, and the model_type {} is not "
                            "one whose sizes of heads are known here, so that it cannot be put "
                            "together",
                            formats::kConfigName, QuoteForMessage(half->name),
                            QuoteForMessage(model.config.model_type)),
                {formats::kConfigName, half->name});
  }
  JoinedKvB result = Joiner(model).Join();
  result.config = WithJoinedModules(model.config, model.config_text);
  return result;
}

}  // namespace dsv3::convert
