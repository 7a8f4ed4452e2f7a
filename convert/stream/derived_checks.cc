#include "convert/stream/derived_checks.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/stream/equal_tensors.h"
#include "convert/stream/file_digests.h"
#include "convert/stream/source_checks.h"
#include "convert/stream/value_checks.h"

namespace dsv3::convert {
namespace {

// Stored tensors that any of `tensors` needs, each once.
std::vector<std::uint32_t> StoredTensorsOf(const DerivedTensors& derived,
                                           const std::vector<std::uint32_t>& tensors) {
  std::vector<std::uint32_t> stored;
  for (const std::uint32_t tensor : tensors) {
    if (!derived.Holds(tensor)) continue;
    const Expression& origin = derived.OriginOf(tensor);
    for (const auto& sources : {origin.streamed_sources(), origin.side_sources()}) {
      stored.insert(stored.end(), sources.begin(), sources.end());
    }
  }
  std::sort(stored.begin(), stored.end());
  stored.erase(std::unique(stored.begin(), stored.end()), stored.end());
  return stored;
}

// Those with known digests, in the order of their files.
std::vector<std::uint32_t> WithDigests(const DerivedTensors& derived,
                                       std::vector<std::uint32_t> stored) {
  if (derived.digests == nullptr) return {};
  const std::vector<CatalogTensor>& all = derived.stored->tensors();
  std::erase_if(stored, [&](std::uint32_t tensor) {
    return all[tensor].extent.length == 0 || derived.digests->count(tensor) == 0;
  });
  std::sort(stored.begin(), stored.end(), [&](std::uint32_t a, std::uint32_t b) {
    return std::pair(all[a].extent.file, all[a].extent.offset) <
           std::pair(all[b].extent.file, all[b].extent.offset);
  });
  return stored;
}

// A file of which some tensors are digested.
struct CheckedFile {
  std::vector<std::uint32_t> tensors;
  FileToDigest wanted;
};

std::vector<CheckedFile> FilesOf(const Catalog& stored, const std::vector<std::uint32_t>& tensors) {
  std::vector<CheckedFile> files;
  std::uint32_t last = Catalog::kNone;
  for (const std::uint32_t tensor : tensors) {
    const Extent& extent = stored.tensors()[tensor].extent;
    if (files.empty() || extent.file != last) {
      const SourceFile& file = stored.files()[extent.file];
      files.push_back({{}, {file.DisplayName(), file.path, false, false, {}}});
      last = extent.file;
    }
    files.back().tensors.push_back(tensor);
    files.back().wanted.ranges.push_back({extent.offset, extent.offset + extent.length});
  }
  return files;
}

}  // namespace

void CheckDerivedTensors(const std::vector<DerivedTensors>& derived,
                         const std::vector<std::uint32_t>& tensors, unsigned threads,
                         ProgressSink& progress, const StopToken& stop) {
  CheckValues(derived, tensors, threads, progress, stop);
  for (const DerivedTensors& part : derived) {
    std::vector<std::uint32_t> needed = StoredTensorsOf(part, tensors);
    std::vector<std::vector<std::uint32_t>> copies;
    for (const std::vector<std::uint32_t>& group : part.copies) {
      if (std::binary_search(needed.begin(), needed.end(), group.front())) copies.push_back(group);
    }
    RequireEqualTensors(*part.stored, copies, threads, progress, stop);
    const std::vector<std::uint32_t> stored = WithDigests(part, std::move(needed));
    if (stored.empty()) continue;
    std::uint64_t bytes = 0;
    for (const std::uint32_t tensor : stored) bytes += part.stored->tensors()[tensor].extent.length;
    progress.OnPhase("checking source tensors", bytes);
    const std::vector<CheckedFile> files = FilesOf(*part.stored, stored);
    std::vector<FileToDigest> wanted;
    wanted.reserve(files.size());
    for (const CheckedFile& file : files) wanted.push_back(file.wanted);
    const std::vector<FileDigest> found = DigestFiles(wanted, threads, progress, stop);
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (found[i].error) throw Error(*found[i].error);
      for (std::size_t t = 0; t < files[i].tensors.size(); ++t) {
        const std::uint32_t tensor = files[i].tensors[t];
        RequireSourceDigest(*part.stored, tensor, part.digests->at(tensor), found[i].ranges[t]);
      }
    }
  }
}

void CheckCopies(const std::vector<DerivedTensors>& derived, unsigned threads,
                 ProgressSink& progress, const StopToken& stop) {
  CheckValues(derived, std::nullopt, threads, progress, stop);
  for (const DerivedTensors& part : derived) {
    RequireEqualTensors(*part.stored, part.copies, threads, progress, stop);
  }
}

}  // namespace dsv3::convert
