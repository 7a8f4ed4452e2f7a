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

#include "convert/catalog/catalog.h"
#include "convert/open/base_tensors.h"
#include "convert/open/packed_model.h"
#include "convert/packing/chunk_coder.h"
#include "convert/packing/packed_file.h"
#include "convert/plan/expression.h"
#include "convert/stream/executor.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_bytes.h"
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
  std::optional<PackedHead> head;
};

// A tensor to unpack, and what is found of it.
struct Unit {
  const OpenedFile* file = nullptr;
  std::size_t tensor = 0;  // position in PackedHead::streams
  const PackedManifestTensor* listed = nullptr;
  ExpressionPtr base = nullptr;  // what it was packed against; nullptr: none
  std::optional<Finding> finding = {};
};

// What there is beside the packed checkpoint.
struct Base {
  explicit Base(const fs::path& directory) : tensors(directory) {
    tensors.AppendTo(catalog);
    sources.emplace(catalog);
  }

  BaseTensors tensors;
  Catalog catalog;
  std::optional<SourceFiles> sources;
};

// The digests of what a tensor unpacks to and of its base's.
struct UnpackedDigests {
  std::string tensor;
  std::string base;
  std::optional<Error> fault;  // why the tensor does not unpack
};

// `base`: what a unit with a base reads; nullptr where no unit has one.
UnpackedDigests Unpack(const Unit& unit, SourceFiles* base, ProgressSink& progress,
                       const StopToken& stop) {
  thread_local ChunkDecoder decoder;
  const PackedStream& stream = unit.file->head->streams[unit.tensor];
  const PackedChunks chunks = ReadPackedChunks(*unit.file->input, stream);
  std::vector<std::byte> packed;
  std::vector<std::byte> raw;
  std::vector<std::byte> beside;
  formats::Xxh3 hash;
  formats::Xxh3 base_hash;
  UnpackedDigests digests;
  for (std::size_t i = 0; i < chunks.chunks.size(); ++i) {
    if (stop.stopped()) ThrowInterrupted();
    const PackedChunk& chunk = chunks.chunks[i];
    if (unit.base && base != nullptr) {
      beside = ReadValue(*unit.base, {chunk.raw_begin, chunk.raw_begin + chunk.raw_bytes}, *base);
      base_hash.Update(beside);
    }
    packed.resize(chunk.bytes);
    raw.resize(chunk.raw_bytes);
    unit.file->input->ReadAt(chunk.offset, packed);
    progress.OnBytes(chunk.bytes, unit.file->input->name());
    if (digests.fault) continue;
    try {
      decoder.Decode(packed, chunks.FramesOf(chunk), beside,
                     {unit.file->input->name(), stream.tensor, i}, raw);
      hash.Update(raw);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadInput) throw;
      digests.fault = error;
      // The rest of the base says which of the two is at fault.
      if (!unit.base) return digests;
    }
  }
  digests.tensor = hash.Hex();
  digests.base = base_hash.Hex();
  return digests;
}

void RequireSameBase(const Unit& unit, const UnpackedDigests& digests) {
  if (!unit.base || digests.base == unit.listed->base_xxh3) return;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} was packed against one with XXH3-128 {}, but that of the "
                          "base has {}; give the base that pack was given",
                          formats::ShownPath(unit.file->input->name()),
                          QuoteForMessage(unit.listed->name), unit.listed->base_xxh3, digests.base),
              {unit.file->input->name(), unit.listed->name});
}

void Compare(Unit& unit, SourceFiles* base, ProgressSink& progress, const StopToken& stop) {
  const std::string& file = unit.file->input->name();
  const std::string& tensor = unit.listed->name;
  UnpackedDigests digests;
  try {
    digests = Unpack(unit, base, progress, stop);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput || error.place().file != file) throw;
    digests.fault = error;
    digests.base = unit.listed->base_xxh3;  // not known
  }
  RequireSameBase(unit, digests);
  if (digests.fault) {
    unit.finding = Fault("damaged-tensor", file, tensor, digests.fault->message());
  } else if (digests.tensor != unit.listed->xxh3) {
    unit.finding =
        Fault("wrong-tensor-digest", file, tensor,
              fmt::format("{}: tensor {} unpacks to bytes with XXH3-128 {}, expected {} ({})",
                          formats::ShownPath(file), QuoteForMessage(tensor), digests.tensor,
                          unit.listed->xxh3, kPackedManifestName));
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
    opened.head = ReadPackedHead(*opened.input);
  } catch (const Error& fault) {
    if (fault.code() != ErrorCode::kBadInput) throw;
    findings.push_back(Fault("damaged-tensor", name, "", fault.message()));
    opened.head.reset();
  }
}

}  // namespace

PackedComparison ComparePackedTensors(const PackedManifest& manifest, const fs::path& directory,
                                      const fs::path& base_directory, unsigned threads,
                                      ProgressSink& progress, const StopToken& stop) {
  PackedComparison comparison;
  std::optional<Base> base;
  if (!base_directory.empty()) base.emplace(base_directory);
  std::vector<OpenedFile> files(manifest.files.size());
  std::vector<Unit> units;
  const auto tensors = manifest.TensorsByFile();
  for (std::size_t i = 0; i < files.size(); ++i) {
    const PackedManifestFile& file = manifest.files[i];
    if (!file.packed) continue;
    OpenFile(directory, file, files[i], comparison.findings);
    if (!files[i].head) continue;
    const std::vector<PackedStream>& held = files[i].head->streams;
    const auto found = tensors.find(file.name);
    const std::vector<const PackedManifestTensor*> listed =
        found == tensors.end() ? std::vector<const PackedManifestTensor*>() : found->second;
    if (!HoldsListed(*files[i].head, listed)) {
      const std::string name = file.PackedName();
      comparison.findings.push_back(
          Fault("wrong-tensors", name, "",
                fmt::format("{}: it does not hold the tensors that {} lists for it",
                            formats::ShownPath(name), kPackedManifestName)));
      continue;
    }
    if (files[i].head->original.file_bytes != file.bytes) {
      const std::string name = file.PackedName();
      comparison.findings.push_back(
          Fault("wrong-size", name, "",
                fmt::format("{}: it holds a file of {}, but {} says {}", formats::ShownPath(name),
                            formats::ExactBytes(files[i].head->original.file_bytes),
                            kPackedManifestName, formats::ExactBytes(file.bytes))));
    }
    for (std::size_t tensor = 0; tensor < held.size(); ++tensor) {
      Unit unit{&files[i], tensor, listed[tensor]};
      if (!listed[tensor]->base_xxh3.empty()) {
        if (!base) {
          ++comparison.not_decoded;
          continue;
        }
        unit.base = base->tensors.Require(file.PackedName(), listed[tensor]->name,
                                          listed[tensor]->dtype, listed[tensor]->shape);
      }
      units.push_back(std::move(unit));
      comparison.bytes_read += held[tensor].bytes;
    }
  }
  progress.OnPhase("unpacking the tensors", comparison.bytes_read);
  tbb::task_arena arena(static_cast<int>(ResolveThreads(threads)));
  arena.execute([&] {
    tbb::parallel_for(std::size_t{0}, units.size(), [&](std::size_t i) {
      Compare(units[i], base ? &*base->sources : nullptr, progress, stop);
    });
  });
  for (Unit& unit : units) {
    if (unit.finding) comparison.findings.push_back(std::move(*unit.finding));
  }
  return comparison;
}

}  // namespace dsv3::convert
