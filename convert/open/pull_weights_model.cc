#include "convert/open/pull_weights_model.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/open/assembled_model.h"
#include "convert/open/base_tensors.h"
#include "convert/open/model_files.h"
#include "convert/packing/pull_weights.h"
#include "convert/plan/apply_delta.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Fail(const std::string& file, const std::string& tensor,
                       const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(file), problem),
              {file, tensor});
}

// The frames of a directory.
struct Deltas {
  PullIndex index;
  Catalog stored;
  std::map<std::string, DeltaFrame> frames;
  std::map<std::string, std::string> checksums;  // tensor → of the new bytes
};

class Reader {
 public:
  explicit Reader(const fs::path& directory) : directory_(directory) {
    deltas_.index = ParsePullIndex(ReadIndexText(directory), std::string(formats::kShardIndexName));
  }

  Deltas Read() {
    // Engines read every file, whatever the index lists.
    for (const std::string& name : formats::ListSafetensors(directory_)) ReadFile(name);
    for (const auto& [tensor, file] : deltas_.index.weight_map) {
      if (deltas_.frames.contains(tensor)) continue;
      Fail(file, tensor,
           fmt::format("the index lists tensor {} there, which is missing; get the "
                       "version again",
                       QuoteForMessage(tensor)));
    }
    deltas_.stored = Catalog(std::move(files_), std::move(tensors_));
    return std::move(deltas_);
  }

 private:
  void ReadFile(const std::string& name) {
    const formats::InputFile input(directory_ / name, name);
    formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(input);
    SourceFile file;
    file.name = name;
    file.path = directory_ / name;
    file.bytes = input.bytes();
    file.mtime_ns = input.mtime_ns();
    file.header_digest = header.digest;
    file.shares_names = true;
    const auto shared = std::make_shared<const SourceFile>(file);
    const auto position = static_cast<std::uint32_t>(files_.size());
    for (const formats::SafetensorsTensor& tensor : header.tensors) {
      const auto listed = deltas_.index.weight_map.find(tensor.name);
      if (listed == deltas_.index.weight_map.end() || listed->second != name) {
        Fail(name, tensor.name,
             fmt::format("it holds tensor {}, which the index does not list "
                         "there; get the version again",
                         QuoteForMessage(tensor.name)));
      }
      const auto checksum =
          std::find_if(header.metadata.begin(), header.metadata.end(),
                       [&](const auto& each) { return each.first == tensor.name; });
      if (tensor.dtype != formats::Dtype::kU8 || tensor.shape.size() != 1 ||
          checksum == header.metadata.end()) {
        Fail(name, tensor.name,
             fmt::format("tensor {} is no vector of U8 whose checksum the "
                         "metadata has; get the version again",
                         QuoteForMessage(tensor.name)));
      }
      const Extent extent{position, header.data_offset + tensor.begin, tensor.end - tensor.begin};
      deltas_.frames.emplace(
          tensor.name, DeltaFrame{shared, tensor.name, static_cast<std::uint32_t>(tensors_.size()),
                                  extent.offset, extent.length});
      deltas_.checksums.emplace(tensor.name, checksum->second);
      tensors_.push_back(
          {fmt::format("{}/{}", name, tensor.name), tensor.dtype, tensor.shape, extent});
    }
    files_.push_back(std::move(file));
  }

  const fs::path directory_;
  Deltas deltas_;
  std::vector<SourceFile> files_;
  std::vector<CatalogTensor> tensors_;
};

OpenedModel OpenBase(const fs::path& input, const OpenOptions& options) {
  if (options.base.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: it holds the differences of weights from the version before, "
                            "without which they cannot be read; name that checkpoint with --base "
                            "DIR",
                            formats::ShownPath(input)));
  }
  RefuseDifferences(options.base);
  OpenOptions of_base = options;
  of_base.base.clear();
  OpenedModel model = OpenModel(options.base, of_base);
  if (!model.has_own_shards()) {
    Fail(options.base.string(), "",
         "it is a training checkpoint, and weight deltas are of a model with shards; give the "
         "checkpoint that the engines began with");
  }
  return model;
}

}  // namespace

bool IsPullDirectory(const fs::path& input) {
  const fs::path index = input / formats::kShardIndexName;
  std::error_code error;
  if (!fs::is_regular_file(index, error)) return false;
  const formats::InputFile file(index, index.string());
  if (file.bytes() > kMaxIndexBytes) return false;
  // Nearly all writers put the metadata first, and the rest has megabytes.
  std::string text(std::min<std::uint64_t>(file.bytes(), 4096), '\0');
  file.ReadAt(0, std::as_writable_bytes(std::span(text)));
  const std::size_t weight_map = text.find("\"weight_map\"");
  if (weight_map == text.npos || text.find("\"metadata\"") > weight_map) {
    text = ReadIndexText(input);
  }
  return IsPullIndex(text);
}

OpenedModel OpenPullWeights(const fs::path& input, const OpenOptions& options) {
  OpenedModel model = OpenBase(input, options);
  Deltas deltas = Reader(fs::absolute(input).lexically_normal()).Read();
  ModelFiles files = ReadModelFiles(model);
  auto assembled = std::make_shared<AssembledModel>();
  assembled->stored = std::move(deltas.stored);
  BaseTensors base(model);
  base.AppendTo(assembled->stored);
  assembled->index = std::move(files.index);
  assembled->headers = std::move(files.headers);
  assembled->checksums.kind = deltas.index.checksum == PullChecksum::kXxh3
                                  ? ValueChecksums::Kind::kXxh3
                                  : ValueChecksums::Kind::kAdler32;
  for (std::uint32_t i = 0; i < model.catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = model.catalog.tensors()[i];
    const std::string name(model.catalog.NameInFile(i));
    ExpressionPtr value = base.Find(tensor.name, tensor.dtype, tensor.shape);
    const auto frame = deltas.frames.find(name);
    if (frame != deltas.frames.end()) {
      value = ApplyDelta(std::move(frame->second), deltas.index.encoding, std::move(value));
      assembled->checksums.of.emplace(i, deltas.checksums.at(name));
      deltas.frames.erase(frame);
    }
    assembled->origins.push_back(std::move(value));
  }
  if (!deltas.frames.empty()) {
    const std::string& tensor = deltas.frames.begin()->first;
    Fail(deltas.index.weight_map.at(tensor), tensor,
         fmt::format("tensor {} changed, but the base has none of this name; give the version "
                     "before as base",
                     QuoteForMessage(tensor)));
  }
  std::vector<SourceFile> shards = model.catalog.files();
  for (SourceFile& shard : shards) shard.path.clear();
  model.catalog = Catalog(std::move(shards), model.catalog.tensors());
  model.ranks.reset();
  model.assembled = std::move(assembled);
  return model;
}

}  // namespace dsv3::convert
