#include "convert/packing/pull_weights.h"

#include <array>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "formats/document_reader.h"
#include "formats/error.h"
#include "formats/json/json_writer.h"
#include "formats/number_of.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kEncodingMember = "delta_encoding";
constexpr std::string_view kCompression = "zstd";
// In the order of the enums.
constexpr std::array<std::string_view, 2> kEncodings = {"xor", "overwrite"};
constexpr std::array<std::string_view, 2> kChecksums = {"xxh3-128", "adler32"};

template <std::size_t N>
std::optional<std::size_t> Find(const std::array<std::string_view, N>& names,
                                std::string_view name) {
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == name) return i;
  }
  return std::nullopt;
}

class Parser : formats::DocumentReader {
 public:
  Parser(std::string_view text, const std::string& file)
      : DocumentReader(text, file, "the index of the weight deltas",
                       "publish the version again, or get it again") {}

  PullIndex Parse() {
    constexpr std::string_view kNames[] = {"metadata", "weight_map"};
    const unsigned seen = Object(
        kNames, "it", [&](std::size_t member) { member == 0 ? ReadMetadata() : ReadWeightMap(); });
    json().End();
    Require(seen, 0b11, kNames, "it");
    return std::move(index_);
  }

 private:
  void ReadMetadata() {
    constexpr std::string_view kNames[] = {"version", "base_version", kEncodingMember,
                                           "compression_format", "checksum_format"};
    const unsigned seen = Object(kNames, "\"metadata\"", [&](std::size_t member) {
      const std::string value(json().String());
      if (member == 0) index_.version = Version(value);
      if (member == 1) index_.base_version = Version(value);
      if (member == 2) index_.encoding = static_cast<PullEncoding>(Known(kEncodings, value));
      if (member == 3 && value != kCompression) FailUnknown(value);
      if (member == 4) index_.checksum = static_cast<PullChecksum>(Known(kChecksums, value));
    });
    Require(seen, 0b11111, kNames, "\"metadata\"");
    if (index_.base_version >= index_.version) {
      Fail(fmt::format("it says that version {} builds on version {}", index_.version,
                       index_.base_version));
    }
  }

  void ReadWeightMap() {
    json().BeginObject();
    while (const auto key = json().NextMember()) {
      std::string name(*key);
      const auto [place, is_new] = index_.weight_map.emplace(std::move(name), FileName());
      if (!is_new) Fail(fmt::format("tensor {} is listed twice", QuoteForMessage(place->first)));
    }
  }

  std::uint64_t Version(const std::string& text) const {
    const auto number = formats::NumberOf<std::uint64_t>(text);
    if (!number) Fail(fmt::format("{} is no version", QuoteForMessage(text)));
    return *number;
  }

  template <std::size_t N>
  std::size_t Known(const std::array<std::string_view, N>& names, const std::string& name) const {
    const std::optional<std::size_t> found = Find(names, name);
    if (!found) FailUnknown(name);
    return *found;
  }

  [[noreturn]] void FailUnknown(const std::string& name) const {
    Fail(fmt::format("{} is an encoding, a compression or a checksum that is not known here",
                     QuoteForMessage(name)));
  }

  PullIndex index_;
};

std::string VersionText(std::uint64_t version) { return fmt::format("{:06}", version); }

}  // namespace

std::string PullDirectoryName(std::uint64_t version) { return "weight_v" + VersionText(version); }

bool IsPullIndex(std::string_view text) {
  return text.find(fmt::format("\"{}\"", kEncodingMember)) != text.npos;
}

std::string SerializePullIndex(const PullIndex& index) {
  formats::JsonWriter json(2);
  json.BeginObject();
  json.BeginObject("metadata");
  json.String("version", VersionText(index.version));
  json.String("base_version", VersionText(index.base_version));
  json.String(kEncodingMember, kEncodings[static_cast<std::size_t>(index.encoding)]);
  json.String("compression_format", kCompression);
  json.String("checksum_format", kChecksums[static_cast<std::size_t>(index.checksum)]);
  json.EndObject();
  json.BeginObject("weight_map");
  for (const auto& [tensor, file] : index.weight_map) json.String(tensor, file);
  json.EndObject();
  json.EndObject();
  return json.Take() + "\n";
}

PullIndex ParsePullIndex(std::string_view text, const std::string& file) {
  return Parser(text, file).Parse();
}

}  // namespace dsv3::convert
