#include "convert/open/packed_model.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/catalog/tensor_file.h"
#include "convert/open/assembled_model.h"
#include "convert/open/files_to_pack.h"
#include "convert/open/unfinished.h"
#include "convert/packing/chunk_tables.h"
#include "convert/packing/packed_file.h"
#include "convert/plan/unpack_expression.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/manifest.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Fail(const std::string& file, const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(file), problem),
              {file, ""});
}

// A packed file that was opened.
struct OpenedFile {
  const PackedManifestFile* entry = nullptr;
  PackedHead head;
  std::vector<const PackedManifestTensor*> listed;  // in the order of head.streams
  SourceFile source;
  std::vector<std::size_t> wanted;  // positions in head.streams
};

class Opener {
 public:
  Opener(const fs::path& input, PackedManifest manifest, const PackedOptions& options)
      : directory_(fs::absolute(input).lexically_normal()),
        wanted_(options.wanted),
        base_(options.base),
        assembled_(std::make_shared<AssembledModel>()) {
    result_.manifest = std::move(manifest);
  }

  OpenedPacked Open() {
    TakeFiles();
    RequireBase();
    OpenFiles();
    std::erase_if(files_, [&](const OpenedFile& file) { return wanted_ && file.wanted.empty(); });
    TakeStored();
    TakeModel();
    TakeOthers();
    result_.model.assembled = std::move(assembled_);
    return std::move(result_);
  }

 private:
  void TakeFiles() {
    for (const PackedManifestFile& file : result_.manifest.files) {
      if (IsReservedName(file.name) && file.name != formats::kManifestName &&
          file.name != formats::kShardIndexName) {
        Fail(std::string(kPackedManifestName),
             fmt::format("it lists the file {}, a name that dsv3 keeps for itself; the file is "
                         "damaged or not dsv3's",
                         QuoteForMessage(file.name)));
      }
      if (file.packed) files_.emplace_back().entry = &file;
    }
  }

  void RequireBase() const {
    const std::vector<PackedManifestTensor>& tensors = result_.manifest.tensors;
    const bool is_needed = std::any_of(tensors.begin(), tensors.end(), [&](const auto& tensor) {
      return !tensor.base_xxh3.empty() && (!wanted_ || wanted_(tensor.name));
    });
    if (is_needed == (base_ != nullptr)) return;
    throw Error(ErrorCode::kUsage,
                is_needed
                    ? fmt::format("{}: it was packed against a base, without which its tensors "
                                  "cannot be read; name that checkpoint with --base DIR",
                                  formats::ShownPath(directory_))
                    : fmt::format("--base: {} needs no base, for nothing of it was packed against "
                                  "one; leave the option out",
                                  formats::ShownPath(directory_)));
  }

  void OpenFiles() {
    const auto tensors = result_.manifest.TensorsByFile();
    static const std::vector<const PackedManifestTensor*> kNone;
    tbb::parallel_for(std::size_t{0}, files_.size(), [&](std::size_t i) {
      const auto found = tensors.find(files_[i].entry->name);
      OpenFile(found == tensors.end() ? kNone : found->second, files_[i]);
    });
  }

  void OpenFile(const std::vector<const PackedManifestTensor*>& listed, OpenedFile& file) const {
    const std::string name = file.entry->PackedName();
    file.source.name = name;
    file.source.path = directory_ / name;
    const formats::InputFile input(file.source.path, name);
    if (input.bytes() != file.entry->packed_bytes) {
      Fail(name, fmt::format("the file has {}, but {} says {}; it was cut off or replaced, get it "
                             "again",
                             formats::ExactBytes(input.bytes()), kPackedManifestName,
                             formats::ExactBytes(file.entry->packed_bytes)));
    }
    file.head = ReadPackedHead(input);
    file.source.bytes = input.bytes();
    file.source.mtime_ns = input.mtime_ns();
    file.source.header_digest = file.head.digest;
    file.source.shares_names = true;
    RequireListed(*file.entry, file.head, listed, name);
    file.listed = listed;
    for (std::size_t i = 0; i < file.head.streams.size(); ++i) {
      if (!wanted_ || wanted_(file.head.streams[i].tensor)) file.wanted.push_back(i);
    }
  }

  // Throws unless packed.json and the file name the same tensors and size of the original.
  static void RequireListed(const PackedManifestFile& entry, const PackedHead& head,
                            const std::vector<const PackedManifestTensor*>& listed,
                            const std::string& name) {
    constexpr std::string_view kAdvice = "the two are not of one packed checkpoint, get both again";
    if (!HoldsListed(head, listed)) {
      Fail(name, fmt::format("it does not hold the tensors that {} lists for it; {}",
                             kPackedManifestName, kAdvice));
    }
    if (head.original.file_bytes != entry.bytes) {
      Fail(name, fmt::format("it holds a file of {}, but {} says {}; {}",
                             formats::ExactBytes(head.original.file_bytes), kPackedManifestName,
                             formats::ExactBytes(entry.bytes), kAdvice));
    }
  }

  void TakeStored() {
    std::vector<SourceFile> sources;
    std::vector<CatalogTensor> streams;
    for (const OpenedFile& file : files_) {
      const auto position = static_cast<std::uint32_t>(sources.size());
      sources.push_back(file.source);
      for (const std::size_t i : file.wanted) {
        const PackedStream& stream = file.head.streams[i];
        streams.push_back({fmt::format("{}/{}", file.source.name, stream.tensor),
                           formats::Dtype::kU8,
                           {stream.bytes},
                           {position, stream.offset, stream.bytes}});
      }
    }
    assembled_->stored = Catalog(std::move(sources), std::move(streams));
    if (base_ != nullptr) base_->AppendTo(assembled_->stored);
  }

  // The value that the tensor was packed against; nullptr for none.
  ExpressionPtr BaseOf(const PackedManifestTensor& tensor) const {
    if (tensor.base_xxh3.empty()) return nullptr;
    return base_->Require(tensor.file, tensor.name, tensor.dtype, tensor.shape);
  }

  void TakeModel() {
    std::vector<TensorFile> originals;
    std::uint32_t stored = 0;
    const auto tables = std::make_shared<ChunkTables>();
    for (OpenedFile& file : files_) {
      TensorFile& original = originals.emplace_back();
      original.file.name = file.entry->name;
      original.file.bytes = file.entry->bytes;
      original.header = std::move(file.head.original);
      original.file.header_digest = original.header.digest;
      result_.texts.headers.push_back(std::move(file.head.original_head));
      const auto packed = std::make_shared<const PackedFileSource>(PackedFileSource{
          file.source.name, file.source.path, file.source.bytes, file.source.mtime_ns});
      std::vector<formats::SafetensorsTensor> tensors;
      tensors.reserve(file.wanted.size());
      for (const std::size_t i : file.wanted) {
        formats::SafetensorsTensor& tensor =
            tensors.emplace_back(std::move(original.header.tensors[i]));
        assembled_->origins.push_back(Unpack(stored++, tensor.dtype, tensor.shape,
                                             {packed, std::move(file.head.streams[i]), tables},
                                             BaseOf(*file.listed[i])));
      }
      original.header.tensors = std::move(tensors);
    }
    files_.clear();
    FindSharedNames(originals);
    result_.model.catalog = CatalogOfFiles(std::move(originals));
  }

  void TakeOthers() {
    result_.model.directory = directory_;
    for (const PackedManifestFile& file : result_.manifest.files) {
      if (file.packed || file.name == formats::kManifestName) continue;
      if (file.name != formats::kShardIndexName) {
        result_.model.side_files.push_back(file.name);
        continue;
      }
      result_.model.form = formats::CheckpointFiles::Form::kIndexed;
      result_.model.needs_index = true;
      result_.texts.index = ReadIndexText(directory_);
    }
  }

  const fs::path directory_;
  const std::function<bool(const std::string&)>& wanted_;
  BaseTensors* const base_;
  std::shared_ptr<AssembledModel> assembled_;
  OpenedPacked result_;
  std::vector<OpenedFile> files_;
};

}  // namespace

bool IsPackedDirectory(const fs::path& input) {
  return formats::EntryExists(input / kPackedManifestName);
}

PackedManifest ReadPackedManifest(const fs::path& directory, const std::string& file) {
  return ParsePackedManifest(
      formats::ReadSmallFile(directory / kPackedManifestName, formats::kMaxManifestBytes), file);
}

bool HoldsListed(const PackedHead& head, const std::vector<const PackedManifestTensor*>& listed) {
  const std::vector<formats::SafetensorsTensor>& tensors = head.original.tensors;
  return std::equal(tensors.begin(), tensors.end(), listed.begin(), listed.end(),
                    [](const formats::SafetensorsTensor& tensor, const auto* entry) {
                      return tensor.name == entry->name && tensor.dtype == entry->dtype &&
                             tensor.shape == entry->shape;
                    });
}

bool IsPackedAlone(const fs::path& input) {
  return IsPackedDirectory(input) && formats::ListSafetensors(input).empty();
}

namespace {

std::string WhyNotPacked(const formats::CheckpointLocation& location) {
  if (location.file_name) return "it is a file, not the directory of a packed checkpoint";
  if (!formats::ListSafetensors(location.directory).empty()) {
    return fmt::format(
        "there is no {} beside its safetensors files, so this checkpoint is not packed",
        kPackedManifestName);
  }
  return fmt::format(
      "there is no {}, so this is no packed checkpoint, or one that pack did not complete",
      kPackedManifestName);
}

}  // namespace

OpenedPacked OpenPacked(const fs::path& input, PackedManifest manifest,
                        const PackedOptions& options) {
  RefuseUnfinishedConversion(input);
  return Opener(input, std::move(manifest), options).Open();
}

OpenedPacked OpenPacked(const fs::path& input, const PackedOptions& options) {
  const formats::CheckpointLocation location = formats::LocateCheckpoint(input);
  RefuseUnfinishedConversion(input);
  const fs::path directory = fs::absolute(input).lexically_normal();
  if (!IsPackedDirectory(directory)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {}; give the directory that dsv3-convert pack wrote",
                            formats::ShownPath(input), WhyNotPacked(location)),
                {input.string(), ""});
  }
  return Opener(input, ReadPackedManifest(directory), options).Open();
}

namespace {

// The original files' first bytes.
std::vector<formats::FreedShard> OriginalHeads(const OpenedPacked& opened) {
  std::vector<formats::FreedShard> heads;
  const std::vector<SourceFile>& files = opened.model.catalog.files();
  const std::string index = opened.texts.index.value_or("");
  for (std::size_t i = 0; i < files.size(); ++i) {
    // Without an index that lists it, a file below the directory is not of the checkpoint.
    if (files[i].name.find('/') != std::string::npos && index.find(files[i].name) == index.npos) {
      continue;
    }
    heads.push_back({files[i].name,
                     files[i].bytes,
                     opened.model.assembled->stored.files()[i].mtime_ns,
                     {{0, opened.texts.headers[i]}}});
  }
  return heads;
}

// Has the model's tensors made of the packed files' streams.
void TakeStreams(OpenedPacked opened, OpenedModel& model) {
  const Catalog& all = opened.model.catalog;
  std::map<std::pair<std::string_view, std::string_view>, std::uint32_t> streams;
  for (std::uint32_t i = 0; i < all.tensors().size(); ++i) {
    streams[{all.files()[all.tensors()[i].extent.file].name, all.NameInFile(i)}] = i;
  }
  auto assembled = std::make_shared<AssembledModel>();
  assembled->stored = opened.model.assembled->stored;
  assembled->index = std::move(opened.texts.index);
  const Catalog& catalog = model.catalog;
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const std::string& file = catalog.files()[catalog.tensors()[i].extent.file].name;
    assembled->origins.push_back(
        opened.model.assembled->origins[streams.at({file, catalog.NameInFile(i)})]);
  }
  std::map<std::string_view, std::size_t> positions;
  for (std::size_t i = 0; i < all.files().size(); ++i) positions[all.files()[i].name] = i;
  std::vector<SourceFile> files = catalog.files();
  for (SourceFile& file : files) {
    file.path.clear();
    assembled->headers.push_back(std::move(opened.texts.headers[positions.at(file.name)]));
  }
  model.catalog = Catalog(std::move(files), catalog.tensors());
  model.assembled = std::move(assembled);
}

}  // namespace

OpenedModel OpenPackedCheckpoint(
    const fs::path& input, const fs::path& base,
    const std::function<OpenedModel(std::vector<formats::FreedShard> heads)>& open) {
  PackedManifest manifest = ReadPackedManifest(input);
  PackedOptions options;
  std::optional<BaseTensors> tensors;
  if (!base.empty() && manifest.NeedsBase()) options.base = &tensors.emplace(base);
  OpenedPacked opened = OpenPacked(input, std::move(manifest), options);
  OpenedModel model = open(OriginalHeads(opened));
  const PackedManifest listed = std::move(opened.manifest);
  TakeStreams(std::move(opened), model);
  const auto is_packed = [&](std::string_view name) {
    if (name == kPackedManifestName) return true;
    if (!name.ends_with(kPackedSuffix)) return false;
    const PackedManifestFile* const file =
        listed.FindFile(name.substr(0, name.size() - kPackedSuffix.size()));
    return file != nullptr && file->packed;
  };
  std::erase_if(model.side_files, is_packed);
  std::erase_if(model.left_behind, [&](const auto& file) { return is_packed(file.name); });
  return model;
}

}  // namespace dsv3::convert
