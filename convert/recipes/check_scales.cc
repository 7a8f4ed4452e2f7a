#include "convert/recipes/check_scales.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "convert/stream/executor.h"
#include "convert/stream/value_scan.h"
#include "convert/stream/weight_shapes.h"
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

[[noreturn]] void FailBadScale(const Catalog& catalog, const CatalogTensor& scale, bool is_zero,
                               const BadScales& bad, std::size_t bad_tensors,
                               std::string_view advice) {
  const std::string& file = catalog.files()[scale.extent.file].name;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format(
          "{}: {} {} is {} at {}, expected a finite {}number (bad "
          "scales in this tensor: {}; tensors with bad scales: {}); the checkpoint is damaged; {}",
          formats::ShownPath(file), is_zero ? "zero point" : "scale", QuoteForMessage(scale.name),
          bad.first_value, PlaceOf(bad.first, scale.shape), is_zero ? "" : "positive ", bad.count,
          bad_tensors, advice),
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

// A tensor that is read before the weights are.
struct SideTensor {
  enum class Kind { kScale, kTensorScale, kZeros };
  std::size_t pair = 0;
  Kind kind = Kind::kScale;
};

// The values among some zero points that cannot be subtracted: NaN and infinite ones.
void AddBadZeros(std::uint64_t begin, std::span<const float> values, BadScales& bad) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) bad.Add(begin + i, values.subspan(i, 1));
  }
}

}  // namespace

ScaleCheck CheckScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                       bool allow_bad_scales, bool sha256, SourceFiles& sources,
                       ProgressSink& progress, const StopToken& stop, const SideDigests& known,
                       const ScaleLook& look) {
  ScaleCheck result;
  result.digests.resize(pairs.size());
  result.significands.resize(pairs.size());
  std::vector<SideTensor> sides;  // in the order of `tensors`
  std::vector<std::uint32_t> tensors;
  const auto add = [&](std::uint32_t tensor, std::size_t pair, SideTensor::Kind kind) {
    if (tensor == Catalog::kNone || known.count(tensor) != 0) return;
    tensors.push_back(tensor);
    sides.push_back({pair, kind});
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    add(pairs[i].scale, i, SideTensor::Kind::kScale);
    add(pairs[i].tensor_scale, i, SideTensor::Kind::kTensorScale);
    add(pairs[i].zeros, i, SideTensor::Kind::kZeros);
  }
  std::vector<std::uint32_t> side_of(catalog.tensors().size());  // positions in `sides`
  for (std::uint32_t i = 0; i < tensors.size(); ++i) side_of[tensors[i]] = i;
  std::vector<Digests> digests(sides.size());
  std::vector<BadScales> bad(sides.size());
  std::vector<std::unique_ptr<Hashes>> hashes(sides.size());  // of those that are being read
  const ScaleMap scales(pairs, catalog.tensors().size());
  // What belongs to a tensor is changed by one thread at a time, since its pieces come in order.
  const auto visit = [&](const ValuePiece& piece) {
    const std::uint32_t at = side_of[piece.tensor];
    const SideTensor& side = sides[at];
    if (piece.reader.form() == ValueForm::kFloat) {
      std::vector<float> values(static_cast<std::size_t>(piece.end - piece.begin));
      piece.reader.Floats(piece.begin, piece.bytes, piece.scales, values.data());
      if (side.kind == SideTensor::Kind::kScale) result.significands[side.pair].Add(values);
      if (side.kind == SideTensor::Kind::kZeros) {
        AddBadZeros(piece.begin, values, bad[at]);
      } else {
        bad[at].Add(piece.begin, values);
      }
    }
    if (look.visit) look.visit(piece.tensor, piece.bytes);
    if (!hashes[at]) hashes[at] = std::make_unique<Hashes>();
    hashes[at]->Add(piece.bytes, sha256);
    if (piece.end != piece.reader.elements()) return;
    digests[at] = hashes[at]->Finish(sha256);
    hashes[at].reset();
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    // No piece will come of an empty one.
    if (catalog.tensors()[tensors[i]].extent.length == 0) digests[i] = Hashes().Finish(sha256);
  }
  ValueScanOptions options;
  options.threads = ResolveThreads(0);
  options.memory_bytes = kMinMemoryBytes;
  options.phase = "checking scales";
  options.in_order = true;
  ScanValues(catalog, tensors, scales, sources, options, {}, visit, progress, stop);

  std::size_t first_bad = bad.size();
  for (std::size_t i = 0; i < bad.size(); ++i) {
    if (sides[i].kind == SideTensor::Kind::kScale) {
      result.digests[sides[i].pair] = std::move(digests[i]);
    } else {
      result.beside.emplace(tensors[i], std::move(digests[i]));
    }
    if (bad[i].count == 0) continue;
    first_bad = std::min(first_bad, i);
    result.bad_scales.push_back({catalog.tensors()[tensors[i]].name, bad[i].count});
  }
  if (!result.bad_scales.empty() && !allow_bad_scales) {
    FailBadScale(catalog, catalog.tensors()[tensors[first_bad]],
                 sides[first_bad].kind == SideTensor::Kind::kZeros, bad[first_bad],
                 result.bad_scales.size(), look.advice);
  }
  return result;
}

void CheckWeightShapes(const Catalog& catalog, const std::vector<ScaledWeight>& weights,
                       const std::function<bool(std::string_view file)>& is_there,
                       SourceFiles& sources, const StopToken& stop) {
  for (const formats::Finding& wrong :
       FindWrongWeightShapes(catalog, weights, is_there, sources, stop)) {
    throw Error(ErrorCode::kBadInput, wrong.message, {wrong.file, wrong.tensor});
  }
}

}  // namespace dsv3::convert
