#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>

#include "convert/recipes/fp8_to_bf16.h"
#include "formats/error.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Scales that lie close together are read together; one scale of a hostile shape is read in pieces
// of this size.
constexpr std::uint64_t kReadBytes = std::uint64_t{1} << 20;

bool IsBad(float scale) { return !std::isfinite(scale) || scale <= 0; }

struct BadScale {
  std::uint64_t count = 0;
  std::uint64_t first_element = 0;
  float first_value = 0;
};

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
                               const BadScale& bad, std::size_t bad_tensors) {
  const std::string& file = catalog.files()[scale.extent.file].name;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format(
          "{}: scale {} is {} at {}, expected a finite positive number (bad "
          "scales in this tensor: {}; tensors with bad scales: {}); the checkpoint is damaged. "
          "--allow-bad-scales converts it all the same",
          formats::ShownPath(file), QuoteForMessage(scale.name), bad.first_value,
          PlaceOf(bad.first_element, scale.shape), bad.count, bad_tensors),
      {file, scale.name});
}

// Buffers of one thread.
struct Scratch {
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  std::vector<float> scales;
};

}  // namespace

ScaleCheck CheckScales(const Catalog& catalog, const std::vector<ScaledWeight>& pairs,
                       bool allow_bad_scales, bool sha256, SourceFiles& sources,
                       ProgressSink& progress, const StopToken& stop) {
  // In the order of the disk.
  std::vector<std::uint32_t> order(pairs.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto extent_of = [&](std::uint32_t pair) -> const Extent& {
    return catalog.tensors()[pairs[pair].scale].extent;
  };
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return std::pair(extent_of(a).file, extent_of(a).offset) <
           std::pair(extent_of(b).file, extent_of(b).offset);
  });
  std::uint64_t total_bytes = 0;
  for (const ScaledWeight& pair : pairs) {
    total_bytes += catalog.tensors()[pair.scale].extent.length;
  }
  progress.OnPhase("checking scales", total_bytes);

  // Groups of neighbours, each read in one call.
  std::vector<std::pair<std::size_t, std::size_t>> groups;
  std::uint64_t group_bytes = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Extent& extent = extent_of(order[i]);
    if (groups.empty() || group_bytes + extent.length > kReadBytes ||
        extent_of(order[i - 1]).file != extent.file) {
      groups.emplace_back(i, i);
      group_bytes = 0;
    }
    groups.back().second = i + 1;
    group_bytes += extent.length;
  }

  ScaleCheck result;
  result.digests.resize(pairs.size());
  result.significands.resize(pairs.size());
  std::vector<BadScale> bad(pairs.size());
  tbb::enumerable_thread_specific<Scratch> scratches;

  const auto check_group = [&](std::pair<std::size_t, std::size_t> group) {
    Scratch& scratch = scratches.local();
    const std::span<const std::uint32_t> members =
        std::span(order).subspan(group.first, group.second - group.first);
    // All members whole; a lone large member in pieces.
    const std::uint64_t longest = members.size() == 1 ? extent_of(members[0]).length : kReadBytes;
    std::vector<formats::Xxh3> xxh3(members.size());
    std::vector<formats::Sha256> sha(sha256 ? members.size() : 0);
    for (std::uint64_t begin = 0; begin == 0 || begin < longest; begin += kReadBytes) {
      if (stop.stopped()) return;
      std::vector<SourceRange> ranges;
      for (const std::uint32_t member : members) {
        ranges.push_back(
            {pairs[member].scale, begin, std::min(extent_of(member).length, begin + kReadBytes)});
      }
      sources.Read(ranges, scratch.buffer, scratch.inputs);
      for (std::size_t m = 0; m < members.size(); ++m) {
        const CatalogTensor& scale = catalog.tensors()[pairs[members[m]].scale];
        const std::span<const std::byte> bytes = scratch.inputs[m];
        xxh3[m].Update(bytes);
        if (sha256) sha[m].Update(bytes);
        quant::DecodeScales(pairs[members[m]].scale_format, bytes, scratch.scales);
        result.significands[members[m]].Add(scratch.scales);
        for (std::size_t e = 0; e < scratch.scales.size(); ++e) {
          if (!IsBad(scratch.scales[e])) continue;
          BadScale& found = bad[members[m]];
          if (found.count++ == 0) {
            found.first_element = begin / (formats::DtypeBits(scale.dtype) / 8) + e;
            found.first_value = scratch.scales[e];
          }
        }
        progress.OnBytes(bytes.size(), catalog.files()[scale.extent.file].name);
      }
    }
    for (std::size_t m = 0; m < members.size(); ++m) {
      result.digests[members[m]].xxh3 = xxh3[m].Hex();
      if (sha256) result.digests[members[m]].sha256 = sha[m].FinishHex();
    }
  };
  tbb::parallel_for(std::size_t{0}, groups.size(), [&](std::size_t i) { check_group(groups[i]); });
  if (stop.stopped()) ThrowInterrupted();

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
