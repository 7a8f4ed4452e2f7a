#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>

#include "convert/model/config_fields-inl.h"
#include "formats/foreign_file.h"
#include "formats/json/json_reader.h"

namespace dsv3::convert {
namespace {

using Json = nlohmann::json;

class Parser {
 public:
  Parser(std::string_view text, const std::string& file)
      : file_(file),
        reader_(text, {.file = file,
                       .part = "the file",
                       .advice = "the file is damaged, download it again"}) {
    reader_.AllowPythonNumbers(true);
  }

  Json Run() {
    Json root = Value(0);
    reader_.End();
    return root;
  }

 private:
  Json Value(int depth) {
    const formats::JsonType type = reader_.Peek();
    switch (type) {
      case formats::JsonType::kObject:
      case formats::JsonType::kArray:
        if (depth >= formats::JsonReader::kMaxDepth) {
          FailConfig(file_, fmt::format("nests deeper than {} levels; no model's config does, so "
                                        "the file is damaged: download it again",
                                        formats::JsonReader::kMaxDepth));
        }
        return type == formats::JsonType::kObject ? Object(depth) : Array(depth);
      case formats::JsonType::kString:
        return Json(std::string(reader_.String()));
      case formats::JsonType::kNumber:
        return Number(reader_.Number());
      case formats::JsonType::kBool:
        return Json(reader_.SkipValue() == "true");
      case formats::JsonType::kNull:
        reader_.Null();
        return nullptr;
    }
    return nullptr;
  }

  Json Object(int depth) {
    Json object = Json::object();
    reader_.BeginObject();
    while (const auto key = reader_.NextMember()) {
      std::string name(*key);
      if (object.contains(name)) {
        FailConfig(file_, fmt::format("holds the field '{}' twice in one object; remove one of the "
                                      "two",
                                      name));
      }
      object[std::move(name)] = Value(depth + 1);
    }
    return object;
  }

  Json Array(int depth) {
    Json array = Json::array();
    reader_.BeginArray();
    while (reader_.NextElement()) array.push_back(Value(depth + 1));
    return array;
  }

  // Whole numbers that fit 64 bits stay whole.
  static Json Number(std::string_view text) {
    const char* const begin = text.data();
    const char* const end = begin + text.size();
    if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
    if (text == "Infinity") return std::numeric_limits<double>::infinity();
    if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
    std::uint64_t whole = 0;
    if (const auto [stop, error] = std::from_chars(begin, end, whole);
        error == std::errc() && stop == end) {
      return whole;
    }
    std::int64_t negative = 0;
    if (const auto [stop, error] = std::from_chars(begin, end, negative);
        error == std::errc() && stop == end) {
      return negative;
    }
    double value = 0;  // stays 0 where the number is smaller than any double
    std::from_chars(begin, end, value);
    return value;
  }

  const std::string& file_;
  formats::JsonReader reader_;
};

}  // namespace

Json ParseConfigObject(std::string_view text, const std::string& file) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  if (text.empty())
    FailConfig(file, "the file is empty, which is not valid JSON; download it again");
  if (const std::string_view foreign = formats::DescribeForeignFile(text); !foreign.empty()) {
    FailConfig(file, std::string(foreign));
  }
  Json root = Parser(text, file).Run();
  if (!root.is_object()) {
    FailConfig(
        file, fmt::format("must be a JSON object but is {}; the file is damaged, download it again",
                          ShownInMessage(root)));
  }
  return root;
}

}  // namespace dsv3::convert
