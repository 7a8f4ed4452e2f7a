#include "convert/plan/gguf_file.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/plan/gguf_encode_expression.h"
#include "formats/error.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

constexpr std::size_t kMaxSplits = 65'535;  // their number is a u16

class GgufContainer final : public Container {
 public:
  std::string_view suffix() const override { return ".gguf"; }
  std::uint64_t alignment() const override { return formats::kGgufAlignment; }

  void LayOut(std::vector<TensorEntry>& tensors) const override {
    std::uint64_t end = 0;
    for (TensorEntry& tensor : tensors) {
      tensor.offset = formats::AlignUp(end, alignment());
      const std::optional<std::uint64_t> bytes = formats::NumBytes(tensor.dtype, tensor.shape);
      if (!bytes || __builtin_add_overflow(tensor.offset, *bytes, &end)) {
        throw Error(ErrorCode::kInternal, "the bytes of a tensor cannot be counted",
                    {"", tensor.name});
      }
      tensor.bytes = *bytes;
    }
  }

  std::string Header(const std::vector<TensorEntry>& /*tensors*/,
                     const FileMetadata& /*metadata*/) const override {
    throw Error(ErrorCode::kInternal, "a GGUF file was planned without its header");
  }

  ContainerHeader ReadHeader(const std::filesystem::path& path,
                             const std::string& name) const override {
    formats::GgufHeader header = formats::ReadGgufHeader(path, name);
    std::vector<TensorEntry> tensors;
    tensors.reserve(header.tensors.size());
    for (formats::GgufTensor& tensor : header.tensors) {
      tensors.push_back({std::move(tensor.name), DtypeOfGguf(tensor.type),
                         ShapeOfGguf(tensor.type, tensor.shape), tensor.offset, tensor.bytes});
    }
    return {std::move(tensors), header.data_offset, std::move(header.digest)};
  }
};

}  // namespace

const Container& Gguf() {
  static const GgufContainer container;
  return container;
}

namespace {

// Lays one file out, with its tensors in this order.
PlannedFile PlanOneFile(std::string name, const formats::GgufKeys& keys,
                        std::vector<GgufPlanned> tensors) {
  std::vector<formats::GgufTensor> laid_out;
  laid_out.reserve(tensors.size());
  for (const GgufPlanned& tensor : tensors) {
    laid_out.push_back({tensor.name, tensor.type, tensor.shape, 0, 0});
  }
  formats::LayOutGgufTensors(laid_out);
  PlannedFile file;
  file.name = std::move(name);
  file.container = &Gguf();
  file.given_header = formats::SerializeGgufHeader(keys, laid_out);
  file.header_digest = formats::Xxh3Hex(file.given_header);
  file.data_offset = file.given_header.size();
  file.tensors.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    GgufPlanned& tensor = tensors[i];
    if (tensor.expression->num_bytes() != laid_out[i].bytes) {
      throw Error(ErrorCode::kInternal, "an expression makes other bytes than its type has",
                  {file.name, tensor.name});
    }
    PlannedTensor& planned = file.tensors.emplace_back();
    planned.entry = {std::move(tensor.name), tensor.expression->dtype(), tensor.expression->shape(),
                     laid_out[i].offset, laid_out[i].bytes};
    planned.expression = std::move(tensor.expression);
  }
  file.bytes = file.data_offset + (file.tensors.empty() ? 0 : file.tensors.back().entry.end());
  return file;
}

}  // namespace

std::vector<PlannedFile> PlanGgufFiles(const std::string& name, const formats::GgufKeys& keys,
                                       std::vector<GgufPlanned> tensors, std::uint64_t max_bytes) {
  std::vector<std::vector<GgufPlanned>> groups(1);
  const std::size_t total = tensors.size();
  std::uint64_t held = 0;  // bytes of the last group
  for (GgufPlanned& tensor : tensors) {
    const std::uint64_t bytes =
        formats::AlignUp(tensor.expression->num_bytes(), formats::kGgufAlignment);
    if (max_bytes != 0 && held != 0 && bytes > max_bytes - std::min(held, max_bytes)) {
      groups.emplace_back();
      held = 0;
    }
    held += bytes;
    groups.back().push_back(std::move(tensor));
  }
  std::vector<PlannedFile> files;
  if (groups.size() == 1) {
    files.push_back(PlanOneFile(name, keys, std::move(groups[0])));
    return files;
  }
  if (groups.size() > kMaxSplits) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("with --max-file-size {} there would be {} files, and GGUF counts up "
                            "to {}; give a larger size",
                            max_bytes, groups.size(), kMaxSplits));
  }
  const std::string stem = name.substr(0, name.size() - Gguf().suffix().size());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    formats::GgufKeys own = i == 0 ? keys : formats::GgufKeys();
    own.emplace_back("split.no", static_cast<std::uint16_t>(i));
    own.emplace_back("split.count", static_cast<std::uint16_t>(groups.size()));
    own.emplace_back("split.tensors.count", static_cast<std::int32_t>(total));
    files.push_back(PlanOneFile(fmt::format("{}-{:05}-of-{:05}.gguf", stem, i + 1, groups.size()),
                                own, std::move(groups[i])));
  }
  return files;
}

}  // namespace dsv3::convert
