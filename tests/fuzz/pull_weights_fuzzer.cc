// The first byte of an input says what the rest is:
//   0  an index
//   1  a number N (two bytes), an index of N bytes, and a file of weight deltas
//   2  (xor) and 3 (overwrite): the frame of a tensor, as it is
//   4  (xor) and 5 (overwrite): the content of such a frame, which is made a right one, so that
//      what is behind its checksum is reached; the values are compared with those of a plain reader

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "convert/open/assembled_model.h"
#include "convert/open/open_model.h"
#include "convert/open/pull_weights_model.h"
#include "convert/packing/pull_weights.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_bytes.h"
#include "formats/error.h"
#include "formats/zstd_stream.h"
#include "tests/fuzz/require.h"

namespace {

namespace fs = std::filesystem;
using dsv3::convert::Expression;
using dsv3::convert::OpenedModel;
using dsv3::convert::PullEncoding;
using dsv3::convert::PullIndex;
using dsv3::convert::SourceFiles;
using Bytes = std::vector<std::byte>;

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kDeltas[] = "model-00000-of-00001.safetensors";
// The base's tensor that frames are of.
constexpr std::size_t kTensorBytes = 600;

std::string Safetensors(const std::string& header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file.append(header).append(data);
}

std::string BaseData() {
  std::string data;
  for (std::size_t i = 0; i < kTensorBytes + 12; ++i) data += static_cast<char>(37 * i + i / 256);
  return data;
}

// The base and the deltas, in memory; they go with the fuzzer.
class Directories {
 public:
  Directories() {
    char name[] = "/dev/shm/dsv3-pull-XXXXXX";
    DSV3_FUZZ_REQUIRE(::mkdtemp(name) != nullptr);
    root_ = name;
    fs::create_directories(base());
    fs::create_directories(deltas());
    Write(base() / "config.json", R"({"model_type": "of no family"})");
    Write(base() / "model.safetensors",
          Safetensors(
              fmt::format(R"({{"w":{{"dtype":"BF16","shape":[30,10],"data_offsets":[0,{0}]}},)"
                          R"("n":{{"dtype":"F32","shape":[3],"data_offsets":[{0},{1}]}},)"
                          R"("e":{{"dtype":"F16","shape":[0],"data_offsets":[{1},{1}]}}}})",
                          kTensorBytes, kTensorBytes + 12),
              BaseData()));
  }
  ~Directories() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  Directories(const Directories&) = delete;
  Directories& operator=(const Directories&) = delete;

  fs::path base() const { return root_ / "base"; }
  fs::path deltas() const { return root_ / "deltas"; }

  void WriteDeltas(std::string_view index, std::string_view file) const {
    Write(deltas() / kIndex, index);
    Write(deltas() / kDeltas, file);
  }

 private:
  static void Write(const fs::path& path, std::string_view content) {
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    DSV3_FUZZ_REQUIRE(file != nullptr);
    DSV3_FUZZ_REQUIRE(std::fwrite(content.data(), 1, content.size(), file) == content.size());
    std::fclose(file);
  }

  fs::path root_;
};

const Directories& Places() {
  static const Directories places;
  return places;
}

// Whether `work` found no fault of the input.
template <typename Work>
bool Holds(const Work& work) {
  try {
    work();
    return true;
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("model"));
    return false;
  }
}

// Every value, whole and then from two other places on.
std::vector<Bytes> ReadValues(std::size_t cut) {
  dsv3::convert::OpenOptions options;
  options.base = Places().base();
  const OpenedModel model = dsv3::convert::OpenPullWeights(Places().deltas(), options);
  SourceFiles sources(model.assembled->stored);
  std::vector<Bytes> values;
  for (const auto& origin : model.assembled->origins) {
    const Expression& value = *origin;
    const std::uint64_t bytes = value.num_bytes();
    if (bytes == 0) continue;
    values.push_back(dsv3::convert::ReadValue(value, {0, bytes}, sources));
    const std::uint64_t middle = cut % bytes;
    for (const dsv3::convert::ByteRange range :
         {dsv3::convert::ByteRange{middle, bytes}, dsv3::convert::ByteRange{0, middle}}) {
      if (range.empty()) continue;
      const Bytes piece = dsv3::convert::ReadValue(value, range, sources);
      DSV3_FUZZ_REQUIRE(
          std::equal(piece.begin(), piece.end(),
                     values.back().begin() + static_cast<std::ptrdiff_t>(range.begin)));
    }
  }
  DSV3_FUZZ_REQUIRE(values.size() == 2);
  return values;
}

void TryIndex(std::string_view text) {
  Holds([&] {
    const PullIndex index = dsv3::convert::ParsePullIndex(text, "model");
    DSV3_FUZZ_REQUIRE(index.base_version < index.version);
    for (const auto& [tensor, file] : index.weight_map) {
      DSV3_FUZZ_REQUIRE(!file.starts_with('/'));
      for (const fs::path& part : fs::path(file)) DSV3_FUZZ_REQUIRE(part != "..");
    }
    const std::string written = dsv3::convert::SerializePullIndex(index);
    const PullIndex again = dsv3::convert::ParsePullIndex(written, "model");
    DSV3_FUZZ_REQUIRE(again.weight_map == index.weight_map && again.version == index.version &&
                      again.encoding == index.encoding && again.checksum == index.checksum);
  });
}

void TryDirectory(std::string_view input) {
  std::uint16_t length = 0;
  if (input.size() < sizeof length) return;
  std::memcpy(&length, input.data(), sizeof length);
  input.remove_prefix(sizeof length);
  Places().WriteDeltas(input.substr(0, length),
                       input.substr(std::min<std::size_t>(length, input.size())));
  Holds([&] { ReadValues(length); });
}

// The values of the tensor that a frame changes; nothing where it is refused.
std::optional<Bytes> ReadFrame(PullEncoding encoding, std::string_view frame) {
  PullIndex index;
  index.version = 1;
  index.encoding = encoding;
  index.weight_map.emplace("w", kDeltas);
  Places().WriteDeltas(
      dsv3::convert::SerializePullIndex(index),
      Safetensors(fmt::format(R"({{"__metadata__":{{"w":"00"}},)"
                              R"("w":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})",
                              frame.size()),
                  frame));
  std::optional<Bytes> value;
  Holds([&] { value = ReadValues(frame.size()).front(); });
  return value;
}

std::string FrameOf(std::string_view content) {
  std::string frame;
  dsv3::formats::ZstdStreamEncoder encoder;
  const auto take = [&](std::span<const std::byte> piece) {
    frame.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  };
  encoder.Begin(content.size());
  encoder.Add(std::as_bytes(std::span(content)), take);
  encoder.End(take);
  return frame;
}

// What the content of a frame makes of the base's tensor, as its description says.
std::optional<std::string> Applied(PullEncoding encoding, std::string_view content) {
  std::string value = BaseData().substr(0, kTensorBytes);
  if (encoding == PullEncoding::kXor) {
    if (content.size() != value.size()) return std::nullopt;
    for (std::size_t i = 0; i < value.size(); ++i)
      value[i] = static_cast<char>(value[i] ^ content[i]);
    return value;
  }
  std::uint32_t count = 0;
  if (content.size() < sizeof count) return std::nullopt;
  std::memcpy(&count, content.data(), sizeof count);
  if (content.size() != 4 + 5 * std::uint64_t{count} || count > kTensorBytes) return std::nullopt;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t position = 0;
    std::memcpy(&position, content.data() + 4 + 4 * i, sizeof position);
    if (position >= value.size()) return std::nullopt;
    value[position] = content[4 + 4 * count + i];
  }
  return value;
}

void TryContent(PullEncoding encoding, std::string_view content) {
  const std::optional<Bytes> value = ReadFrame(encoding, FrameOf(content));
  const std::optional<std::string> expected = Applied(encoding, content);
  DSV3_FUZZ_REQUIRE(value.has_value() == expected.has_value());
  if (!value) return;
  DSV3_FUZZ_REQUIRE(std::memcmp(value->data(), expected->data(), kTensorBytes) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const PullEncoding encoding = data[0] % 2 == 0 ? PullEncoding::kXor : PullEncoding::kOverwrite;
  switch (data[0]) {
    case 0:
      TryIndex(rest);
      break;
    case 1:
      TryDirectory(rest);
      break;
    case 2:
    case 3:
      ReadFrame(encoding, rest);
      break;
    case 4:
    case 5:
      TryContent(encoding, rest);
      break;
    default:
      break;
  }
  return 0;
}
