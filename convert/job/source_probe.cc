#include "convert/job/source_probe.h"

#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <unordered_map>
#include <vector>

#include "convert/open/base_tensors.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kUsualBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kMostBytes = std::uint64_t{256} << 20;

// The position of a recorded source in the catalog, where its bytes lie there as they were
// recorded; of a second checkpoint that is known of a base alone.
std::uint32_t PositionOf(const formats::ManifestSource& source, const Catalog& catalog) {
  if (source.checkpoint.empty()) return catalog.Find(source.name);
  if (source.checkpoint != kBaseOption) return Catalog::kNone;
  const std::uint32_t position = catalog.FindAppended(source.name);
  if (position == Catalog::kNone) return position;
  // FP8 weights of a base stand for BF16 ones.
  const CatalogTensor& tensor = catalog.tensors()[position];
  const bool same = tensor.dtype == source.dtype && tensor.shape == source.shape;
  return same ? position : Catalog::kNone;
}

// By catalog position, what the manifest records of source tensors.
std::unordered_map<std::uint32_t, std::string> RecordedDigests(const ManifestSummary& manifest,
                                                               const Catalog& catalog) {
  std::unordered_map<std::uint32_t, std::string> digests;
  for (const formats::ManifestTensor& tensor : manifest.tensors) {
    for (const formats::ManifestSource& source : tensor.sources) {
      if (!source.file.empty() || source.xxh3.empty()) continue;
      const std::uint32_t position = PositionOf(source, catalog);
      if (position != Catalog::kNone) digests.emplace(position, source.xxh3);
    }
  }
  return digests;
}

// Whether the first tensor says more of its file than the second: of the usual size the larger one,
// else the smaller one.
bool IsBetter(std::uint64_t bytes, std::uint64_t other) {
  const bool usual = bytes <= kUsualBytes;
  const bool other_usual = other <= kUsualBytes;
  if (usual != other_usual) return usual;
  return usual ? bytes > other : bytes < other;
}

// One tensor of each file that is there, kNone where there is none.
std::vector<std::uint32_t> ChooseTensors(
    const Catalog& catalog, const std::unordered_map<std::uint32_t, std::string>& digests) {
  std::vector<std::uint32_t> chosen(catalog.files().size(), Catalog::kNone);
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const Extent& extent = catalog.tensors()[i].extent;
    if (extent.length == 0 || digests.count(i) == 0) continue;
    std::uint32_t& best = chosen[extent.file];
    if (best == Catalog::kNone || IsBetter(extent.length, catalog.tensors()[best].extent.length)) {
      best = i;
    }
  }
  for (std::uint32_t file = 0; file < chosen.size(); ++file) {
    std::error_code error;
    if (!std::filesystem::exists(catalog.files()[file].path, error)) chosen[file] = Catalog::kNone;
  }
  return chosen;
}

}  // namespace

std::optional<std::uint32_t> FindOtherTensor(const ManifestSummary& manifest, SourceFiles& sources,
                                             const StopToken& stop) {
  const Catalog& catalog = sources.catalog();
  const std::unordered_map<std::uint32_t, std::string> digests = RecordedDigests(manifest, catalog);
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  std::uint64_t bytes = 0;
  for (const std::uint32_t tensor : ChooseTensors(catalog, digests)) {
    if (tensor == Catalog::kNone) continue;
    const std::uint64_t length = catalog.tensors()[tensor].extent.length;
    bytes += length;
    if (bytes > kMostBytes) break;
    if (stop.stopped()) ThrowInterrupted();
    const SourceRange range{tensor, 0, length};
    sources.Read(std::span(&range, 1), buffer, inputs);
    if (formats::Xxh3Hex(inputs[0]) != digests.at(tensor)) return tensor;
  }
  return std::nullopt;
}

}  // namespace dsv3::convert
