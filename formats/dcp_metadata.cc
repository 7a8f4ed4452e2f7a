#include "formats/dcp_metadata.h"

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/name_table.h"
#include "formats/pickle.h"
#include "formats/pickle_parser.h"
#include "formats/relative_name.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kDamaged =
    "the checkpoint is damaged or was not saved to its end: copy it again or save it again";

// Of the 671B model with an optimizer, in slices, there are some 100,000. Many names may share what
// is said of a tensor, so that the size of the pickle does not bound them.
constexpr std::size_t kMostTensors = 500'000;
constexpr std::size_t kMostChunks = 1'000'000;

constexpr std::string_view kMetadata = "torch.distributed.checkpoint.metadata.Metadata";
constexpr std::string_view kTensor = "torch.distributed.checkpoint.metadata.TensorStorageMetadata";
constexpr std::string_view kBytes = "torch.distributed.checkpoint.metadata.BytesStorageMetadata";
constexpr std::string_view kMegatron = "megatron.";

// Beside those of dtypes.
constexpr auto kGlobals = std::to_array<std::string_view>({
    kMetadata,
    kTensor,
    kBytes,
    "torch.distributed.checkpoint.metadata.MetadataIndex",
    "torch.distributed.checkpoint.metadata.ChunkStorageMetadata",
    "torch.distributed.checkpoint.metadata.TensorProperties",
    "torch.distributed.checkpoint.metadata.StorageMeta",
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.distributed.checkpoint.filesystem._StoragePrefix",
    "torch.distributed.checkpoint.planner.SavePlan",
    "torch.distributed.checkpoint.planner.WriteItem",
    "torch.distributed.checkpoint.planner.WriteItemType",
    "torch.distributed.checkpoint.planner.TensorWriteData",
    "torch.distributed.checkpoint.planner.BytesIOWriteData",
    // Until PyTorch 2.2.
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
    "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
    "torch.Size",
    "torch.serialization._get_layout",
    "collections.OrderedDict",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
});
constexpr std::array<std::string_view, 1> kPrefixes = {kMegatron};

std::span<const std::string_view> AllowedGlobals() {
  static const std::vector<std::string_view> kAll = WithTorchDtypes(kGlobals);
  return kAll;
}

class MetadataReader {
 public:
  MetadataReader(const Pickle& pickle, const std::string& file) : pickle_(pickle), file_(file) {}

  DcpMetadata Read() {
    const std::optional<PickleRecord> root = pickle_.Record(pickle_.root());
    // Megatron's own class adds to PyTorch's.
    if (!root || (root->global != kMetadata && !root->global.starts_with(kMegatron))) {
      Fail("",
           fmt::format("it is {}, expected the metadata of torch.distributed.checkpoint",
                       pickle_.Describe(pickle_.root())),
           "give the directory of a distributed checkpoint");
    }
    const PickleId state = root->state;
    const std::span<const PickleId> tensors = Dict(state, "state_dict_metadata");
    const std::span<const PickleId> items = Dict(state, "storage_data");
    if (const PickleId version = pickle_.Get(state, "version"); version != kNoPickle) {
      out_.version = pickle_.Text(version).value_or("");
    }
    ReadTensors(tensors);
    ReadItems(items);
    return std::move(out_);
  }

 private:
  // A chunk by its tensor and its position there.
  struct ChunkPlace {
    std::uint32_t tensor;
    std::uint32_t chunk;
  };

  std::span<const PickleId> Dict(PickleId state, std::string_view name) const {
    const PickleId dict = state == kNoPickle ? kNoPickle : pickle_.Get(state, name);
    if (dict == kNoPickle || pickle_.Type(dict) != PickleType::kDict) {
      Fail("", fmt::format("its {} is {}, expected a dict", name, DescribeOrNone(dict)));
    }
    return pickle_.Items(dict);
  }

  // A field of the state that a record was given; kNoPickle when it has none of this name.
  PickleId Field(PickleId record, std::string_view name) const {
    const std::optional<PickleRecord> found = pickle_.Record(record);
    if (!found || found->state == kNoPickle) return kNoPickle;
    return pickle_.Get(found->state, name);
  }

  void ReadTensors(std::span<const PickleId> items) {
    if (items.size() / 2 > kMostTensors) {
      Fail("", fmt::format("it lists {} tensors and other values; at most {} are read",
                           ShownCount(items.size() / 2), ShownCount(kMostTensors)));
    }
    out_.tensors.reserve(items.size() / 2);
    NameTable names(items.size() / 2);
    const auto name_at = [&](std::uint32_t i) { return *pickle_.Text(items[std::size_t{2} * i]); };
    for (std::uint32_t i = 0; i < items.size() / 2; ++i) {
      const std::optional<std::string_view> name = pickle_.Text(items[std::size_t{2} * i]);
      if (!name) FailValue("", "the name of a tensor", items[std::size_t{2} * i], "a text");
      if (names.Add(i, HashName(*name), name_at) != NameTable::kNone) {
        Fail(*name, "it is listed twice, so it is not clear which one is meant");
      }
      const PickleId value = items[std::size_t{2} * i + 1];
      const std::optional<PickleRecord> record = pickle_.Record(value);
      if (record && record->global == kTensor) {
        ReadTensor(*name, value);
      } else if (record && record->global == kBytes) {
        ++out_.num_byte_items;
      } else {
        FailValue(*name, "its metadata", value, "that of a tensor or of bytes");
      }
    }
  }

  void ReadTensor(std::string_view name, PickleId record) {
    DcpTensor& tensor = out_.tensors.emplace_back();
    tensor.name = name;
    tensor.type = ReadDtype(name, Field(record, "properties"));
    tensor.shape = ReadSize(name, "its size", Field(record, "size"));
    const PickleId list = Field(record, "chunks");
    if (list == kNoPickle || pickle_.Type(list) != PickleType::kList) {
      FailValue(name, "its list of chunks", list, "a list");
    }
    const std::span<const PickleId> chunks = pickle_.Items(list);
    num_chunks_ += chunks.size();
    if (num_chunks_ > kMostChunks) {
      Fail(name,
           fmt::format("its chunks and those before it are more than {}", ShownCount(kMostChunks)));
    }
    tensor.chunks.reserve(chunks.size());
    for (const PickleId chunk : chunks) {
      DcpChunk& added = tensor.chunks.emplace_back();
      added.offsets = ReadSize(name, "the offset of a chunk", Field(chunk, "offsets"));
      added.sizes = ReadSize(name, "the size of a chunk", Field(chunk, "sizes"));
      if (added.offsets.size() == tensor.shape.size() &&
          added.sizes.size() == tensor.shape.size()) {
        continue;
      }
      Fail(name, fmt::format("its size is {}, but a chunk has the offsets {} and the sizes {}, "
                             "expected as many dimensions",
                             ShapeToString(tensor.shape), ShapeToString(added.offsets),
                             ShapeToString(added.sizes)));
    }
  }

  // TensorProperties gives its state as (dtype, layout, ...).
  const TorchDtype* ReadDtype(std::string_view name, PickleId properties) const {
    const std::optional<PickleRecord> record =
        properties == kNoPickle ? std::nullopt : pickle_.Record(properties);
    const std::span<const PickleId> state = !record || record->state == kNoPickle
                                                ? std::span<const PickleId>()
                                                : pickle_.Items(record->state);
    const PickleId id = state.empty() ? kNoPickle : state[0];
    const TorchDtype* type =
        id == kNoPickle ? nullptr : FindTorchDtype(pickle_.Global(id).value_or(""));
    if (type == nullptr) FailValue(name, "its dtype", id, "one of PyTorch");
    return type;
  }

  Shape ReadSize(std::string_view name, std::string_view what, PickleId id) const {
    std::optional<Shape> size;
    if (id != kNoPickle) size = TorchSize(pickle_, id);
    if (!size) {
      FailValue(name, what, id,
                fmt::format("a torch.Size of at most {} numbers from 0 on", kMaxTorchDims));
    }
    return *std::move(size);
  }

  void ReadItems(std::span<const PickleId> items) {
    const std::vector<ChunkPlace> places = ListChunks();
    NameTable table(places.size());
    const auto key_at = [&](std::uint32_t i) { return KeyAt(i); };
    // Empty chunks may have the offsets of another one, whose item is theirs, too.
    std::vector<std::uint32_t> same(places.size());
    for (std::uint32_t i = 0; i < places.size(); ++i) {
      const std::uint32_t first = table.Add(i, HashName(KeyAt(i)), key_at);
      same[i] = first == NameTable::kNone ? i : first;
    }
    NameTable names(out_.tensors.size());
    const auto name_at = [&](std::uint32_t i) -> std::string_view { return out_.tensors[i].name; };
    for (std::uint32_t i = 0; i < out_.tensors.size(); ++i) {
      names.Add(i, HashName(name_at(i)), name_at);
    }
    std::string key;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const PickleId name_id = Field(items[i], "fqn");
      const std::optional<std::string_view> name =
          name_id == kNoPickle ? std::nullopt : pickle_.Text(name_id);
      if (!name) FailValue("", "the name of an item's tensor", name_id, "a text");
      const std::uint32_t tensor = names.Find(*name, name_at);
      if (tensor == NameTable::kNone) continue;  // bytes
      AppendKey(key, tensor, ReadSize(*name, "the offset of an item", Field(items[i], "offset")));
      const std::uint32_t found = table.Find(key, key_at);
      key.clear();
      if (found == NameTable::kNone) continue;  // its chunk will lack an item
      const ChunkPlace place = places[found];
      SetItem(*name, out_.tensors[place.tensor].chunks[place.chunk], items[i + 1]);
    }
    for (std::uint32_t i = 0; i < places.size(); ++i) {
      const DcpChunk& from = out_.tensors[places[same[i]].tensor].chunks[places[same[i]].chunk];
      DcpChunk& to = out_.tensors[places[i].tensor].chunks[places[i].chunk];
      to.file = from.file;
      to.range = from.range;
    }
  }

  // Also makes the keys by which items find chunks.
  std::vector<ChunkPlace> ListChunks() {
    std::vector<ChunkPlace> places;
    for (std::uint32_t tensor = 0; tensor < out_.tensors.size(); ++tensor) {
      const std::vector<DcpChunk>& chunks = out_.tensors[tensor].chunks;
      for (std::uint32_t chunk = 0; chunk < chunks.size(); ++chunk) {
        places.push_back({.tensor = tensor, .chunk = chunk});
        key_begins_.push_back(keys_.size());
        AppendKey(keys_, tensor, chunks[chunk].offsets);
      }
    }
    key_begins_.push_back(keys_.size());
    return places;
  }

  std::string_view KeyAt(std::size_t chunk) const {
    const std::size_t begin = key_begins_[chunk];
    return std::string_view(keys_).substr(begin, key_begins_[chunk + 1] - begin);
  }

  static void AppendKey(std::string& keys, std::uint32_t tensor, const Shape& offsets) {
    keys.append(reinterpret_cast<const char*>(&tensor), sizeof tensor);
    keys.append(reinterpret_cast<const char*>(offsets.data()),
                offsets.size() * sizeof(Shape::value_type));
  }

  void SetItem(std::string_view name, DcpChunk& chunk, PickleId info) {
    if (chunk.file != kNoDcpFile) {
      Fail(name, fmt::format("its chunk at {} has two items", ShapeToString(chunk.offsets)));
    }
    const PickleId path = Field(info, "relative_path");
    const std::optional<std::string_view> text =
        path == kNoPickle ? std::nullopt : pickle_.Text(path);
    if (!text) FailValue(name, "the file of an item", path, "a text");
    chunk.file = FileNumber(name, *text);
    chunk.range.offset = ReadNumber(name, "the offset in the file", Field(info, "offset"));
    chunk.range.bytes = ReadNumber(name, "the length in the file", Field(info, "length"));
    const PickleId transforms = Field(info, "transform_descriptors");
    if (transforms == kNoPickle || pickle_.Type(transforms) == PickleType::kNone) return;
    if (pickle_.Type(transforms) == PickleType::kList && pickle_.Items(transforms).empty()) return;
    Fail(name, "its items were transformed when they were saved, for example compressed",
         "save the checkpoint again without transforms (extensions of the storage writer)");
  }

  std::uint32_t FileNumber(std::string_view name, std::string_view path) {
    if (const auto known = file_numbers_.find(path); known != file_numbers_.end()) {
      return known->second;
    }
    if (const std::string_view unsafe = UnsafePath(path); !unsafe.empty()) {
      Fail(name, fmt::format("an item lies in the file {}, {}", QuoteForMessage(path), unsafe));
    }
    const auto number = static_cast<std::uint32_t>(out_.files.size());
    out_.files.emplace_back(path);
    file_numbers_.emplace(path, number);
    return number;
  }

  std::uint64_t ReadNumber(std::string_view name, std::string_view what, PickleId id) const {
    std::optional<std::int64_t> value;
    if (id != kNoPickle) value = pickle_.Int(id);
    if (!value || *value < 0) FailValue(name, what, id, "a number from 0 on");
    return static_cast<std::uint64_t>(*value);
  }

  std::string DescribeOrNone(PickleId id) const {
    return id == kNoPickle ? "missing" : pickle_.Describe(id);
  }

  [[noreturn]] void FailValue(std::string_view tensor, std::string_view what, PickleId id,
                              std::string_view expected) const {
    Fail(tensor, fmt::format("{} is {}, expected {}", what, DescribeOrNone(id), expected));
  }

  [[noreturn]] void Fail(std::string_view tensor, std::string_view problem,
                         std::string_view advice = kDamaged) const {
    const std::string where =
        tensor.empty() ? "" : fmt::format("tensor {}: ", QuoteForMessage(tensor));
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {}{}; {}", ShownPath(file_), where, problem, advice),
                {.file = file_, .tensor = std::string(tensor)});
  }

  const Pickle& pickle_;
  const std::string& file_;
  DcpMetadata out_;
  std::size_t num_chunks_ = 0;
  std::string keys_;                     // of all chunks, one behind the other
  std::vector<std::size_t> key_begins_;  // where each begins, and where the last one ends
  std::unordered_map<std::string_view, std::uint32_t> file_numbers_;
};

PickleSource SourceOf(const std::string& file) {
  return {.file = file, .part = "the metadata", .advice = kDamaged};
}

}  // namespace

DcpMetadata ParseDcpMetadata(std::string_view text, const std::string& file) {
  const Pickle pickle =
      ParsePickle(text, {.names = AllowedGlobals(), .prefixes = kPrefixes}, SourceOf(file));
  return MetadataReader(pickle, file).Read();
}

DcpMetadata ReadDcpMetadata(const InputFile& file) {
  RequirePickleBytes(file.bytes(), SourceOf(file.name()));
  std::string text(file.bytes(), '\0');
  file.ReadAt(0, std::as_writable_bytes(std::span(text)));
  return ParseDcpMetadata(text, file.name());
}

}  // namespace dsv3::formats
