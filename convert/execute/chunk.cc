#include "convert/execute/chunk.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dsv3::convert {
namespace {

// The tensors that have bytes in [begin, end) of the file's data, as positions [first, last).
std::pair<std::size_t, std::size_t> TensorsIn(const PlannedFile& file, std::uint64_t begin,
                                              std::uint64_t end) {
  const auto first =
      std::partition_point(file.tensors.begin(), file.tensors.end(),
                           [&](const PlannedTensor& tensor) { return tensor.entry.end <= begin; });
  const auto last =
      std::partition_point(first, file.tensors.end(),
                           [&](const PlannedTensor& tensor) { return tensor.entry.begin < end; });
  return {static_cast<std::size_t>(first - file.tensors.begin()),
          static_cast<std::size_t>(last - file.tensors.begin())};
}

// A chunk's bytes of one tensor's value.
struct ValueRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool empty() const { return begin >= end; }
};

// `begin` and `end` are positions in the file's data.
ValueRange Overlap(const formats::SafetensorsTensor& entry, std::uint64_t begin,
                   std::uint64_t end) {
  return {std::max(begin, entry.begin) - entry.begin, std::min(end, entry.end) - entry.begin};
}

struct DataRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

DataRange DataOf(const PlannedFile& file, const Chunk& chunk) {
  const std::uint64_t chunk_end = chunk.offset + chunk.data.size();
  return {std::max(chunk.offset, file.data_offset) - file.data_offset,
          std::max(chunk_end, file.data_offset) - file.data_offset};
}

}  // namespace

void ReadChunk(const PlannedFile& file, std::size_t length, SourceFiles& sources, Chunk& chunk) {
  chunk.data = chunk.output_buffer.span().first(length);
  chunk.reads.clear();
  const DataRange data = DataOf(file, chunk);
  const auto [first, last] = TensorsIn(file, data.begin, data.end);
  for (std::size_t i = first; i < last; ++i) {
    const ValueRange range = Overlap(file.tensors[i].entry, data.begin, data.end);
    if (range.empty()) continue;
    file.tensors[i].expression->AppendReads(range.begin, range.end, chunk.reads);
  }
  sources.Read(chunk.reads, chunk.input_buffer, chunk.inputs);
}

void EvaluateChunk(const PlannedFile& file, std::string_view header, Chunk& chunk) {
  chunk.parts.clear();
  if (chunk.offset < header.size()) {
    const std::string_view piece =
        header.substr(static_cast<std::size_t>(chunk.offset), chunk.data.size());
    std::memcpy(chunk.data.data(), piece.data(), piece.size());
  }
  const DataRange data = DataOf(file, chunk);
  const auto [first, last] = TensorsIn(file, data.begin, data.end);
  std::size_t next_input = 0;
  std::vector<SourceRange> reads;
  for (std::size_t i = first; i < last; ++i) {
    const PlannedTensor& tensor = file.tensors[i];
    const ValueRange range = Overlap(tensor.entry, data.begin, data.end);
    if (range.empty()) continue;
    reads.clear();
    tensor.expression->AppendReads(range.begin, range.end, reads);
    const std::span<const std::span<const std::byte>> inputs =
        std::span(chunk.inputs).subspan(next_input, reads.size());
    next_input += reads.size();

    const std::uint64_t position = file.data_offset + tensor.entry.begin + range.begin;
    const std::span<std::byte> out =
        chunk.data.subspan(static_cast<std::size_t>(position - chunk.offset),
                           static_cast<std::size_t>(range.end - range.begin));
    ChunkPart part;
    part.tensor = i;
    part.output = out;
    part.streamed = inputs[0];
    part.ends_tensor = range.end == tensor.entry.end - tensor.entry.begin;
    EvaluationOutput made{out, {}, {}};
    tensor.expression->Evaluate(range.begin, range.end, inputs, made);
    part.counts = std::move(made.counts);
    chunk.parts.push_back(std::move(part));
  }
}

FileDigests::FileDigests(const PlannedFile& file, Options options) : options_(options) {
  record_.name = file.name;
  record_.bytes = file.bytes;
  record_.tensors.resize(file.tensors.size());
  for (std::size_t i = 0; i < file.tensors.size(); ++i) {
    if (file.tensors[i].entry.begin != file.tensors[i].entry.end) continue;
    // No chunk has a part of an empty tensor.
    Stream nothing;
    record_.tensors[i].output = FinishStream(nothing);
    record_.tensors[i].streamed = record_.tensors[i].output;
  }
}

void FileDigests::AddSeveral(std::span<const Part> parts) {
  std::vector<formats::Sha256::Part> files;
  for (const Part& part : parts) {
    if (part.digests->options_.sha256) {
      files.push_back({&part.digests->file_sha256_, part.chunk->data});
    }
  }
  formats::Sha256::UpdateMany(files);
  for (const Part& part : parts) {
    part.digests->AddFileXxh3(*part.chunk);
    part.digests->AddParts(*part.chunk);
  }
}

void FileDigests::AddFileXxh3(const Chunk& chunk) {
  if (!options_.sha256) file_xxh3_.Update(chunk.data);
}

void FileDigests::AddParts(const Chunk& chunk) {
  for (const ChunkPart& part : chunk.parts) {
    TensorRecord& tensor = record_.tensors[part.tensor];
    tensor.nan_codes += part.counts.nan_codes;
    UpdateStream(output_, part.output);
    UpdateStream(streamed_, part.streamed);
    if (part.ends_tensor) {
      tensor.output = FinishStream(output_);
      tensor.streamed = FinishStream(streamed_);
    }
  }
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

FileRecord FileDigests::Finish() {
  if (options_.sha256) {
    record_.file.sha256 = file_sha256_.FinishHex();
  } else {
    record_.file.xxh3 = file_xxh3_.Hex();
  }
  return std::move(record_);
}

}  // namespace dsv3::convert
