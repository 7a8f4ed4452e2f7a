#include "tests/convert/support/memory_source.h"

#include <algorithm>
#include <span>

#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

convert::Catalog MakeCatalog(const TinyCheckpoint& checkpoint) {
  std::vector<convert::SourceFile> files;
  std::vector<convert::CatalogTensor> tensors;
  for (const TinyTensor& tensor : checkpoint.tensors) {
    auto file = std::find_if(files.begin(), files.end(),
                             [&](const auto& known) { return known.name == tensor.shard; });
    if (file == files.end()) file = files.insert(file, {tensor.shard, tensor.shard, 0, 0, ""});
    tensors.push_back({tensor.name,
                       tensor.dtype,
                       tensor.shape,
                       {static_cast<std::uint32_t>(file - files.begin()), 0, tensor.bytes.size()}});
  }
  return convert::Catalog(std::move(files), std::move(tensors));
}

}  // namespace

MemorySource::MemorySource(const TinyCheckpoint& checkpoint)
    : MemorySource(checkpoint, MakeCatalog(checkpoint)) {}

MemorySource::MemorySource(const TinyCheckpoint& checkpoint, const convert::Catalog& catalog)
    : catalog_(catalog.files(), catalog.tensors()) {
  bytes_.resize(catalog_.tensors().size());
  for (const TinyTensor& tensor : checkpoint.tensors) {
    bytes_.at(catalog_.Find(tensor.name)) = tensor.bytes;
  }
}

std::string MemorySource::Evaluate(const convert::Expression& expression, std::uint64_t begin,
                                   std::uint64_t end, convert::EvaluationCounts& counts) const {
  // Filled, so that bytes that are left out are seen.
  std::string value(static_cast<std::size_t>(end - begin), '\xa5');
  if (value.empty()) return value;
  std::vector<convert::SourceRange> reads;
  expression.AppendReads(begin, end, reads);
  std::vector<std::span<const std::byte>> inputs;
  for (const convert::SourceRange& read : reads) {
    inputs.push_back(AsBytes(bytes_.at(read.tensor))
                         .subspan(static_cast<std::size_t>(read.begin),
                                  static_cast<std::size_t>(read.end - read.begin)));
  }
  convert::EvaluationOutput out{std::as_writable_bytes(std::span(value)), {}, {}};
  expression.Evaluate(begin, end, inputs, out);
  counts.nan_codes += out.counts.nan_codes;
  return value;
}

convert::ScaledWeight MatrixPair(const convert::Catalog& catalog, std::uint32_t weight,
                                 std::uint32_t scale, quant::BlockShape block) {
  convert::ScaledWeight pair;
  pair.weight = weight;
  pair.scale = scale;
  pair.rows = catalog.tensors().at(weight).shape.at(0);
  pair.cols = catalog.tensors().at(weight).shape.at(1);
  pair.block = block;
  pair.scale_format = convert::ScaleFormatOf(catalog.tensors().at(scale).dtype).value();
  return pair;
}

}  // namespace dsv3::testing
