#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/derived_tensors.h"
#include "convert/plan/expression.h"
#include "convert/plan/planned_file.h"

namespace dsv3::convert {

// A model whose tensors are in no file as they are: how each is made of stored tensors.
struct AssembledModel {
  // The files and the tensors that they hold; names are unique (SourceFile::shares_names).
  Catalog stored;
  // How each tensor of the model is made of stored ones, by position in the model's catalog.
  std::vector<ExpressionPtr> origins;
  // The XXH3-128 digests that stored tensors must have, by position in `stored`, where they are
  // known.
  std::unordered_map<std::uint32_t, std::string> digests;
  // Tensors of `stored` that several ranks hold and must hold alike: the one that is read, then the
  // others.
  std::vector<std::vector<std::uint32_t>> copies;
  // The checksums that tensors of the model must have, by position in its catalog, where they are
  // known.
  ValueChecksums checksums = {};
  // Of the model's shards: the text of the index (nothing where there is none), and the bytes
  // before the data of each, by position in the model's catalog.files().
  std::optional<std::string> index;
  std::vector<std::string> headers;
};

// The files of a model without shards of its own: its tensors, in this order, in shards of at most
// `shard_bytes` bytes of tensors (one that is larger has a shard of its own), called as on the
// Hugging Face hub: model.safetensors, or model-00001-of-00007.safetensors and so on.
std::vector<PlannedFile> PlanShards(NamedExpressions&& tensors, std::uint64_t shard_bytes);

// The catalog of a model in such shards, which are names alone (IsMadeUp); fills origins, index and
// headers of `assembled`.
Catalog MakeShards(NamedExpressions&& tensors, std::uint64_t shard_bytes,
                   AssembledModel& assembled);

// Whether a file of a catalog is a shard of MakeShards, which is a name alone: no such file is
// there or ever was.
bool IsMadeUp(const SourceFile& shard);

// 5 GB, as huggingface_hub's tools write.
inline constexpr std::uint64_t kDefaultShardBytes = 5'000'000'000;

}  // namespace dsv3::convert
