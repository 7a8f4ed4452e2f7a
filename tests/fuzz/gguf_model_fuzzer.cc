// An input is a number N (four bytes), then the N bytes of a first file; what is left, if anything,
// is a second split.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <unistd.h>

#include "convert/open/gguf_model.h"
#include "convert/open/open_model.h"
#include "convert/verify/gguf_tensors.h"
#include "formats/error.h"
#include "tests/fuzz/require.h"

namespace {

namespace fs = std::filesystem;
using dsv3::convert::Expression;
using dsv3::convert::OpenedModel;
using dsv3::convert::SourceRange;

// A directory in memory, which goes with the fuzzer.
class Directory {
 public:
  Directory() {
    char name[] = "/dev/shm/dsv3-gguf-XXXXXX";
    DSV3_FUZZ_REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void Write(const fs::path& path, std::span<const std::uint8_t> bytes) {
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  DSV3_FUZZ_REQUIRE(file != nullptr);
  DSV3_FUZZ_REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  std::fclose(file);
}

// The first piece of a tensor's value is made of bytes that its files have.
void MakeFirstPiece(const OpenedModel& model, std::uint32_t tensor,
                    std::span<const std::span<const std::byte>> files) {
  const Expression& value = *model.gguf->origins[tensor];
  DSV3_FUZZ_REQUIRE(value.shape() == model.catalog.tensors()[tensor].shape);
  if (value.num_bytes() == 0) return;
  const std::uint64_t end = value.CutAfter(0);
  DSV3_FUZZ_REQUIRE(end > 0 && end <= value.num_bytes());
  std::vector<SourceRange> reads;
  value.AppendReads(0, end, reads);
  std::vector<std::span<const std::byte>> inputs;
  for (const SourceRange& read : reads) {
    const auto& extent = model.gguf->stored.tensors().at(read.tensor).extent;
    DSV3_FUZZ_REQUIRE(read.begin <= read.end && read.end <= extent.length);
    const std::span<const std::byte> file = files[extent.file];
    DSV3_FUZZ_REQUIRE(extent.offset <= file.size() && extent.length <= file.size() - extent.offset);
    inputs.push_back(file.subspan(extent.offset + read.begin, read.end - read.begin));
  }
  std::vector<std::byte> made(end);
  dsv3::convert::EvaluationOutput out{made, {}, {}};
  value.Evaluate(0, end, inputs, out);
  dsv3::convert::GgufPlaceOf(*model.gguf, tensor, 0);
  dsv3::convert::GgufTypesOf(*model.gguf, tensor);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Directory directory;
  std::uint32_t length = 0;
  if (size < sizeof length) return 0;
  std::memcpy(&length, data, sizeof length);
  const std::span<const std::uint8_t> all(data + sizeof length, size - sizeof length);
  const std::span<const std::uint8_t> first = all.first(std::min<std::size_t>(length, all.size()));
  const std::span<const std::uint8_t> second = all.subspan(first.size());
  const fs::path path = directory.path() / "m-00001-of-00002.gguf";
  const fs::path beside = directory.path() / "m-00002-of-00002.gguf";
  Write(path, first);
  if (second.empty()) {
    fs::remove(beside);
  } else {
    Write(beside, second);
  }
  try {
    dsv3::convert::OpenOptions options;
    options.gguf = dsv3::convert::OpenOptions::Gguf::kModelNames;
    const OpenedModel model = dsv3::convert::OpenGguf(path, options);
    const std::vector<std::span<const std::byte>> files = {std::as_bytes(first),
                                                           std::as_bytes(second)};
    for (std::uint32_t i = 0; i < model.catalog.tensors().size(); ++i) {
      MakeFirstPiece(model, i, files);
    }
    dsv3::convert::JudgeGgufTensors(model);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("m-0000"));
  }
  return 0;
}
