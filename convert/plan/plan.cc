#include "convert/plan/plan.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/plan/slice_expression.h"
#include "formats/hash/xxh3.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

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

Catalog CatalogOf(const Plan& plan) {
  std::vector<SourceFile> files;
  std::vector<CatalogTensor> tensors;
  for (const PlannedFile& planned : plan.files) {
    const auto file = static_cast<std::uint32_t>(files.size());
    files.push_back({planned.name, {}, planned.bytes, 0, planned.header_digest});
    for (const PlannedTensor& tensor : planned.tensors) {
      const TensorEntry& entry = tensor.entry;
      tensors.push_back({entry.name,
                         entry.dtype,
                         entry.shape,
                         {file, planned.data_offset + entry.offset, entry.bytes}});
    }
  }
  return Catalog(std::move(files), std::move(tensors));
}

std::string PlanIndex(const Plan& plan) {
  formats::ShardIndex index;
  index.total_size = 0;
  for (std::uint32_t i = 0; i < plan.files.size(); ++i) {
    index.files.push_back(plan.files[i].name);
    *index.total_size += TensorBytes(plan.files[i]);
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
        if (tensor.base) AddExpression(*tensor.base, catalog, hash);
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
