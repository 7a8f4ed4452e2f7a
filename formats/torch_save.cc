#include "formats/torch_save.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/hash/crc32.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/name_table.h"
#include "formats/pickle_parser.h"
#include "formats/torch_rebuild.h"
#include "formats/zip_directory.h"
#include "formats/zip_end.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kDamaged = "the file is damaged, copy it again or save it again";
constexpr std::string_view kPickleName = "data.pkl";
constexpr std::size_t kLongestName = 4096;

// Beside those of dtypes and storages.
constexpr auto kGlobals = std::to_array<std::string_view>({
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch.storage.UntypedStorage",
    "torch.Size",
    "torch.device",
    // As tensors of float4 are saved; reading one says that its dtype is unknown.
    "torch.float4_e2m1fn_x2",
    "collections.OrderedDict",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    // What protocols 2 and 3 make sets, bytes and bytearrays of.
    "__builtin__.set",
    "__builtin__.bytes",
    "__builtin__.bytearray",
    "builtins.set",
    "builtins.bytearray",
    "_codecs.encode",
    "_io.BytesIO",
});
constexpr std::array<std::string_view, 1> kPrefixes = {"megatron."};

std::span<const std::string_view> AllowedGlobals() {
  static const std::vector<std::string_view> kAll = WithTorchDtypes(kGlobals);
  return kAll;
}

// Refuses what torch.save of today does not write, by the first bytes.
void CheckStart(const InputFile& file, FileRange archive) {
  if (archive.offset > file.bytes() || archive.bytes > file.bytes() - archive.offset) return;
  std::array<char, 16> start{};
  const std::size_t known = std::min<std::uint64_t>(start.size(), archive.bytes);
  file.ReadAt(archive.offset, std::as_writable_bytes(std::span(start).first(known)));
  const std::string_view text(start.data(), known);
  // The pickle of 0x1950a86a20f9469cfc6c.
  constexpr std::string_view kLegacy("\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19.");
  if (text.starts_with(kLegacy)) {
    FailTorch(file, archive, "", "it has the form of torch.save before PyTorch 1.6",
              "save it again with a newer one: torch.save(torch.load(FILE, weights_only=True), "
              "FILE)");
  }
  if (text.size() >= 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5) {
    FailTorch(file, archive, "", "it is a bare pickle, not an archive of torch.save",
              "give the file that torch.save wrote");
  }
}

// The 671B model with its scales and an optimizer has some 300,000 tensors. Beyond these limits
// what is remembered of them would need more memory than a conversion takes.
constexpr std::size_t kMostTensors = 400'000;
constexpr std::size_t kMostKeys = 1'000'000;

class SaveReader {
 public:
  SaveReader(const InputFile& file, FileRange archive)
      : file_(file), archive_(archive), zip_(ReadZipDirectory(file, archive)) {}

  TorchSave Read() {
    FindFolder();
    zip_.RequireStored(file_);
    CheckByteOrder();
    auto text = std::make_shared<std::string>(Content(Entry(kPickleName)));
    save_.text = text;
    const std::string part =
        IsWhole() ? "data.pkl" : fmt::format("data.pkl of the archive at byte {}", archive_.offset);
    save_.pickle = ParsePickle(*text, {.names = AllowedGlobals(), .prefixes = kPrefixes},
                               {.file = file_.name(), .part = part, .advice = kDamaged});
    TorchRebuilder rebuilder({.file = file_, .zip = zip_, .folder = folder_}, save_.pickle);
    rebuilder_ = &rebuilder;
    visits_left_ = 4 * save_.pickle.num_values() + 1000;
    save_.steps.emplace_back();
    Walk(save_.pickle.root(), 0);
    save_.storages = rebuilder.TakeStorages();
    return std::move(save_);
  }

 private:
  bool IsWhole() const { return archive_.offset == 0 && archive_.bytes == file_.bytes(); }

  // The folder that holds data.pkl: "archive/", or the stem of the file's first name.
  void FindFolder() {
    for (const ZipEntry& entry : zip_.entries()) {
      const std::size_t slash = entry.name.find('/');
      if (slash == std::string_view::npos || entry.name.substr(slash + 1) != kPickleName) continue;
      if (!folder_.empty()) Fail("it holds two data.pkl", "give a file that torch.save wrote");
      folder_ = entry.name.substr(0, slash + 1);
    }
    if (folder_.empty()) {
      Fail("it is a zip archive without a data.pkl in its folder, so torch.save did not write it",
           "give a file that torch.save wrote");
    }
    if (Entry("constants.pkl") != nullptr) {
      Fail("it is a TorchScript program, not a checkpoint",
           "save the weights alone: torch.save(model.state_dict(), FILE)");
    }
  }

  const ZipEntry* Entry(std::string_view name) const {
    const std::optional<std::size_t> found = zip_.Find(fmt::format("{}{}", folder_, name));
    return found ? &zip_.entries()[*found] : nullptr;
  }

  void CheckByteOrder() const {
    const ZipEntry* entry = Entry("byteorder");
    if (entry == nullptr) return;
    constexpr std::uint64_t kLongest = 16;
    if (entry->bytes <= kLongest && Content(entry) == "little") return;
    Fail(fmt::format("its byteorder is {}, expected 'little'", entry->bytes <= kLongest
                                                                   ? QuoteForMessage(Content(entry))
                                                                   : ExactBytes(entry->bytes)),
         "save it again on a little-endian machine");
  }

  std::string Content(const ZipEntry* entry) const {
    if (entry->bytes > kMaxPickleBytes) {
      Fail(fmt::format("{} has {}; at most {} are read", QuoteForMessage(entry->name),
                       ExactBytes(entry->bytes), ExactBytes(kMaxPickleBytes)),
           "save the weights alone, in several files where there are many");
    }
    const FileRange range = zip_.Locate(file_, *entry);
    std::string content(range.bytes, '\0');
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(content));
    file_.ReadAt(range.offset, bytes);
    if (entry->crc != 0 && Crc32(bytes) != entry->crc) {
      Fail(fmt::format("{} has the CRC {:08x}, expected {:08x}", QuoteForMessage(entry->name),
                       Crc32(bytes), entry->crc),
           kDamaged);
    }
    return content;
  }

  // A value can be reached in more ways than a file has bytes.
  void Walk(PickleId id, std::uint32_t step) {
    if (visits_left_ == 0) {
      Fail("its values refer to each other in too many ways",
           "save the weights alone, as a dict "
           "of names and tensors");
    }
    --visits_left_;
    switch (save_.pickle.Type(id)) {
      case PickleType::kDict:
        WalkDict(id, step);
        break;
      case PickleType::kList:
      case PickleType::kTuple:
      case PickleType::kSet: {
        const std::span<const PickleId> items = save_.pickle.Items(id);
        for (std::size_t i = 0; i < items.size(); ++i) {
          if (!MayHold(items[i])) continue;
          WalkTo(items[i], step, kNoPickle, static_cast<std::uint32_t>(i));
        }
        break;
      }
      case PickleType::kRecord:
        WalkRecord(*save_.pickle.Record(id), step);
        break;
      default:
        break;
    }
  }

  bool MayHold(PickleId id) const {
    switch (save_.pickle.Type(id)) {
      case PickleType::kDict:
      case PickleType::kList:
      case PickleType::kTuple:
      case PickleType::kSet:
      case PickleType::kRecord:
        return true;
      default:
        return false;
    }
  }

  void WalkDict(PickleId id, std::uint32_t step) {
    const std::span<const PickleId> items = save_.pickle.Items(id);
    CheckKeys(items, step);
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (MayHold(items[i + 1])) WalkTo(items[i + 1], step, items[i], 0);
    }
  }

  void CheckKeys(std::span<const PickleId> items, std::uint32_t step) const {
    if (items.size() / 2 > kMostKeys) {
      Fail(fmt::format("a dict has {} keys; at most {} are read", ShownCount(items.size() / 2),
                       ShownCount(kMostKeys)),
           "save the weights alone, in several files where there are many");
    }
    NameTable names(items.size() / 2);
    const auto name_at = [&](std::uint32_t i) { return *save_.pickle.Text(items[i]); };
    for (std::uint32_t i = 0; i < items.size(); i += 2) {
      const std::optional<std::string_view> key = save_.pickle.Text(items[i]);
      if (!key || names.Add(i, HashName(*key), name_at) == NameTable::kNone) continue;
      const std::string name = step == 0 ? "" : QuoteForMessage(NameOf(step)) + " ";
      Fail(fmt::format("the dict {}has the key {} twice, so it is not clear which value is meant",
                       name, QuoteForMessage(*key)),
           "save it again");
    }
  }

  void WalkRecord(const PickleRecord& record, std::uint32_t step) {
    std::optional<TorchTensor> tensor =
        rebuilder_->Read(record, [&] { return step == 0 ? "" : NameOf(step); });
    if (tensor) {
      CheckName(step);
      if (save_.tensors.size() == kMostTensors) {
        Fail(fmt::format("it holds more than {} tensors", ShownCount(kMostTensors)),
             "save the weights alone, in several files where there are many");
      }
      tensor->path = step;
      save_.tensors.push_back(*std::move(tensor));
      return;
    }
    for (const PickleId part : {record.args, record.items, record.state}) {
      if (part != kNoPickle) Walk(part, step);
    }
  }

  // Walks to a value within another one.
  void WalkTo(PickleId id, std::uint32_t from, PickleId key, std::uint32_t position) {
    const std::size_t steps = save_.steps.size();
    const std::size_t tensors = save_.tensors.size();
    save_.steps.push_back({.from = from, .key = key, .position = position});
    Walk(id, static_cast<std::uint32_t>(steps));
    // No path leads through what has no tensor.
    if (save_.tensors.size() == tensors) save_.steps.resize(steps);
  }

  std::string NameOf(std::uint32_t step) const {
    TorchTensor tensor;
    tensor.path = step;
    return save_.Name(tensor);
  }

  // A long key could be a part of many names.
  void CheckName(std::uint32_t step) const {
    std::size_t bytes = 0;
    for (; step != 0; step = save_.steps[step].from) {
      const PickleId key = save_.steps[step].key;
      if (key != kNoPickle) bytes += save_.pickle.Text(key).value_or("").size();
    }
    if (bytes <= kLongestName) return;
    Fail(fmt::format("the name of a tensor has {}, expected at most {}", ExactBytes(bytes),
                     ExactBytes(kLongestName)),
         kDamaged);
  }

  [[noreturn]] void Fail(std::string_view problem, std::string_view advice) const {
    FailTorch(file_, archive_, "", problem, advice);
  }

  const InputFile& file_;
  FileRange archive_;
  ZipDirectory zip_;
  std::string_view folder_;
  TorchRebuilder* rebuilder_ = nullptr;
  std::size_t visits_left_ = 0;
  TorchSave save_;
};

}  // namespace

bool TorchTensor::IsContiguous() const {
  std::uint64_t stride = 1;
  bool contiguous = true;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 0) return true;
    contiguous = contiguous && (shape[i] == 1 || strides[i] == stride);
    stride *= shape[i];
  }
  return contiguous;
}

std::vector<std::string> TorchSave::Path(const TorchTensor& tensor) const {
  std::vector<std::string> path;
  for (std::uint32_t step = tensor.path; step != 0; step = steps[step].from) {
    const PickleId key = steps[step].key;
    if (key == kNoPickle) {
      path.push_back(std::to_string(steps[step].position));
    } else if (const auto name = pickle.Text(key)) {
      path.emplace_back(*name);
    } else {
      path.push_back(pickle.Describe(key));
    }
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::string TorchSave::Name(const TorchTensor& tensor) const {
  return fmt::format("{}", fmt::join(Path(tensor), "."));
}

TorchSave ReadTorchSave(const InputFile& file, FileRange archive) {
  CheckStart(file, archive);
  return SaveReader(file, archive).Read();
}

TorchSave ReadTorchSave(const InputFile& file) {
  return ReadTorchSave(file, {.offset = 0, .bytes = file.bytes()});
}

}  // namespace dsv3::formats
