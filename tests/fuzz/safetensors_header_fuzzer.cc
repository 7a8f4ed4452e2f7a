// An input is a file: 8 bytes of length, the header, and data. The mutator changes the JSON between
// them and repairs the length afterwards, so that most inputs reach the parser's inner checks. The
// file's size is told to the parser in two ways: as it is, and as the header's offsets want it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "formats/error.h"
#include "formats/safetensors.h"
#include "tests/fuzz/require.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

using dsv3::formats::SafetensorsHeader;

constexpr std::size_t kLengthBytes = 8;

constexpr std::array<std::string_view, 6> kSeeds = {
    R"({})",
    R"({"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}})",
    R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],)"
    R"("data_offsets":[4,4]},"c":{"dtype":"F4","shape":[4],"data_offsets":[4,6]}})",
    R"({"a\u00e9\ud83d\ude00\n":{"data_offsets":[0,3],"dtype":"F6_E2M3","shape":[4],"x":[1e5]}})",
    R"({"a":["I64",[1],[0,8]],"b":{"dtype":{"BOOL":null},"shape":[8],"data_offsets":[8,16]}} )",
    R"({"__metadata__":null,"":{"dtype":"F8_E4M3","shape":[2,2,2],"data_offsets":[0,8]}})",
};

constexpr auto kTokens = std::to_array<std::string_view>(
    {"\"dtype\":",
     "\"shape\":",
     "\"data_offsets\":",
     "\"__metadata__\":{\"k\":\"v\"},",
     "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},",
     "\"x\":{},",
     "[0,0]",
     "[]",
     "{}",
     ",",
     ":",
     "\"U8\"",
     "\"F4\"",
     "\"F64\"",
     "\"F8_E8M0\"",
     "{\"U8\":null}",
     "null",
     "4.0",
     "-0",
     "1e9",
     "18446744073709551615",
     "18446744073709551616",
     "4294967296",
     "\\u0061",
     "\\ud83d",
     "\\ude00",
     "\\\"",
     "\xC3\xA9",
     "\xFF",
     " ",
     "[[[[[[[[[[[[[[[["});

std::string_view AsText(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// What the first 8 bytes of a file give as the length of its JSON.
std::uint64_t LengthOf(std::string_view file) {
  std::uint64_t length = 0;
  if (file.size() >= kLengthBytes) std::memcpy(&length, file.data(), sizeof length);
  return length;
}

// The JSON within a file: as much of it as the file holds.
std::string_view JsonOf(std::string_view file) {
  if (file.size() < kLengthBytes) return {};
  return file.substr(kLengthBytes, std::min<std::uint64_t>(LengthOf(file), file.size()));
}

// The end of the data if `json` is a sound header; read without the parser under test.
std::uint64_t WantedDataBytes(std::string_view json) {
  std::uint64_t end = 0;
  const auto root = nlohmann::json::parse(json, nullptr, false);
  if (!root.is_object()) return 0;
  for (const auto& entry : root) {
    const auto* offsets = entry.is_object() && entry.contains("data_offsets")
                              ? &entry["data_offsets"]
                              : (entry.is_array() && entry.size() == 3 ? &entry[2] : nullptr);
    if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2) continue;
    if ((*offsets)[1].is_number_unsigned()) {
      end = std::max(end, (*offsets)[1].get<std::uint64_t>());
    }
  }
  return end;
}

void RequireSound(const SafetensorsHeader& header, std::uint64_t file_bytes) {
  std::uint64_t end = 0;
  std::set<std::string_view> names;
  for (const auto& tensor : header.tensors) {
    DSV3_FUZZ_REQUIRE(tensor.begin == end);
    DSV3_FUZZ_REQUIRE(dsv3::formats::NumBytes(tensor.dtype, tensor.shape) ==
                      tensor.end - tensor.begin);
    DSV3_FUZZ_REQUIRE(names.insert(tensor.name).second);
    end = tensor.end;
  }
  DSV3_FUZZ_REQUIRE(header.file_bytes == file_bytes);
  DSV3_FUZZ_REQUIRE(header.data_offset + end == file_bytes);
  DSV3_FUZZ_REQUIRE(header.digest.size() == 32);
}

// What is written can be read again, and says the same.
void RequireRoundTrip(const SafetensorsHeader& header) {
  auto tensors = header.tensors;
  dsv3::formats::LayOutTensors(tensors);
  const std::string written = dsv3::formats::SerializeSafetensorsHeader(tensors, header.metadata);
  DSV3_FUZZ_REQUIRE(written.size() % kLengthBytes == 0);
  const std::uint64_t file_bytes = written.size() + (header.file_bytes - header.data_offset);
  const SafetensorsHeader again = dsv3::formats::ParseSafetensorsHeader(
      std::as_bytes(std::span(written)), file_bytes, "written");
  DSV3_FUZZ_REQUIRE(again.metadata == header.metadata);
  DSV3_FUZZ_REQUIRE(again.tensors.size() == tensors.size());
  // Tensors without bytes lie at one place; the parser keeps the order of the text for them.
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    DSV3_FUZZ_REQUIRE(again.tensors[i].name == tensors[i].name);
    DSV3_FUZZ_REQUIRE(again.tensors[i].dtype == tensors[i].dtype);
    DSV3_FUZZ_REQUIRE(again.tensors[i].shape == tensors[i].shape);
    DSV3_FUZZ_REQUIRE(again.tensors[i].begin == tensors[i].begin);
  }
  DSV3_FUZZ_REQUIRE(dsv3::formats::SerializeSafetensorsHeader(again.tensors, again.metadata) ==
                    written);
}

void Try(std::string_view file, std::uint64_t file_bytes) {
  try {
    const SafetensorsHeader header =
        dsv3::formats::ParseSafetensorsHeader(std::as_bytes(std::span(file)), file_bytes, "fuzzed");
    DSV3_FUZZ_REQUIRE(nlohmann::json::accept(JsonOf(file)));
    RequireSound(header, file_bytes);
    RequireRoundTrip(header);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
}

void MutateJson(std::string& json, std::size_t max_size, std::minstd_rand& random) {
  const auto below = [&](std::size_t bound) { return bound == 0 ? 0 : random() % bound; };
  if (json.empty() || below(50) == 0) json = kSeeds[below(kSeeds.size())];
  const std::size_t at = below(json.size() + 1);
  switch (below(4)) {
    case 0: {
      const std::string_view token = kTokens[below(kTokens.size())];
      const std::size_t place = json.find_first_of("{[,:", at);
      json.insert(place == std::string::npos ? at : place + 1, token);
      break;
    }
    case 1: {
      // One number becomes another, often a likely one.
      const std::size_t begin = json.find_first_of("0123456789", at);
      if (begin == std::string::npos) break;
      const std::size_t end = std::min(json.find_first_not_of("0123456789", begin), json.size());
      const std::size_t likely = below(20) * (below(3) == 0 ? 1 : 4);
      json.replace(begin, end - begin, std::to_string(likely));
      break;
    }
    case 2: {
      // A part is repeated, so that names and fields appear twice.
      const std::string part = json.substr(at, below(64));
      json.insert(std::min(json.find_first_of(",{", at), json.size()), part);
      break;
    }
    default: {
      json.resize(json.size() + 16);
      json.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(json.data()), json.size() - 16,
                                   json.size()));
    }
  }
  json.resize(std::min(json.size(), max_size));
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  if (max_size < 2 * kLengthBytes) return LLVMFuzzerMutate(data, size, max_size);
  std::string json(JsonOf(AsText(data, size)));
  MutateJson(json, max_size - kLengthBytes, random);
  std::uint64_t length = json.size();
  // Now and then the length, and the number of data bytes, stay wrong.
  if (random() % 32 == 0) length += random() % 5 - 2;
  if (random() % 64 == 0) length = std::uint64_t{1} << random() % 64;
  std::uint64_t data_bytes = WantedDataBytes(json);
  if (random() % 16 == 0) data_bytes += random() % 3 - 1;
  const std::size_t room = max_size - kLengthBytes - json.size();
  const std::size_t tail = data_bytes <= room ? static_cast<std::size_t>(data_bytes) : 0;
  std::memcpy(data, &length, kLengthBytes);
  std::memcpy(data + kLengthBytes, json.data(), json.size());
  std::memset(data + kLengthBytes + json.size(), 0, tail);
  return kLengthBytes + json.size() + tail;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view file = AsText(data, size);
  Try(file, size);
  const std::string_view json = JsonOf(file);
  // A larger size goes only with a whole header: the parser's caller reads that first.
  if (size < kLengthBytes || json.size() != LengthOf(file)) return 0;
  const std::uint64_t wanted = kLengthBytes + json.size() + WantedDataBytes(json);
  if (wanted >= size) Try(file, wanted);
  return 0;
}
