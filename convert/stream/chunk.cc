#include "convert/stream/chunk.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "convert/stream/made_memory.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kPage = PageWriter::kPageBytes;

// By-products longer than this take room in a chunk's buffer from where their pages can be written
// without copying them; that wastes less than a page.
constexpr std::uint64_t kMinAlignedByProduct = 2 * kPage;
constexpr std::uint64_t kByProductAlignment = 64;

// The tensors that have bytes in [begin, end) of the file's data, as positions [first, last).
std::pair<std::size_t, std::size_t> TensorsIn(const PlannedFile& file, std::uint64_t begin,
                                              std::uint64_t end) {
  const auto first = std::partition_point(
      file.tensors.begin(), file.tensors.end(),
      [&](const PlannedTensor& tensor) { return tensor.entry.end() <= begin; });
  const auto last =
      std::partition_point(first, file.tensors.end(),
                           [&](const PlannedTensor& tensor) { return tensor.entry.offset < end; });
  return {static_cast<std::size_t>(first - file.tensors.begin()),
          static_cast<std::size_t>(last - file.tensors.begin())};
}

// A chunk's bytes of one tensor's value; `begin` and `end` are positions in the file's data.
ByteRange Overlap(const TensorEntry& entry, std::uint64_t begin, std::uint64_t end) {
  return {std::max(begin, entry.offset) - entry.offset, std::min(end, entry.end()) - entry.offset};
}

std::uint64_t FilePosition(const PlannedFile& file, const PlannedTensor& tensor,
                           std::uint64_t position) {
  return file.data_offset + tensor.entry.offset + position;
}

// Memory is counted in 1/kUnit bytes a byte of the file, so that rare by-products count, too.
constexpr std::uint64_t kUnit = 1024;

// The memory that one byte of the value takes, in kUnits.
struct Cost {
  std::uint64_t output = kUnit;
  std::uint64_t input = kUnit;
  std::uint64_t total() const { return output + input; }
};

Cost CostOf(const PlannedTensor& tensor) {
  Cost cost;
  const Expression& expression = *tensor.expression;
  // Nothing takes less than a copy: then all files without panels are cut in one way.
  cost.input = kUnit * std::max<std::uint64_t>(1, expression.input_bytes_per_output_byte());
  if (const Expression* by_product = expression.by_product()) {
    // Twice, for what lies between by-products in the buffer, and for expected ones that are read.
    cost.output +=
        2 *
        (by_product->num_bytes() * kUnit / std::max<std::uint64_t>(1, expression.num_bytes()) + 1);
  }
  return cost;
}

// Sets the chunk's parts and what they read.
void PlanParts(const PlannedFile& file, Chunk& chunk) {
  chunk.parts.clear();
  chunk.reads.clear();
  chunk.known_bytes = chunk.end - chunk.offset;
  const std::uint64_t begin = std::max(chunk.offset, file.data_offset) - file.data_offset;
  const std::uint64_t end = std::max(chunk.end, file.data_offset) - file.data_offset;
  const auto [first, last] = TensorsIn(file, begin, end);
  for (std::size_t i = first; i < last; ++i) {
    const PlannedTensor& tensor = file.tensors[i];
    const Expression& expression = *tensor.expression;
    ChunkPart part;
    part.tensor = i;
    part.range = Overlap(tensor.entry, begin, end);
    if (part.range.empty()) continue;
    part.ends_tensor = part.range.end == tensor.entry.bytes;
    part.first_input = chunk.reads.size();
    if (IsLate(tensor)) {
      part.kind = ChunkPart::Kind::kLate;
      const std::uint64_t position = FilePosition(file, tensor, part.range.begin);
      chunk.known_bytes = std::min(chunk.known_bytes, position - chunk.offset);
    } else if (tensor.maker != PlannedTensor::kNone) {
      part.kind = ChunkPart::Kind::kExpected;
      chunk.reads.push_back({*expression.expected_source(), part.range.begin, part.range.end});
    } else {
      expression.AppendReads(part.range.begin, part.range.end, chunk.reads);
    }
    part.num_inputs = chunk.reads.size() - part.first_input;
    if (tensor.by_product != PlannedTensor::kNone) {
      const PlannedTensor& by_product = file.tensors[tensor.by_product];
      const ByteRange range = expression.ByProductRange(part.range.begin, part.range.end);
      part.by_product_range = range;
      part.by_product_offset = FilePosition(file, by_product, range.begin);
      // The bytes that it is expected to have are read for comparison; they are not an input of the
      // expression.
      const std::optional<std::uint32_t> expected = by_product.expression->expected_source();
      if (expected && !range.empty()) chunk.reads.push_back({*expected, range.begin, range.end});
    }
    if (tensor.base) {
      part.base_range = PiecesAround(*tensor.base, part.range);
      part.first_base_input = chunk.reads.size();
      tensor.base->AppendReads(part.base_range.begin, part.base_range.end, chunk.reads);
      part.num_base_inputs = chunk.reads.size() - part.first_base_input;
    }
    chunk.parts.push_back(std::move(part));
  }
}

// Gives by-products their places behind the chunk's own bytes; returns where the last one ends.
std::uint64_t PlaceByProducts(Chunk& chunk) {
  std::uint64_t end = chunk.offset % kPage + (chunk.end - chunk.offset);
  for (ChunkPart& part : chunk.parts) {
    const std::uint64_t bytes = part.by_product_range.size();
    end = formats::AlignUp(end, kByProductAlignment);
    if (bytes >= kMinAlignedByProduct) {
      end += (part.by_product_offset + kPage - end % kPage) % kPage;
    }
    part.by_product_place = end;
    end += bytes;
  }
  return end;
}

// Sets the bytes that belong neither to the header nor to a tensor.
void FillGaps(std::uint64_t header_bytes, const Chunk& chunk) {
  const std::uint64_t header_end = std::max(header_bytes, chunk.offset) - chunk.offset;
  auto filled = static_cast<std::size_t>(std::min<std::uint64_t>(header_end, chunk.data.size()));
  const auto fill_until = [&](std::size_t end) {
    std::memset(chunk.data.data() + filled, 0, end - filled);
  };
  for (const ChunkPart& part : chunk.parts) {
    const auto place = static_cast<std::size_t>(part.output.data() - chunk.data.data());
    fill_until(place);
    filled = place + part.output.size();
  }
  fill_until(chunk.data.size());
}

// Makes the bytes of bases.
void EvaluateBases(const PlannedFile& file, Chunk& chunk) {
  std::size_t bytes = 0;
  for (const ChunkPart& part : chunk.parts) bytes += part.base_range.size();
  if (chunk.base_buffer.size() < bytes) chunk.base_buffer.resize(static_cast<std::size_t>(bytes));
  std::size_t begin = 0;
  for (ChunkPart& part : chunk.parts) {
    if (part.base_range.empty()) continue;
    const auto length = static_cast<std::size_t>(part.base_range.size());
    const std::span<std::byte> made = std::span(chunk.base_buffer).subspan(begin, length);
    EvaluationOutput out{made, {}, {}};
    file.tensors[part.tensor].base->Evaluate(
        part.base_range.begin, part.base_range.end,
        std::span(chunk.inputs).subspan(part.first_base_input, part.num_base_inputs), out);
    part.base = made.subspan(static_cast<std::size_t>(part.range.begin - part.base_range.begin),
                             static_cast<std::size_t>(part.range.size()));
    begin += length;
  }
}

void SetSpans(const PlannedFile& file, Chunk& chunk) {
  const auto slice = [&](std::uint64_t begin, std::uint64_t bytes) {
    return chunk.output_buffer.span().subspan(static_cast<std::size_t>(begin),
                                              static_cast<std::size_t>(bytes));
  };
  chunk.data = slice(chunk.offset % kPage, chunk.end - chunk.offset);
  for (ChunkPart& part : chunk.parts) {
    const std::uint64_t position = FilePosition(file, file.tensors[part.tensor], part.range.begin);
    part.output = chunk.data.subspan(static_cast<std::size_t>(position - chunk.offset),
                                     static_cast<std::size_t>(part.range.size()));
    part.by_product = slice(part.by_product_place, part.by_product_range.size());
  }
}

}  // namespace

bool IsLate(const PlannedTensor& tensor) {
  return tensor.maker != PlannedTensor::kNone && !tensor.expression->expected_source();
}

std::uint64_t ChunkEnd(const PlannedFile& file, std::uint64_t begin, std::uint64_t chunk_bytes) {
  std::uint64_t budget = 2 * chunk_bytes * kUnit;
  std::uint64_t end = begin;
  const auto take = [&](std::uint64_t until, std::uint64_t cost) {
    const std::uint64_t bytes = std::min(until - end, budget / cost);
    end += bytes;
    budget -= bytes * cost;
    return end == until;
  };
  bool fits = begin >= file.data_offset || take(file.data_offset, Cost().total());
  const auto behind = [&](std::uint64_t position) {
    return std::partition_point(file.tensors.begin(), file.tensors.end(),
                                [&](const PlannedTensor& tensor) {
                                  return file.data_offset + tensor.entry.end() <= position;
                                });
  };
  for (auto tensor = behind(end); fits && tensor != file.tensors.end(); ++tensor) {
    fits = take(file.data_offset + tensor->entry.end(), CostOf(*tensor).total());
  }
  if (end == file.bytes) return end;
  end = std::max(formats::AlignDown(end, kPage), formats::AlignDown(begin, kPage) + kPage);
  if (end >= file.bytes) return file.bytes;

  const auto tensor = behind(end);
  const std::uint64_t tensor_begin = file.data_offset + tensor->entry.offset;
  // Headers, borders between tensors and by-products can be cut anywhere.
  if (end <= tensor_begin || tensor->maker != PlannedTensor::kNone) return end;
  const std::uint64_t cut = tensor_begin + tensor->expression->CutAtOrBefore(end - tensor_begin);
  if (cut > begin) return cut;
  return tensor_begin + tensor->expression->CutAfter(begin - tensor_begin);
}

ChunkMemory MostChunkMemory(const Plan& plan, std::span<const std::size_t> files,
                            std::uint64_t chunk_bytes, std::span<const DerivedTensors> derived) {
  std::uint64_t output = chunk_bytes;
  std::uint64_t input = chunk_bytes;
  std::uint64_t made = 0;
  for (const std::size_t file : files) {
    for (const PlannedTensor& tensor : plan.files[file].tensors) {
      if (tensor.entry.bytes == 0 || tensor.maker != PlannedTensor::kNone) continue;
      const Cost cost = CostOf(tensor);
      const std::uint64_t bytes =
          std::max(2 * chunk_bytes * kUnit / cost.total(), tensor.expression->LongestPiece());
      output = std::max(output, bytes * cost.output / kUnit);
      input = std::max(input, bytes * cost.input / kUnit);
      made = std::max(made, MadeMemory(*tensor.expression, bytes * cost.input / kUnit, derived));
    }
  }
  // Room before the first byte, for its place in a page, and behind the last; direct reads take
  // whole pages, and there are gaps between them.
  return {output + 2 * kPage, input + 6 * kPage, made};
}

void ProvideOutputBuffer(std::size_t bytes, Chunk& chunk) {
  if (chunk.output_buffer.size() >= bytes) return;
  chunk.output_buffer = formats::AlignedBuffer();  // the old one goes before the new one comes
  chunk.output_buffer = formats::AlignedBuffer(bytes);
}

void ReadChunk(const PlannedFile& file, std::uint64_t output_bytes, SourceFiles& sources,
               Chunk& chunk) {
  PlanParts(file, chunk);
  const std::uint64_t room = std::max(output_bytes, PlaceByProducts(chunk));
  ProvideOutputBuffer(static_cast<std::size_t>(room), chunk);
  SetSpans(file, chunk);
  sources.Read(chunk.reads, chunk.input_buffer, chunk.inputs);
}

void EvaluateChunk(const PlannedFile& file, std::string_view header, Chunk& chunk) {
  if (chunk.offset < header.size()) {
    const std::string_view piece =
        header.substr(static_cast<std::size_t>(chunk.offset), chunk.data.size());
    std::memcpy(chunk.data.data(), piece.data(), piece.size());
  }
  FillGaps(header.size(), chunk);
  for (ChunkPart& part : chunk.parts) {
    if (part.kind == ChunkPart::Kind::kLate) continue;
    const std::span<const std::span<const std::byte>> inputs =
        std::span(chunk.inputs).subspan(part.first_input, part.num_inputs);
    if (part.kind == ChunkPart::Kind::kExpected) {
      std::memcpy(part.output.data(), inputs[0].data(), part.output.size());
      continue;
    }
    if (!inputs.empty()) part.streamed = inputs[0];
    const PlannedTensor& tensor = file.tensors[part.tensor];
    EvaluationOutput made{part.output, part.by_product, {}};
    tensor.expression->Evaluate(part.range.begin, part.range.end, inputs, made);
    part.counts = std::move(made.counts);
    if (part.by_product.empty() || !file.tensors[tensor.by_product].expression->expected_source()) {
      continue;
    }
    const std::span<const std::byte> expected = chunk.inputs[part.first_input + part.num_inputs];
    part.as_expected = std::memcmp(part.by_product.data(), expected.data(), expected.size()) == 0;
  }
  EvaluateBases(file, chunk);
}

std::uint64_t WriteChunk(const Chunk& chunk, PageWriter& writer) {
  std::uint64_t written = 0;
  const auto write = [&](std::uint64_t offset, std::span<const std::byte> data) {
    writer.Write(offset, data);
    written += data.size();
  };
  // Bytes that lie together are written together; by-products between them are written by the
  // chunks of their makers.
  std::size_t begin = 0;
  const auto write_until = [&](std::size_t end) {
    write(chunk.offset + begin, chunk.data.subspan(begin, end - begin));
  };
  for (const ChunkPart& part : chunk.parts) {
    if (part.kind == ChunkPart::Kind::kValue) continue;
    const auto place = static_cast<std::size_t>(part.output.data() - chunk.data.data());
    write_until(place);
    begin = place + part.output.size();
  }
  write_until(chunk.data.size());
  for (const ChunkPart& part : chunk.parts) write(part.by_product_offset, part.by_product);
  return written;
}

}  // namespace dsv3::convert
