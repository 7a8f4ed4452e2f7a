// A directory of torch.distributed.checkpoint: .metadata says which item of which file holds which
// box of a tensor, and each item is an archive of torch.save.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tbb/parallel_for.h>

#include "convert/open/training_reader.h"
#include "formats/dcp_metadata.h"
#include "formats/error.h"
#include "formats/freed_shard.h"
#include "formats/hash/xxh3.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// An item that is wanted.
struct Item {
  std::uint32_t tensor = 0;
  std::uint32_t chunk = 0;
};

// What an item holds: the view of its storage, in the form of the chunk.
struct FoundItem {
  formats::TorchTensor view;
  formats::TorchStorage storage;
};

class DcpDirectory final : public TrainingReader {
 public:
  explicit DcpDirectory(TrainingPlace place) : place_(std::move(place)) {
    const formats::InputFile file(place_.directory / formats::kDcpMetadataName,
                                  std::string(formats::kDcpMetadataName));
    metadata_ = formats::ReadDcpMetadata(file);
    // Without a dtype that safetensors files have: an optimizer's.
    std::erase_if(metadata_.tensors,
                  [](const formats::DcpTensor& tensor) { return !tensor.type->dtype; });
    for (const formats::DcpTensor& tensor : metadata_.tensors) {
      tensors_.push_back({tensor.name, *tensor.type->dtype, tensor.shape, {}});
    }
  }

  const std::vector<ShardedTensor>& tensors() const override { return tensors_; }

  Catalog Locate(const std::vector<bool>& wanted) override {
    std::vector<std::vector<Item>> items(metadata_.files.size());
    for (std::uint32_t t = 0; t < tensors_.size(); ++t) {
      if (!wanted[t]) continue;
      const formats::DcpTensor& tensor = metadata_.tensors[t];
      std::set<formats::Shape> places;
      for (std::uint32_t c = 0; c < tensor.chunks.size(); ++c) {
        const formats::DcpChunk& chunk = tensor.chunks[c];
        if (std::count(chunk.sizes.begin(), chunk.sizes.end(), 0U) != 0) continue;
        if (!places.insert(chunk.offsets).second) {
          Fail(std::string(formats::kDcpMetadataName), tensor.name,
               fmt::format("two of its chunks begin at {}, so they overlap",
                           formats::ShapeToString(chunk.offsets)));
        }
        if (chunk.file == formats::kNoDcpFile) {
          Fail(std::string(formats::kDcpMetadataName), tensor.name,
               fmt::format("no file holds its chunk at {}, so the save was not complete",
                           formats::ShapeToString(chunk.offsets)));
        }
        items[chunk.file].push_back({t, c});
      }
    }
    for (std::uint32_t f = 0; f < items.size(); ++f) RequireApart(f, items[f]);
    std::vector<std::optional<formats::InputFile>> files(items.size());
    std::vector<std::vector<FoundItem>> found(items.size());
    tbb::parallel_for(std::size_t{0}, items.size(), [&](std::size_t f) {
      if (items[f].empty()) return;
      files[f] = Open(metadata_.files[f]);
      found[f].reserve(items[f].size());
      for (const Item& item : items[f]) found[f].push_back(ReadItem(*files[f], item));
    });
    StoredTensors stored;
    for (std::size_t f = 0; f < items.size(); ++f) {
      if (items[f].empty()) continue;
      const std::uint32_t file = stored.AddFile(place_.directory / metadata_.files[f], *files[f],
                                                formats::Xxh3Hex(metadata_.version));
      for (std::size_t i = 0; i < items[f].size(); ++i) {
        const formats::DcpTensor& tensor = metadata_.tensors[items[f][i].tensor];
        const formats::DcpChunk& chunk = tensor.chunks[items[f][i].chunk];
        const std::string name = fmt::format("{}@{}", tensor.name, fmt::join(chunk.offsets, ","));
        StoredPiece piece =
            stored.AddView(file, name, found[f][i].view, found[f][i].storage, *tensor.type->dtype);
        piece.offsets = chunk.offsets;
        tensors_[items[f][i].tensor].pieces.push_back(std::move(piece));
      }
    }
    return stored.Take();
  }

 private:
  [[noreturn]] static void Fail(const std::string& file, const std::string& tensor,
                                const std::string& problem) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {}: {}; save the checkpoint again",
                            formats::ShownPath(file), QuoteForMessage(tensor), problem),
                {file, tensor});
  }

  formats::InputFile Open(const std::string& name) const {
    const std::filesystem::path path = place_.directory / name;
    if (!formats::Exists(path) && formats::FindFreed(place_.freed, name, path) == nullptr) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: there is no such file, and {} says that it holds tensors; copy "
                              "it from where the checkpoint was saved",
                              formats::ShownPath(name), formats::kDcpMetadataName),
                  {name, ""});
    }
    return OpenFileOf(place_, name);
  }

  // Each item is an archive of its own: where two share bytes, one of them is not the tensor's.
  void RequireApart(std::uint32_t file, std::vector<Item> items) const {
    const auto chunk_of = [&](const Item& item) -> const formats::DcpChunk& {
      return metadata_.tensors[item.tensor].chunks[item.chunk];
    };
    std::sort(items.begin(), items.end(), [&](const Item& a, const Item& b) {
      return chunk_of(a).range.offset < chunk_of(b).range.offset;
    });
    for (std::size_t i = 1; i < items.size(); ++i) {
      const formats::FileRange& first = chunk_of(items[i - 1]).range;
      const formats::FileRange& second = chunk_of(items[i]).range;
      if (second.offset - first.offset >= first.bytes) continue;
      Fail(metadata_.files[file], metadata_.tensors[items[i].tensor].name,
           fmt::format("the item of its chunk at {} begins at byte {} of the file, inside that of "
                       "the chunk at {} of {}, which has {} from byte {}",
                       formats::ShapeToString(chunk_of(items[i]).offsets), second.offset,
                       formats::ShapeToString(chunk_of(items[i - 1]).offsets),
                       QuoteForMessage(metadata_.tensors[items[i - 1].tensor].name),
                       formats::ExactBytes(first.bytes), first.offset));
    }
  }

  FoundItem ReadItem(const formats::InputFile& file, const Item& item) const {
    const formats::DcpTensor& tensor = metadata_.tensors[item.tensor];
    const formats::DcpChunk& chunk = tensor.chunks[item.chunk];
    if (chunk.range.offset > file.bytes() ||
        chunk.range.bytes > file.bytes() - chunk.range.offset) {
      Fail(file.name(), tensor.name,
           fmt::format("its chunk at {} lies at bytes [{}, {}), and the file has {}",
                       formats::ShapeToString(chunk.offsets), chunk.range.offset,
                       chunk.range.offset + chunk.range.bytes, formats::ExactBytes(file.bytes())));
    }
    formats::TorchSave save = formats::ReadTorchSave(file, chunk.range);
    if (save.tensors.size() != 1) {
      Fail(file.name(), tensor.name,
           fmt::format("the item of its chunk at {} holds {} tensors, expected one",
                       formats::ShapeToString(chunk.offsets), save.tensors.size()));
    }
    FoundItem found{std::move(save.tensors[0]), {}};
    found.storage = std::move(save.storages[found.view.storage]);
    if (found.view.type != tensor.type) {
      Fail(file.name(), tensor.name,
           fmt::format("the item of its chunk at {} is {}, expected {}",
                       formats::ShapeToString(chunk.offsets), found.view.type->global,
                       tensor.type->global));
    }
    TakeForm(file, tensor, chunk, found.view);
    return found;
  }

  // Megatron's items lack the leading axes of size 1 that their chunks have.
  static void TakeForm(const formats::InputFile& file, const formats::DcpTensor& tensor,
                       const formats::DcpChunk& chunk, formats::TorchTensor& view) {
    const formats::Shape& sizes = chunk.sizes;
    const std::size_t missing = sizes.size() - std::min(sizes.size(), view.shape.size());
    const bool fits =
        view.shape.size() <= sizes.size() &&
        std::all_of(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(missing),
                    [](std::uint64_t size) { return size == 1; }) &&
        std::equal(view.shape.begin(), view.shape.end(),
                   sizes.begin() + static_cast<std::ptrdiff_t>(missing));
    if (!fits) {
      Fail(file.name(), tensor.name,
           fmt::format("the item of its chunk at {} has shape {}, expected {}",
                       formats::ShapeToString(chunk.offsets), formats::ShapeToString(view.shape),
                       formats::ShapeToString(sizes)));
    }
    const std::uint64_t step =
        view.shape.empty() ? 1 : std::max<std::uint64_t>(1, view.strides[0] * view.shape[0]);
    view.strides.insert(view.strides.begin(), missing, step);
    view.shape = sizes;
  }

  const TrainingPlace place_;
  formats::DcpMetadata metadata_;
  std::vector<ShardedTensor> tensors_;
};

}  // namespace

std::unique_ptr<TrainingReader> ReadDcp(const TrainingPlace& place) {
  return std::make_unique<DcpDirectory>(place);
}

}  // namespace dsv3::convert
