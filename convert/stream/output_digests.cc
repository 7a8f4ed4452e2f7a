#include "convert/stream/output_digests.h"

#include <utility>
#include <vector>

#include "quant/quality.h"

namespace dsv3::convert {
namespace {

// Whether the values that were quantised are all zero. Squares of tiny ones are zero, too, but
// these have errors or become zero.
bool IsOfZeros(const quant::Quality& quality) {
  return quality.elements > 0 && quality.nonfinite == 0 && quality.sum_squares == 0 &&
         quality.max_abs_error == 0 && quality.flushed_to_zero == 0;
}

}  // namespace

std::uint64_t PlannedRest(const PlannedFile& file) {
  for (const PlannedTensor& tensor : file.tensors) {
    if (IsLate(tensor)) return file.bytes - (file.data_offset + tensor.entry.offset);
  }
  return 0;
}

FileDigests::FileDigests(const PlannedFile& file, Options options)
    : file_(file), options_(options), file_hash_(options.sha256) {
  record_.name = file.name;
  record_.bytes = file.bytes;
  record_.tensors.resize(file.tensors.size());
  for (std::size_t i = 0; i < file.tensors.size(); ++i) {
    if (file.tensors[i].entry.bytes != 0) continue;
    // No chunk has a part of an empty tensor.
    Stream nothing;
    record_.tensors[i].output = FinishStream(nothing);
    if (file.tensors[i].expression->streams_whole_source()) {
      record_.tensors[i].streamed = record_.tensors[i].output;
    }
  }
}

FileHash::Part FileDigests::Take(const Chunk& chunk) {
  for (const ChunkPart& part : chunk.parts) unexpected_ = unexpected_ || !part.as_expected;
  if (unexpected_ || next_ != chunk.offset) return {&file_hash_, {}};
  next_ += chunk.known_bytes;
  return {&file_hash_, chunk.data.first(chunk.known_bytes)};
}

void FileDigests::Add(const Chunk& chunk) {
  for (const ChunkPart& part : chunk.parts) {
    // A by-product is digested with its maker.
    if (part.kind != ChunkPart::Kind::kValue) continue;
    TensorRecord& tensor = record_.tensors[part.tensor];
    tensor.nan_codes += part.counts.nan_codes;
    for (const quant::Quality& quality : part.counts.quality) {
      if (!tensor.quality) tensor.quality = std::make_shared<quant::Quality>();
      tensor.quality->Add(quality);
    }
    LookForZeros(chunk, part);
    UpdateStream(output_, part.output);
    if (file_.tensors[part.tensor].expression->streams_whole_source()) {
      UpdateStream(streamed_, part.streamed);
    }
    if (options_.checks != nullptr) CheckSources(chunk, part);
    if (!part.by_product.empty()) UpdateStream(by_product_, part.by_product);
    if (part.ends_tensor) EndTensor(part);
  }
}

void FileDigests::LookForZeros(const Chunk& chunk, const ChunkPart& part) {
  const PlannedTensor& tensor = file_.tensors[part.tensor];
  const Expression& expression = *tensor.expression;
  if (part.range.begin == 0) {
    zeros_.Clear();
    zero_blocks_ = ZeroBlocks();
  }
  // What a weight is made of shows its holes best: they are zeros there whatever its codes and
  // blocks are, and an expert that is all zero is one of a stack later.
  const bool is_scale = expression.dtype() == formats::Dtype::kF8E8M0;
  for (std::size_t i = part.first_input; i < part.first_input + part.num_inputs; ++i) {
    if (options_.sources == nullptr) break;
    const CatalogTensor& source = options_.sources->tensors()[chunk.reads[i].tensor];
    // Conversions that take a weight's scales look at these themselves.
    if (source.dtype == formats::Dtype::kF8E8M0 && !is_scale) continue;
    zeros_.Add(chunk.reads[i].tensor, source.name, source.dtype, source.shape, chunk.reads[i].begin,
               chunk.inputs[i]);
  }
  // A scale that is made is of zeros where its weight is.
  if (!is_scale && (zeros_.empty() || zeros_.has(Catalog::kNone))) {
    zeros_.Add(Catalog::kNone, tensor.entry.name, expression.dtype(), expression.shape(),
               part.range.begin, part.output);
  }
  zero_blocks_.Add(part.counts.zero_blocks);
  if (part.ends_tensor) JudgeZeros(record_.tensors[part.tensor]);
}

void FileDigests::JudgeZeros(TensorRecord& record) const {
  if (!zeros_.empty()) zeros_.Judge(record);
  // Values of codes that are not zero bytes may be zero: a code of FP4 is -0.
  if (record.quality && IsOfZeros(*record.quality)) record.all_zero = true;
  if (record.all_zero) {
    record.zero_runs = 0;
    return;
  }
  if (zeros_.empty()) return;
  record.zero_blocks = zero_blocks_.Count().blocks;
  if (record.zero_blocks != 0) record.zero_runs = 0;
}

void FileDigests::CheckSources(const Chunk& chunk, const ChunkPart& part) const {
  for (std::size_t i = part.first_input; i < part.first_input + part.num_inputs; ++i) {
    options_.checks->Add(chunk.reads[i].tensor, chunk.reads[i].begin, chunk.inputs[i]);
  }
  if (part.ends_tensor) {
    options_.checks->FinishSources(*file_.tensors[part.tensor].expression);
  }
}

void FileDigests::EndTensor(const ChunkPart& part) {
  TensorRecord& tensor = record_.tensors[part.tensor];
  tensor.output = FinishStream(output_);
  const Digests streamed = FinishStream(streamed_);
  // Another tensor streams the source in which a constant was found.
  const Expression& expression = *file_.tensors[part.tensor].expression;
  if (part.num_inputs != 0 && expression.streams_whole_source()) tensor.streamed = streamed;
  const std::uint32_t by_product = file_.tensors[part.tensor].by_product;
  if (by_product == PlannedTensor::kNone) return;
  record_.tensors[by_product].output = FinishStream(by_product_);
  record_.tensors[by_product].streamed = streamed;
}

void FileDigests::UpdateStream(Stream& stream, std::span<const std::byte> data) const {
  stream.xxh3.Update(data);
  if (options_.tensor_sha256) stream.sha256.Update(data);
}

Digests FileDigests::FinishStream(Stream& stream) const {
  Digests digests;
  digests.xxh3 = stream.xxh3.Hex();
  stream.xxh3.Reset();
  if (options_.tensor_sha256) {
    digests.sha256 = stream.sha256.FinishHex();
    stream.sha256 = formats::Sha256();
  }
  return digests;
}

std::uint64_t FileDigests::BeginRest() {
  if (unexpected_) {
    file_hash_ = FileHash(options_.sha256);
    next_ = 0;
  }
  return next_;
}

FileHash::Part FileDigests::TakeRest(std::span<const std::byte> data) {
  next_ += data.size();
  return {&file_hash_, data};
}

FileRecord FileDigests::Finish() {
  record_.file = file_hash_.Finish();
  return std::move(record_);
}

}  // namespace dsv3::convert
