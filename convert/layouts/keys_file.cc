#include "convert/layouts/keys_file.h"

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::JsonReader;

struct TorchDtype {
  std::string_view name;
  Dtype dtype;
};

constexpr std::array<TorchDtype, 19> kTorchDtypes = {{
    {"bool", Dtype::kBool},
    {"uint8", Dtype::kU8},
    {"int8", Dtype::kI8},
    {"float8_e5m2", Dtype::kF8E5M2},
    {"float8_e4m3fn", Dtype::kF8E4M3},
    {"float8_e8m0fnu", Dtype::kF8E8M0},
    {"float8_e4m3fnuz", Dtype::kF8E4M3Fnuz},
    {"float8_e5m2fnuz", Dtype::kF8E5M2Fnuz},
    {"int16", Dtype::kI16},
    {"uint16", Dtype::kU16},
    {"float16", Dtype::kF16},
    {"bfloat16", Dtype::kBF16},
    {"int32", Dtype::kI32},
    {"uint32", Dtype::kU32},
    {"float32", Dtype::kF32},
    {"complex64", Dtype::kC64},
    {"float64", Dtype::kF64},
    {"int64", Dtype::kI64},
    {"uint64", Dtype::kU64},
}};

std::optional<Dtype> DtypeOfEngine(std::string_view name) {
  if (const std::optional<Dtype> dtype = formats::DtypeFromName(name)) return dtype;
  constexpr std::string_view kTorch = "torch.";
  if (name.starts_with(kTorch)) name.remove_prefix(kTorch.size());
  for (const TorchDtype& row : kTorchDtypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

class KeysReader {
 public:
  KeysReader(std::string_view text, const std::string& file)
      : file_(file),
        reader_(text, {.file = file,
                       .part = "the file",
                       .advice = "dump {key: {dtype, shape, sources}} from the engine again"}) {}

  std::vector<EngineKey> Read() {
    std::unordered_set<std::string> seen;
    reader_.BeginObject();
    while (const std::optional<std::string_view> member = reader_.NextMember()) {
      EngineKey key;
      key.key = std::string(*member);
      if (!seen.insert(key.key).second) Fail(key.key, "it appears twice; remove one of the two");
      ReadKey(key);
      keys_.push_back(std::move(key));
    }
    reader_.End();
    if (keys_.empty()) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: it holds no keys; dump {{key: {{dtype, shape, sources}}}} from "
                              "the engine again",
                              formats::ShownPath(file_)),
                  {file_, ""});
    }
    return std::move(keys_);
  }

 private:
  [[noreturn]] void Fail(const std::string& key, const std::string& problem) const {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: key {}: {}", formats::ShownPath(file_), QuoteForMessage(key), problem),
        {file_, key});
  }

  void ReadKey(EngineKey& key) {
    bool has_dtype = false;
    bool has_shape = false;
    bool has_sources = false;
    const auto once = [&](bool& seen, std::string_view member) {
      if (seen) Fail(key.key, fmt::format("its {} appears twice; remove one of the two", member));
      seen = true;
    };
    reader_.SetTensor(&key.key);
    reader_.BeginObject();
    while (const std::optional<std::string_view> member = reader_.NextMember()) {
      if (*member == "dtype") {
        once(has_dtype, "dtype");
        key.dtype = ReadDtype(key.key);
      } else if (*member == "shape") {
        once(has_shape, "shape");
        reader_.BeginArray();
        while (reader_.NextElement()) key.shape.push_back(reader_.Uint());
      } else if (*member == "sources") {
        once(has_sources, "sources");
        ReadSources(key);
      } else {
        reader_.SkipValue();
      }
    }
    reader_.SetTensor(nullptr);
    if (!has_dtype) Fail(key.key, "it has no dtype, expected one such as \"F8_E4M3\"");
    if (!has_shape) Fail(key.key, "it has no shape, expected a list of dimensions");
    if (!formats::NumBytes(key.dtype, key.shape)) {
      Fail(key.key, fmt::format("the bytes of {} {} cannot be counted; correct the shape",
                                formats::DtypeName(key.dtype), formats::ShapeToString(key.shape)));
    }
    if (!has_sources) key.sources.push_back(key.key);
  }

  Dtype ReadDtype(const std::string& key) {
    const std::string_view name = reader_.String();
    const std::optional<Dtype> dtype = DtypeOfEngine(name);
    if (!dtype) {
      Fail(key, fmt::format("its dtype {} is none of safetensors or torch; expected one such as "
                            "\"F8_E4M3\" or \"torch.bfloat16\"",
                            QuoteForMessage(name)));
    }
    return *dtype;
  }

  void ReadSources(EngineKey& key) {
    std::unordered_set<std::string> seen;
    reader_.BeginArray();
    while (reader_.NextElement()) {
      std::string source(reader_.String());
      if (!seen.insert(source).second) {
        Fail(key.key, fmt::format("its source {} appears twice; remove one of the two",
                                  QuoteForMessage(source)));
      }
      key.sources.push_back(std::move(source));
    }
    if (key.sources.empty()) {
      Fail(key.key,
           "its list of sources is empty; name the tensors, or leave sources away where the key is "
           "a tensor's name");
    }
  }

  const std::string& file_;
  JsonReader reader_;
  std::vector<EngineKey> keys_;
};

}  // namespace

std::vector<EngineKey> ParseKeysFile(std::string_view text, const std::string& file) {
  return KeysReader(text, file).Read();
}

}  // namespace dsv3::convert
