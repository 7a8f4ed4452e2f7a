#include "convert/recipes/shared_copies.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/parallel/slicing.h"
#include "convert/stream/source_files.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kReadBytes = std::uint64_t{4} << 20;

[[noreturn]] void FailDifferent(const OpenedModel& model, const SharedCopy& pair,
                                const std::string& how) {
  const std::string& name = model.catalog.tensors()[pair.copy].name;
  const bool mtp = PlaceOf(name, FindNamePrefix(model.catalog), model.config).mtp;
  throw Error(ErrorCode::kBadInput,
              fmt::format("tensor {}: {} {}, and the output has one tensor for both, so that the "
                          "values of one would be lost{}",
                          QuoteForMessage(name), how,
                          QuoteForMessage(model.catalog.tensors()[pair.main].name),
                          mtp ? "; where the MTP layers are not needed, leave them out first: "
                                "dsv3-convert train-to-infer --mtp drop"
                              : ""),
              {"", name});
}

bool IsThere(const Catalog& stored, std::uint32_t tensor) {
  const Extent& extent = stored.tensors()[tensor].extent;
  return formats::Exists(stored.files()[extent.file].path);
}

}  // namespace

bool AreFilesThere(const ModelTensors& tensors, std::uint32_t tensor) {
  for (const DerivedTensors& derived : tensors.derived) {
    if (!derived.Holds(tensor)) continue;
    const std::vector<std::uint32_t> sources = derived.OriginOf(tensor).streamed_sources();
    return std::all_of(sources.begin(), sources.end(),
                       [&](std::uint32_t source) { return IsThere(*derived.stored, source); });
  }
  return IsThere(tensors.catalog, tensor);
}

std::optional<std::uint64_t> FindDifference(const OpenedModel& model, const SharedCopy& pair,
                                            const StopToken& stop, const AssembledModel* appended) {
  const CatalogTensor& copy = model.catalog.tensors()[pair.copy];
  const CatalogTensor& main = model.catalog.tensors()[pair.main];
  if (copy.dtype != main.dtype || copy.shape != main.shape) return 0;
  const ModelTensors tensors = TensorsOf(model, appended);
  if (!AreFilesThere(tensors, pair.copy) || !AreFilesThere(tensors, pair.main)) return std::nullopt;
  SourceFiles sources(tensors.catalog, tensors.derived);
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  const std::uint64_t bytes = copy.extent.length;
  for (std::uint64_t begin = 0; begin < bytes; begin += kReadBytes) {
    if (stop.stopped()) ThrowInterrupted();
    const std::uint64_t end = std::min(bytes, begin + kReadBytes);
    const SourceRange ranges[] = {{pair.copy, begin, end}, {pair.main, begin, end}};
    sources.Read(ranges, buffer, inputs);
    const auto [here, there] = std::ranges::mismatch(inputs[0], inputs[1]);
    if (here != inputs[0].end())
      return begin + static_cast<std::uint64_t>(here - inputs[0].begin());
  }
  return std::nullopt;
}

void RequireEqualCopies(const OpenedModel& model, const std::vector<SharedCopy>& copies,
                        const StopToken& stop) {
  for (const SharedCopy& pair : copies) {
    const CatalogTensor& copy = model.catalog.tensors()[pair.copy];
    const CatalogTensor& main = model.catalog.tensors()[pair.main];
    if (copy.dtype != main.dtype || copy.shape != main.shape) {
      FailDifferent(model, pair, "it has another dtype or shape than");
    }
    if (const auto difference = FindDifference(model, pair, stop)) {
      FailDifferent(model, pair, fmt::format("from byte {} on it differs from", *difference));
    }
  }
}

}  // namespace dsv3::convert
