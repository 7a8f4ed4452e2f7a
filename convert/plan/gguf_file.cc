#include "convert/plan/gguf_file.h"

#include <span>
#include <string_view>
#include <utility>

#include "convert/plan/gguf_encode_expression.h"
#include "formats/error.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

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

PlannedFile PlanGgufFile(std::string name, const formats::GgufKeys& keys,
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
  file.header_digest = formats::Xxh3Hex(std::as_bytes(std::span(file.given_header)));
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

}  // namespace dsv3::convert
