#include "formats/safetensors_entries.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kDamaged = "the file is damaged, download it again";

// Reads the JSON of a header into tensors and metadata, in the order of the text.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& file, SafetensorsHeader& header,
               HeaderNotes& notes)
      : file_(file),
        reader_(text, {.file = file, .part = "the header", .advice = kDamaged}),
        header_(header),
        notes_(notes) {}

  void Read() {
    bool metadata_seen = false;
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      if (*key == "__metadata__") {
        if (metadata_seen) {
          throw Error(ErrorCode::kBadInput,
                      fmt::format("{}: __metadata__ appears twice; {}", ShownPath(file_), kDamaged),
                      {.file = file_, .tensor = {}});
        }
        metadata_seen = true;
        ReadMetadata();
      } else {
        ReadTensor(*key);
      }
    }
    reader_.End();
  }

 private:
  void ReadMetadata() {
    if (reader_.Peek() == JsonType::kNull) {
      reader_.Null();
      return;
    }
    SafetensorsMetadata& metadata = header_.metadata;
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      std::string name(*key);
      metadata.emplace_back(std::move(name), reader_.String());
    }
    KeepLastOfEachKey(metadata);
  }

  // As the reference does. The order of what remains is that of the text.
  void KeepLastOfEachKey(SafetensorsMetadata& metadata) {
    std::vector<std::size_t> order(metadata.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return metadata[a].first < metadata[b].first;
    });
    std::vector<bool> superseded(metadata.size());
    bool any = false;
    for (std::size_t i = 1; i < order.size(); ++i) {
      if (metadata[order[i - 1]].first != metadata[order[i]].first) continue;
      superseded[order[i - 1]] = true;
      any = true;
      notes_.Add("duplicate-metadata-key", "",
                 "__metadata__ holds a key twice, the last one counts");
    }
    if (!any) return;
    SafetensorsMetadata kept;
    for (std::size_t i = 0; i < metadata.size(); ++i) {
      if (!superseded[i]) kept.push_back(std::move(metadata[i]));
    }
    metadata = std::move(kept);
  }

  void ReadTensor(std::string_view name) {
    SafetensorsTensor& tensor = header_.tensors.emplace_back();
    tensor.name = name;
    reader_.SetTensor(&tensor.name);
    if (tensor.name.empty()) notes_.Add("empty-tensor-name", "", "a tensor has an empty name");
    if (tensor.name.find('\0') != std::string::npos) {
      notes_.Add("nul-in-tensor-name", tensor.name, "the name holds a NUL character");
    }
    if (reader_.Peek() == JsonType::kArray) {
      ReadArrayForm(tensor);
    } else {
      ReadObjectForm(tensor);
    }
    reader_.SetTensor(nullptr);
  }

  void ReadObjectForm(SafetensorsTensor& tensor) {
    bool dtype = false;
    bool shape = false;
    bool offsets = false;
    const auto once = [&](bool& seen, std::string_view field) {
      if (seen) FailTensor(tensor, fmt::format("has the field {} twice", field));
      seen = true;
    };
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      if (*key == "dtype") {
        once(dtype, "dtype");
        ReadDtype(tensor);
      } else if (*key == "shape") {
        once(shape, "shape");
        ReadShape(tensor);
      } else if (*key == "data_offsets") {
        once(offsets, "data_offsets");
        ReadOffsets(tensor);
      } else {
        notes_.Add("unknown-tensor-field", tensor.name,
                   "its entry holds a field other than dtype, shape and data_offsets");
        reader_.SkipValue();
      }
    }
    if (!dtype) FailTensor(tensor, "has no dtype");
    if (!shape) FailTensor(tensor, "has no shape");
    if (!offsets) FailTensor(tensor, "has no data_offsets");
  }

  void ReadArrayForm(SafetensorsTensor& tensor) {
    constexpr std::string_view kForm = "[dtype, shape, data_offsets]";
    notes_.Add("array-form-entry", tensor.name, "its entry is an array instead of an object");
    const std::size_t begin = reader_.offset();
    const auto need = [&](bool more) {
      if (!more) reader_.FailExpected(kForm, begin);
    };
    reader_.BeginArray();
    need(reader_.NextElement());
    ReadDtype(tensor);
    need(reader_.NextElement());
    ReadShape(tensor);
    need(reader_.NextElement());
    ReadOffsets(tensor);
    need(!reader_.NextElement());
  }

  void ReadDtype(SafetensorsTensor& tensor) {
    const bool as_object = reader_.Peek() == JsonType::kObject;
    const std::size_t begin = reader_.offset();
    std::string_view name;
    std::optional<Dtype> dtype;
    if (as_object) {
      notes_.Add("dtype-as-object", tensor.name, "its dtype is an object instead of a string");
      reader_.BeginObject();
      const std::optional<std::string_view> key = reader_.NextMember();
      if (!key) reader_.FailExpected("a dtype", begin);
      name = *key;
    } else {
      name = reader_.String();
    }
    dtype = DtypeFromName(name);
    if (!dtype) {
      FailTensor(tensor, fmt::format("has the unknown dtype {}", QuoteForMessage(name)),
                 "the file is damaged or was made for a newer version of the format");
    }
    if (as_object) {
      reader_.Null();
      if (reader_.NextMember()) reader_.FailExpected("a single dtype", begin);
    }
    tensor.dtype = *dtype;
  }

  void ReadShape(SafetensorsTensor& tensor) {
    dimensions_.clear();
    reader_.BeginArray();
    while (reader_.NextElement()) dimensions_.push_back(reader_.Uint());
    tensor.shape = dimensions_;  // a copy holds no spare capacity
  }

  void ReadOffsets(SafetensorsTensor& tensor) {
    reader_.Peek();
    const std::size_t begin = reader_.offset();
    const auto need = [&](bool more) {
      if (!more) reader_.FailExpected("a pair of offsets", begin);
    };
    reader_.BeginArray();
    need(reader_.NextElement());
    tensor.begin = reader_.Uint();
    need(reader_.NextElement());
    tensor.end = reader_.Uint();
    need(!reader_.NextElement());
  }

  [[noreturn]] void FailTensor(const SafetensorsTensor& tensor, std::string_view problem,
                               std::string_view advice = kDamaged) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} {}; {}", ShownPath(file_), QuoteForMessage(tensor.name),
                            problem, advice),
                {.file = file_, .tensor = tensor.name});
  }

  const std::string& file_;
  JsonReader reader_;
  SafetensorsHeader& header_;
  HeaderNotes& notes_;
  Shape dimensions_;
};

}  // namespace

void HeaderNotes::Add(std::string_view kind, const std::string& tensor, std::string_view what) {
  for (Note& note : notes_) {
    if (note.kind == kind) {
      ++note.count;
      return;
    }
  }
  notes_.push_back({kind, tensor, what, 1});
}

Findings HeaderNotes::ToFindings(const std::string& file) const {
  Findings findings;
  for (const Note& note : notes_) {
    const std::string where =
        note.tensor.empty() ? "" : fmt::format("tensor {}: ", QuoteForMessage(note.tensor));
    const std::string count =
        note.count > 1 ? fmt::format(" ({} times in this file)", note.count) : "";
    findings.push_back({.severity = Severity::kWarning,
                        .kind = std::string(note.kind),
                        .file = file,
                        .tensor = note.tensor,
                        .message = fmt::format("{}: {}{}{}; the file can be read, but it does not "
                                               "follow the safetensors format",
                                               ShownPath(file), where, note.what, count),
                        .unreadable = false});
  }
  return findings;
}

void ReadHeaderEntries(std::string_view text, const std::string& file, SafetensorsHeader& header,
                       HeaderNotes& notes) {
  HeaderReader(text, file, header, notes).Read();
}

}  // namespace dsv3::formats
