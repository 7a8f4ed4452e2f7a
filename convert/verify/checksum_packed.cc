#include "convert/verify/checksum_packed.h"

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "convert/open/packed_model.h"
#include "convert/packing/chunk_coder.h"
#include "convert/packing/packed_file.h"
#include "convert/stream/executor.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

using formats::Finding;

Finding Fault(std::string kind, const std::string& file, const std::string& tensor,
              const std::string& message) {
  return {.severity = formats::Severity::kError,
          .kind = std::move(kind),
          .file = file,
          .tensor = tensor,
          .message = fmt::format("{}; download or copy the file again", message),
          .unreadable = false};
}

struct OpenedFile {
  std::unique_ptr<const formats::InputFile> input;
  std::unique_ptr<const PackedFile> packed;
};

// A tensor to unpack, and what is found of it.
struct Unit {
  const OpenedFile* file = nullptr;
  std::size_t tensor = 0;  // position in PackedFile::tensors
  const PackedManifestTensor* listed = nullptr;
  std::optional<Finding> finding = {};
};

std::string UnpackedDigest(const Unit& unit, ProgressSink& progress, const StopToken& stop) {
  thread_local ChunkDecoder decoder;
  const PackedTensor& tensor = unit.file->packed->tensors()[unit.tensor];
  const PackedChunks chunks = unit.file->packed->ReadChunks(*unit.file->input, unit.tensor);
  std::vector<std::byte> packed;
  std::vector<std::byte> raw;
  formats::Xxh3 hash;
  for (std::size_t i = 0; i < chunks.chunks.size(); ++i) {
    if (stop.stopped()) ThrowInterrupted();
    const PackedChunk& chunk = chunks.chunks[i];
    packed.resize(chunk.bytes);
    raw.resize(chunk.raw_bytes);
    unit.file->input->ReadAt(chunk.offset, packed);
    decoder.Decode(packed, chunks.FramesOf(chunk), {}, {unit.file->input->name(), tensor.name, i},
                   raw);
    hash.Update(raw);
    progress.OnBytes(chunk.bytes, unit.file->input->name());
  }
  return hash.Hex();
}

void Compare(Unit& unit, ProgressSink& progress, const StopToken& stop) {
  const std::string& file = unit.file->input->name();
  const std::string& tensor = unit.listed->name;
  try {
    const std::string digest = UnpackedDigest(unit, progress, stop);
    if (digest == unit.listed->xxh3) return;
    unit.finding =
        Fault("wrong-tensor-digest", file, tensor,
              fmt::format("{}: tensor {} unpacks to bytes with XXH3-128 {}, expected {} ({})",
                          formats::ShownPath(file), QuoteForMessage(tensor), digest,
                          unit.listed->xxh3, kPackedManifestName));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    unit.finding = Fault("damaged-tensor", file, tensor, error.message());
  }
}

// The packed files that can be opened; the fault of one that cannot goes to `findings`.
void OpenFile(const fs::path& directory, const PackedManifestFile& file, OpenedFile& opened,
              formats::Findings& findings) {
  const std::string name = file.PackedName();
  std::error_code error;
  if (fs::file_size(directory / name, error) != file.packed_bytes || error) return;
  try {
    opened.input = std::make_unique<formats::InputFile>(directory / name, name);
    opened.packed = std::make_unique<PackedFile>(*opened.input);
  } catch (const Error& fault) {
    if (fault.code() != ErrorCode::kBadInput) throw;
    findings.push_back(Fault("damaged-tensor", name, "", fault.message()));
    opened.packed.reset();
  }
}

}  // namespace

PackedComparison ComparePackedTensors(const PackedManifest& manifest, const fs::path& directory,
                                      unsigned threads, ProgressSink& progress,
                                      const StopToken& stop) {
  PackedComparison comparison;
  std::vector<OpenedFile> files(manifest.files.size());
  std::vector<Unit> units;
  const auto tensors = manifest.TensorsByFile();
  for (std::size_t i = 0; i < files.size(); ++i) {
    const PackedManifestFile& file = manifest.files[i];
    if (!file.packed) continue;
    OpenFile(directory, file, files[i], comparison.findings);
    if (!files[i].packed) continue;
    const std::vector<PackedTensor>& held = files[i].packed->tensors();
    const auto found = tensors.find(file.name);
    const std::vector<const PackedManifestTensor*> listed =
        found == tensors.end() ? std::vector<const PackedManifestTensor*>() : found->second;
    if (!HoldsListed(*files[i].packed, listed)) {
      const std::string name = file.PackedName();
      comparison.findings.push_back(
          Fault("wrong-tensors", name, "",
                fmt::format("{}: it does not hold the tensors that {} lists for it",
                            formats::ShownPath(name), kPackedManifestName)));
      continue;
    }
    for (std::size_t tensor = 0; tensor < held.size(); ++tensor) {
      if (!listed[tensor]->base_xxh3.empty()) continue;
      units.push_back({&files[i], tensor, listed[tensor]});
      comparison.bytes_read += held[tensor].stream_bytes;
    }
  }
  progress.OnPhase("unpacking the tensors", comparison.bytes_read);
  tbb::task_arena arena(static_cast<int>(ResolveThreads(threads)));
  arena.execute([&] {
    tbb::parallel_for(std::size_t{0}, units.size(),
                      [&](std::size_t i) { Compare(units[i], progress, stop); });
  });
  for (Unit& unit : units) {
    if (unit.finding) comparison.findings.push_back(std::move(*unit.finding));
  }
  return comparison;
}

}  // namespace dsv3::convert
