#include "convert/stream/weight_shapes.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <fmt/format.h>

#include "convert/model/code_names.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/message_text.h"
#include "formats/shape.h"

namespace dsv3::convert {
namespace {

// One of two little-endian integers.
std::uint64_t IntegerOf(std::span<const std::byte> two, std::size_t which) {
  const std::size_t bytes = two.size() / 2;
  std::uint64_t value = 0;
  for (std::size_t byte = bytes; byte-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(two[which * bytes + byte]);
  }
  return value;
}

}  // namespace

formats::Findings FindWrongWeightShapes(const Catalog& catalog,
                                        const std::vector<ScaledWeight>& weights,
                                        const std::function<bool(std::string_view file)>& is_there,
                                        SourceFiles& sources, const StopToken& stop) {
  constexpr std::string_view kWeight = ".weight";
  formats::Findings findings;
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  for (const ScaledWeight& weight : weights) {
    const CatalogTensor& codes = catalog.tensors()[weight.weight];
    const std::string name = WeightOfCodes(codes.name);
    if (codes.dtype != formats::Dtype::kI32 || !name.ends_with(kWeight)) continue;
    const std::uint32_t position = catalog.Find(name + "_shape");
    if (position == Catalog::kNone) continue;
    const CatalogTensor& shape = catalog.tensors()[position];
    const std::string& file = catalog.files()[shape.extent.file].name;
    if (!is_there(file)) continue;
    if (stop.stopped()) ThrowInterrupted();
    const SourceRange range{position, 0, shape.extent.length};
    sources.Read(std::span(&range, 1), buffer, inputs);
    const std::uint64_t rows = IntegerOf(inputs[0], 0);
    const std::uint64_t cols = IntegerOf(inputs[0], 1);
    if (rows == weight.rows && cols == weight.cols) continue;
    findings.push_back(
        {formats::Severity::kError, "wrong-weight-shape", file, shape.name,
         fmt::format("{}: tensor {} says [{}, {}], but {} of shape {} holds a weight of shape "
                     "[{}, {}]; take all tensors of the weight from one checkpoint",
                     formats::ShownPath(file), QuoteForMessage(shape.name), rows, cols,
                     QuoteForMessage(codes.name), formats::ShapeToString(codes.shape), weight.rows,
                     weight.cols)});
  }
  return findings;
}

}  // namespace dsv3::convert
