#include "convert/job/source_probe.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/job/source_use.h"
#include "convert/open/base_tensors.h"
#include "convert/plan/expression.h"
#include "convert/plan/planned_file.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

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
    if (!formats::Exists(catalog.files()[file].path)) chosen[file] = Catalog::kNone;
  }
  return chosen;
}

// Whether the value follows from the source's bytes alone, and not from a pass over them before.
bool IsMadeOfBytes(const Expression& expression) {
  constexpr std::array<std::string_view, 7> kRules = {
      "copy", "cast", "assemble", "slice", "dequantize", "transpose", "encode"};
  return expression.num_bytes() > 0 && expression.by_product() == nullptr &&
         std::find(kRules.begin(), kRules.end(), expression.rule()) != kRules.end();
}

// Compares tensors of the output with those that the source gives now.
class OutputProbe {
 public:
  OutputProbe(const ManifestSummary& manifest, const Plan& plan, const ModelTensors& source,
              SourceFiles& sources)
      : plan_(plan), source_(source), sources_(sources), use_(source) {
    for (const formats::ManifestTensor& tensor : manifest.tensors) {
      digests_.emplace(std::pair(tensor.file, tensor.name), tensor.xxh3);
    }
  }

  std::optional<OtherTensor> Find(const StopToken& stop) {
    std::uint64_t bytes = 0;
    for (const PlannedFile& file : plan_.files) {
      const PlannedTensor* const tensor = Choose(file);
      if (tensor == nullptr) continue;
      bytes += tensor->expression->num_bytes() * tensor->expression->input_bytes_per_output_byte();
      if (bytes > kMostBytes) break;
      if (stop.stopped()) ThrowInterrupted();
      PlannedFile one;
      one.tensors.push_back(*tensor);
      const std::vector<std::uint32_t> needed = use_.FilesOf(one);
      if (needed.empty() || !AreThere(needed)) continue;
      if (DigestNow(*tensor->expression) == digests_.at({file.name, tensor->entry.name})) continue;
      const std::uint32_t first = tensor->expression->streamed_sources().front();
      return OtherTensor{std::string(source_.catalog.NameInFile(first)),
                         formats::ShownPath(use_.files()[needed.front()].DisplayName()), false};
    }
    return std::nullopt;
  }

 private:
  const PlannedTensor* Choose(const PlannedFile& file) const {
    const PlannedTensor* best = nullptr;
    for (const PlannedTensor& tensor : file.tensors) {
      const auto digest = digests_.find({file.name, tensor.entry.name});
      if (digest == digests_.end() || digest->second.empty()) continue;
      if (!IsMadeOfBytes(*tensor.expression) || tensor.expression->streamed_sources().empty()) {
        continue;
      }
      if (best == nullptr || IsBetter(tensor.entry.bytes, best->entry.bytes)) best = &tensor;
    }
    return best;
  }

  bool AreThere(const std::vector<std::uint32_t>& files) const {
    return std::all_of(files.begin(), files.end(), [&](std::uint32_t file) {
      return formats::Exists(use_.files()[file].path);
    });
  }

  std::string DigestNow(const Expression& expression) {
    std::vector<SourceRange> reads;
    expression.AppendReads(0, expression.num_bytes(), reads);
    std::vector<std::span<const std::byte>> inputs;
    sources_.Read(reads, buffer_, inputs);
    std::vector<std::byte> value(static_cast<std::size_t>(expression.num_bytes()));
    EvaluationOutput out{value, {}, {}};
    expression.Evaluate(0, expression.num_bytes(), inputs, out);
    return formats::Xxh3Hex(value);
  }

  const Plan& plan_;
  const ModelTensors& source_;
  SourceFiles& sources_;
  const SourceUse use_;
  std::map<std::pair<std::string, std::string>, std::string> digests_;  // by file and name
  formats::AlignedBuffer buffer_;
};

}  // namespace

std::optional<OtherTensor> FindOtherTensor(const ManifestSummary& manifest, const Plan& plan,
                                           const ModelTensors& source, SourceFiles& sources,
                                           const StopToken& stop) {
  const Catalog& catalog = sources.catalog();
  const std::unordered_map<std::uint32_t, std::string> digests = RecordedDigests(manifest, catalog);
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  std::uint64_t bytes = 0;
  bool compared = false;
  for (const std::uint32_t tensor : ChooseTensors(catalog, digests)) {
    if (tensor == Catalog::kNone) continue;
    compared = true;
    const std::uint64_t length = catalog.tensors()[tensor].extent.length;
    bytes += length;
    if (bytes > kMostBytes) break;
    if (stop.stopped()) ThrowInterrupted();
    const SourceRange range{tensor, 0, length};
    sources.Read(std::span(&range, 1), buffer, inputs);
    if (formats::Xxh3Hex(inputs[0]) == digests.at(tensor)) continue;
    const SourceFile& file = catalog.files()[catalog.tensors()[tensor].extent.file];
    return OtherTensor{catalog.tensors()[tensor].name, formats::ShownPath(file.DisplayName()),
                       tensor >= catalog.tensors_end()};
  }
  if (compared) return std::nullopt;
  return OutputProbe(manifest, plan, source, sources).Find(stop);
}

}  // namespace dsv3::convert
