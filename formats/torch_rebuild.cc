#include "formats/torch_rebuild.h"

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kDamaged = "the file is damaged, copy it again or save it again";
constexpr std::string_view kUntyped = "torch.storage.UntypedStorage";

// Reads one tensor out of its record.
class RecordReader {
 public:
  RecordReader(const TorchArchive& archive, const Pickle& pickle,
               const std::function<std::string()>& name)
      : archive_(archive), pickle_(pickle), name_(name) {}

  struct Storage {
    std::string_view key;
    const TorchDtype* type = nullptr;  // nullptr for bytes without a type
    std::uint64_t elements = 0;        // or bytes
  };

  // (storage, offset, size, stride, requires_grad, hooks[, dtype][, metadata])
  Storage Read(const PickleRecord& record, bool has_dtype, TorchTensor& tensor) {
    const std::span<const PickleId> args = pickle_.Items(record.args);
    const std::size_t least = has_dtype ? 7 : 6;
    if (args.size() < least || args.size() > least + 1) {
      Fail(
          fmt::format("is made of {} arguments, expected {} or {}", args.size(), least, least + 1));
    }
    const Storage storage = ReadStorage(args[0]);
    tensor.type = has_dtype ? ReadDtype(args[6]) : storage.type;
    if (tensor.type == nullptr) Fail("has no dtype");
    const std::optional<std::int64_t> offset = pickle_.Int(args[1]);
    if (!offset || *offset < 0) FailValue("offset", args[1], "a number from 0 on");
    tensor.offset = static_cast<std::uint64_t>(*offset);
    tensor.shape = ReadSize("shape", args[2]);
    tensor.strides = ReadSize("strides", args[3]);
    if (tensor.strides.size() != tensor.shape.size()) {
      Fail(fmt::format("has {} dimensions, but {} strides", tensor.shape.size(),
                       tensor.strides.size()));
    }
    if (args.size() > least) CheckMetadata(args[least]);
    return storage;
  }

  // Throws unless `bytes` hold the storage, and the storage holds the view.
  void CheckBytes(const Storage& storage, const TorchTensor& tensor, std::uint64_t bytes) const {
    std::uint64_t expected = 0;
    const unsigned width = storage.type == nullptr ? 1 : storage.type->bytes;
    if (__builtin_mul_overflow(storage.elements, width, &expected) || expected != bytes) {
      Fail(fmt::format("needs a storage of {} elements of {}, but {} has {}",
                       ShownCount(storage.elements), ExactBytes(width),
                       QuoteForMessage(EntryName(storage)), ExactBytes(bytes)));
    }
    const std::optional<std::uint64_t> elements = NumElements(tensor.shape);
    if (elements == 0U) return;
    std::uint64_t last = tensor.offset;
    bool fits = elements && *elements <= UINT64_MAX / tensor.type->bytes;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      std::uint64_t step = 0;
      fits = fits && !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &step) &&
             !__builtin_add_overflow(last, step, &last);
    }
    if (!fits || last >= bytes / tensor.type->bytes) {
      Fail(
          fmt::format("has the shape {}, strides {} and offset {}, which leave its storage of {} "
                      "elements",
                      ShapeToString(tensor.shape), ShapeToString(tensor.strides), tensor.offset,
                      ShownCount(bytes / tensor.type->bytes)));
    }
  }

  std::string EntryName(const Storage& storage) const {
    return fmt::format("{}data/{}", archive_.folder, storage.key);
  }

  [[noreturn]] void Fail(std::string_view problem, std::string_view advice = kDamaged) const {
    const std::string name = name_();
    const std::string subject = name.empty() ? "its tensor" : "tensor " + QuoteForMessage(name);
    FailTorch(archive_.file, archive_.zip.archive(), name, fmt::format("{} {}", subject, problem),
              advice);
  }

 private:
  // ('storage', class, key, location, number of elements)
  Storage ReadStorage(PickleId id) const {
    const PickleId persistent = pickle_.Persistent(id);
    const std::span<const PickleId> items =
        persistent == kNoPickle ? std::span<const PickleId>() : pickle_.Items(persistent);
    if (items.size() != 5 || pickle_.Text(items[0]) != "storage") {
      FailValue("storage", id, "a storage of the archive");
    }
    Storage storage;
    const std::string_view global = pickle_.Global(items[1]).value_or("");
    storage.type = FindTorchStorage(global);
    if (storage.type == nullptr && global != kUntyped) {
      FailValue("class of its storage", items[1], "one of PyTorch");
    }
    const std::optional<std::string_view> key = pickle_.Text(items[2]);
    if (!key) FailValue("key of its storage", items[2], "a text");
    storage.key = *key;
    const std::optional<std::int64_t> elements = pickle_.Int(items[4]);
    if (!elements || *elements < 0) {
      FailValue("number of elements of its storage", items[4], "a number from 0 on");
    }
    storage.elements = static_cast<std::uint64_t>(*elements);
    return storage;
  }

  const TorchDtype* ReadDtype(PickleId id) const {
    const TorchDtype* type = FindTorchDtype(pickle_.Global(id).value_or(""));
    if (type == nullptr) FailValue("dtype", id, "one of PyTorch that has whole bytes");
    return type;
  }

  Shape ReadSize(std::string_view what, PickleId id) const {
    const std::optional<Shape> size = TorchSize(pickle_, id);
    if (!size) {
      FailValue(what, id, fmt::format("a tuple of at most {} numbers from 0 on", kMaxTorchDims));
    }
    return *size;
  }

  // {} or None; {'conj': True} and {'neg': True} would change the values.
  void CheckMetadata(PickleId id) const {
    const bool none = pickle_.Type(id) == PickleType::kNone;
    if (none || (pickle_.Type(id) == PickleType::kDict && pickle_.Items(id).empty())) return;
    Fail("is a lazily negated or conjugated view, whose bytes are not its values",
         "save it again after tensor.resolve_neg().resolve_conj()");
  }

  [[noreturn]] void FailValue(std::string_view what, PickleId id, std::string_view expected) const {
    Fail(fmt::format("has as its {} {}, expected {}", what, pickle_.Describe(id), expected));
  }

  const TorchArchive& archive_;
  const Pickle& pickle_;
  const std::function<std::string()>& name_;
};

}  // namespace

void FailTorch(const InputFile& file, FileRange archive, std::string_view tensor,
               std::string_view problem, std::string_view advice) {
  const bool whole = archive.offset == 0 && archive.bytes == file.bytes();
  const std::string where = whole ? "" : fmt::format("the archive at byte {}: ", archive.offset);
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}{}; {}", ShownPath(file.name()), where, problem, advice),
              {.file = file.name(), .tensor = std::string(tensor)});
}

std::optional<TorchTensor> TorchRebuilder::Read(const PickleRecord& record,
                                                const std::function<std::string()>& name) {
  PickleRecord tensor_record = record;
  if (record.global == "torch._utils._rebuild_parameter") {
    const std::span<const PickleId> args = pickle_.Items(record.args);
    const std::optional<PickleRecord> inner = args.empty() ? std::nullopt : pickle_.Record(args[0]);
    if (!inner) {
      RecordReader(archive_, pickle_, name).Fail("is a parameter without a tensor");
    }
    tensor_record = *inner;
  }
  const bool is_v2 = tensor_record.global == "torch._utils._rebuild_tensor_v2";
  const bool is_v3 = tensor_record.global == "torch._utils._rebuild_tensor_v3";
  if (!is_v2 && !is_v3) return std::nullopt;
  RecordReader reader(archive_, pickle_, name);
  TorchTensor tensor;
  const RecordReader::Storage storage = reader.Read(tensor_record, is_v3, tensor);
  const std::string entry_name = reader.EntryName(storage);
  const std::optional<std::size_t> entry = archive_.zip.Find(entry_name);
  if (!entry) {
    reader.Fail(
        fmt::format("lies in {}, which the archive does not hold", QuoteForMessage(entry_name)));
  }
  const ZipEntry& found = archive_.zip.entries()[*entry];
  reader.CheckBytes(storage, tensor, found.bytes);
  std::uint32_t& known = storage_of_entry_[*entry];
  if (known == kUnknown) {
    known = static_cast<std::uint32_t>(storages_.size());
    storages_.push_back({.key = std::string(storage.key),
                         .range = archive_.zip.Locate(archive_.file, found),
                         .crc = found.crc});
  }
  tensor.storage = known;
  return tensor;
}

}  // namespace dsv3::formats
