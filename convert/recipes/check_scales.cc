#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "convert/recipes/fp8_to_bf16.h"
#include "convert/stream/executor.h"
#include "convert/stream/value_scan.h"
#include "formats/error.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Where an element is, as an index into its tensor: "[2, 1]"; "[]" for a scalar.
std::string PlaceOf(std::uint64_t element, const formats::Shape& shape) {
  formats::Shape place(shape.size());
  for (std::size_t dim = shape.size(); dim-- > 0;) {
    place[dim] = element % shape[dim];
    element /= shape[dim];
  }
  return formats::ShapeToString(place);
}

[[noreturn]] void FailBadScale(const Catalog& catalog, const CatalogTensor& scale,
                               const BadScales& bad, std::size_t bad_tensors) {
  const std::string& file = catalog.files()[scale.extent.file].name;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format(
          "{}: scale {} is {} at {}, expected a finite positive number (bad "
          "scales in this tensor: {}; tensors with bad scales: {}); the checkpoint is damaged. "
          "--allow-bad-scales converts it all the same",
          formats::ShownPath(file), QuoteForMessage(scale.name), bad.first_value,
          PlaceOf(bad.first, scale.shape), bad.count, bad_tensors),
      {file, scale.name});
}

// The digests of a scale while its pieces come in.
struct Hashes {
  formats::Xxh3 xxh3;
  formats::Sha256 sha256;

  void Add(std::span<const std::byte> bytes, bool with_sha256) {
    xxh3.Update(bytes);
    if (with_sha256) sha256.Update(bytes);
  }
  Digests Finish(bool with_sha256) {
    Digests digests;
    digests.xxh3 = xxh3.Hex();
    if (with_sha256) digests.sha256 = sha256.FinishHex();
    return digests;
  }
};

}  // namespace

ScaleCheck CheckScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                       bool allow_bad_scales, bool sha256, SourceFiles& sources,
                       ProgressSink& progress, const StopToken& stop) {
  ScaleCheck result;
  result.digests.resize(pairs.size());
  result.significands.resize(pairs.size());
  std::vector<BadScales> bad(pairs.size());
  std::vector<std::unique_ptr<Hashes>> hashes(pairs.size());  // of scales that are being read
  const ScaleMap scales(pairs, catalog.tensors().size());
  // What belongs to a pair is changed by one thread at a time, since a scale's pieces come in
  // order.
  const auto visit = [&](const ValuePiece& piece) {
    const auto pair = static_cast<std::size_t>(scales.OfScale(piece.tensor) - pairs.data());
    std::vector<float> values(static_cast<std::size_t>(piece.end - piece.begin));
    piece.reader.Floats(piece.begin, piece.bytes, piece.scales, values.data());
    result.significands[pair].Add(values);
    bad[pair].Add(piece.begin, values);
    if (!hashes[pair]) hashes[pair] = std::make_unique<Hashes>();
    hashes[pair]->Add(piece.bytes, sha256);
    if (piece.end != piece.reader.elements()) return;
    result.digests[pair] = hashes[pair]->Finish(sha256);
    hashes[pair].reset();
  };
  std::vector<std::uint32_t> tensors;
  tensors.reserve(pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    tensors.push_back(pairs[i].scale);
    // No piece will come of an empty one.
    if (catalog.tensors()[pairs[i].scale].extent.length == 0) {
      result.digests[i] = Hashes().Finish(sha256);
    }
  }
  ValueScanOptions options;
  options.threads = ResolveThreads(0);
  options.memory_bytes = kMinMemoryBytes;
  options.phase = "checking scales";
  options.in_order = true;
  ScanValues(catalog, tensors, scales, sources, options, {}, visit, progress, stop);

  std::size_t first_bad = bad.size();
  for (std::size_t i = 0; i < bad.size(); ++i) {
    if (bad[i].count == 0) continue;
    first_bad = std::min(first_bad, i);
    result.bad_scales.push_back({catalog.tensors()[pairs[i].scale].name, bad[i].count});
  }
  if (!result.bad_scales.empty() && !allow_bad_scales) {
    FailBadScale(catalog, catalog.tensors()[pairs[first_bad].scale], bad[first_bad],
                 result.bad_scales.size());
  }
  return result;
}

}  // namespace dsv3::convert
