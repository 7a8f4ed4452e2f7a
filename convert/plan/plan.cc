#include "convert/plan/plan.h"

#include <algorithm>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <unordered_map>

#include "convert/plan/slice_expression.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

using ExpressionsByName = std::map<std::string, ExpressionPtr, std::less<>>;

[[noreturn]] void Fail(const std::string& file, const std::string& tensor, std::string_view what) {
  throw Error(ErrorCode::kInternal, file + ": " + std::string(what), {file, tensor});
}

ExpressionsByName ByName(const std::string& file, NamedExpressions&& tensors) {
  ExpressionsByName expressions;
  for (auto& [name, expression] : tensors) {
    if (!expressions.emplace(name, std::move(expression)).second) {
      Fail(file, name, "a tensor was planned twice");
    }
  }
  return expressions;
}

// Whether the bytes are known only when another tensor was made.
bool IsLate(const Expression& expression) {
  return expression.maker() != nullptr && !expression.expected_source();
}

bool IsAligned(const std::vector<formats::SafetensorsTensor>& entries) {
  return std::all_of(entries.begin(), entries.end(), [](const formats::SafetensorsTensor& entry) {
    return entry.begin % std::max<std::uint64_t>(1, formats::DtypeBits(entry.dtype) / 8) == 0;
  });
}

// The tensors in the order of the file, with their places.
std::vector<formats::SafetensorsTensor> LayOut(const ExpressionsByName& expressions) {
  std::vector<formats::SafetensorsTensor> entries;
  std::vector<formats::SafetensorsTensor> late;
  for (const auto& [name, expression] : expressions) {
    (IsLate(*expression) ? late : entries)
        .push_back({name, expression->dtype(), expression->shape(), 0, 0});
  }
  formats::LayOutTensors(entries);
  if (late.empty()) return entries;
  formats::LayOutTensors(late);
  const std::uint64_t end = entries.empty() ? 0 : entries.back().end;
  for (formats::SafetensorsTensor& entry : late) {
    entry.begin += end;
    entry.end += end;
  }
  const bool aligned = IsAligned(late);
  entries.insert(entries.end(), late.begin(), late.end());
  if (!aligned) formats::LayOutTensors(entries);
  return entries;
}

// Links expressions with their by-products.
void LinkByProducts(PlannedFile& file) {
  std::unordered_map<const Expression*, std::uint32_t> position_of;
  for (std::uint32_t i = 0; i < file.tensors.size(); ++i) {
    position_of.emplace(file.tensors[i].expression.get(), i);
  }
  for (std::uint32_t i = 0; i < file.tensors.size(); ++i) {
    PlannedTensor& tensor = file.tensors[i];
    const Expression* const by_product = tensor.expression->by_product();
    if (by_product == nullptr) continue;
    const auto found = position_of.find(by_product);
    if (found == position_of.end() || by_product->maker() != tensor.expression.get() ||
        (tensor.expression->num_bytes() == 0 && by_product->num_bytes() != 0)) {
      Fail(file.name, tensor.entry.name, "the by-product of this tensor is not planned");
    }
    tensor.by_product = found->second;
    file.tensors[found->second].maker = i;
  }
  for (const PlannedTensor& tensor : file.tensors) {
    if ((tensor.expression->maker() != nullptr) == (tensor.maker != PlannedTensor::kNone)) continue;
    Fail(file.name, tensor.entry.name, "the maker of this tensor is not planned");
  }
}

void TakeTensors(std::vector<formats::SafetensorsTensor> entries, ExpressionsByName& expressions,
                 PlannedFile& file) {
  file.tensors.reserve(entries.size());
  for (formats::SafetensorsTensor& entry : entries) {
    PlannedTensor& tensor = file.tensors.emplace_back();
    tensor.expression = std::move(expressions.find(entry.name)->second);
    tensor.entry = std::move(entry);
  }
  LinkByProducts(file);
}

// Sets the members that follow from the tensors and the header's bytes.
void Complete(std::string_view header, PlannedFile& file) {
  file.data_offset = header.size();
  file.bytes = header.size() + (file.tensors.empty() ? 0 : file.tensors.back().entry.end);
  file.header_digest = formats::Xxh3Hex(std::as_bytes(std::span(header)));
}

void AddLine(std::string_view text, formats::Xxh3& hash) {
  hash.Update(std::as_bytes(std::span(text)));
  hash.Update(std::as_bytes(std::span("\n", 1)));
}

void AddExpression(const Expression& expression, const Catalog& catalog, formats::Xxh3& hash) {
  const auto add_source = [&](std::uint32_t position) {
    const CatalogTensor& tensor = catalog.tensors()[position];
    AddLine(catalog.files()[tensor.extent.file].checkpoint, hash);
    AddLine(tensor.name, hash);
  };
  AddLine(expression.rule(), hash);
  AddLine(expression.parameters(), hash);
  for (const std::uint32_t source : expression.streamed_sources()) add_source(source);
  for (const std::uint32_t side : expression.side_sources()) add_source(side);
  if (expression.expected_source()) add_source(*expression.expected_source());
}

// The digests of expressions that many slices share.
class OriginDigests {
 public:
  explicit OriginDigests(const Catalog& catalog) : catalog_(catalog) {}

  const std::string& Of(const Expression& origin) {
    const auto [found, added] = digests_.try_emplace(&origin);
    if (added) {
      hash_.Reset();
      AddExpression(origin, catalog_, hash_);
      found->second = hash_.Hex();
    }
    return found->second;
  }

 private:
  const Catalog& catalog_;
  formats::Xxh3 hash_;
  std::unordered_map<const Expression*, std::string> digests_;
};

}  // namespace

const formats::SafetensorsMetadata& PtMetadata() {
  static const formats::SafetensorsMetadata metadata = {{"format", "pt"}};
  return metadata;
}

std::string FileHeader(const PlannedFile& file) {
  if (!file.given_header.empty()) return file.given_header;
  std::vector<formats::SafetensorsTensor> entries;
  entries.reserve(file.tensors.size());
  for (const PlannedTensor& tensor : file.tensors) entries.push_back(tensor.entry);
  return formats::SerializeSafetensorsHeader(entries, file.metadata);
}

PlannedFile PlanFile(std::string name, NamedExpressions tensors,
                     const formats::SafetensorsMetadata& metadata) {
  ExpressionsByName expressions = ByName(name, std::move(tensors));
  PlannedFile file;
  file.name = std::move(name);
  file.metadata = metadata;
  TakeTensors(LayOut(expressions), expressions, file);
  Complete(FileHeader(file), file);
  return file;
}

PlannedFile PlanFileLike(std::string name, std::string header_bytes,
                         const formats::SafetensorsHeader& header, NamedExpressions tensors) {
  ExpressionsByName expressions = ByName(name, std::move(tensors));
  if (header_bytes.size() != header.data_offset || expressions.size() != header.tensors.size()) {
    Fail(name, "", "a header was given that is not of these tensors");
  }
  for (const formats::SafetensorsTensor& entry : header.tensors) {
    const auto found = expressions.find(entry.name);
    if (found == expressions.end() || found->second->dtype() != entry.dtype ||
        found->second->shape() != entry.shape) {
      Fail(name, entry.name, "a header was given that does not agree with the expressions");
    }
  }
  PlannedFile file;
  file.name = std::move(name);
  TakeTensors(header.tensors, expressions, file);
  Complete(header_bytes, file);
  file.given_header = std::move(header_bytes);
  return file;
}

std::string PlanIndex(const Plan& plan) {
  formats::ShardIndex index;
  index.total_size = plan.total_size;
  for (std::uint32_t i = 0; i < plan.files.size(); ++i) {
    index.files.push_back(plan.files[i].name);
    for (const PlannedTensor& tensor : plan.files[i].tensors) {
      index.weight_map.emplace_back(tensor.entry.name, i);
    }
  }
  std::sort(index.weight_map.begin(), index.weight_map.end());
  return formats::SerializeShardIndex(index);
}

std::string PlanFingerprint(const Plan& plan, const Catalog& catalog) {
  formats::Xxh3 hash;
  const auto add = [&hash](std::string_view text) { AddLine(text, hash); };
  OriginDigests origins(catalog);
  add(plan.recipe);
  for (const PlanOption& option : plan.options) {
    add(option.name);
    add(option.json);
  }
  for (const PlannedFile& file : plan.files) {
    add(file.name);
    add(file.header_digest);
    for (const PlannedTensor& tensor : file.tensors) {
      const SliceExpression* const slice = tensor.expression->slice();
      if (slice == nullptr) {
        AddExpression(*tensor.expression, catalog, hash);
        continue;
      }
      add(slice->rule());
      add(slice->parameters());
      for (const SlicePart& part : slice->parts()) add(origins.Of(*part.origin));
    }
  }
  for (const PlannedSideFile& side : plan.side_files) {
    add(side.name);
    add(side.content);
  }
  return hash.Hex();
}

}  // namespace dsv3::convert
