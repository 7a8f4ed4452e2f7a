#include "convert/packing/packed_manifest.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "convert/packing/packed_file.h"
#include "formats/document_reader.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kFormat = "dsv3-packed-checkpoint";
constexpr std::uint64_t kVersion = 1;
// The last member: the digest of the bytes before its name's first quote.
constexpr std::string_view kListDigest = "list_xxh3_128";

void WriteDigest(formats::JsonWriter& writer, std::string_view key, const std::string& digest) {
  if (digest.empty()) return;
  writer.String(key, digest);
}

std::string FileLine(const PackedManifestFile& file) {
  formats::JsonWriter writer(0);
  writer.BeginObject();
  writer.String("name", file.name);
  writer.Uint("bytes", file.bytes);
  WriteDigest(writer, "sha256", file.sha256);
  if (file.packed) {
    writer.BeginObject("packed");
    writer.Uint("bytes", file.packed_bytes);
    WriteDigest(writer, "sha256", file.packed_sha256);
    writer.EndObject();
  }
  writer.EndObject();
  return writer.Take();
}

std::string TensorLine(const PackedManifestTensor& tensor) {
  formats::JsonWriter writer(0);
  writer.BeginObject();
  writer.String("name", tensor.name);
  writer.String("file", tensor.file);
  writer.String("dtype", formats::DtypeName(tensor.dtype));
  writer.Uints("shape", tensor.shape);
  writer.String("xxh3_128", tensor.xxh3);
  WriteDigest(writer, "base_xxh3_128", tensor.base_xxh3);
  writer.EndObject();
  return writer.Take();
}

// One element a line, so that line tools can work on it.
template <typename Elements, typename Line>
void AppendLines(std::string& text, const Elements& elements, const Line& line) {
  bool first = true;
  for (const auto& element : elements) {
    if (!first) text += ",\n";
    first = false;
    text += line(element);
  }
}

class Parser : formats::DocumentReader {
 public:
  Parser(std::string_view text, const std::string& file)
      : DocumentReader(text, file, "the list of the packed checkpoint",
                       "restore it from where it came from; without it nothing can be unpacked"),
        file_(file) {}

  PackedManifest Parse(std::string_view text);

 private:
  void CheckDigest(std::string_view text, const std::string& digest) const;
  void ReadPacked(PackedManifestFile& file);
  PackedManifestFile ReadFile();
  PackedManifestTensor ReadTensor();
  void CheckFiles(const PackedManifest& manifest) const;
  void CheckTensors(const PackedManifest& manifest) const;

  const std::string& file_;
};

void Parser::ReadPacked(PackedManifestFile& file) {
  constexpr std::string_view kNames[] = {"bytes", "sha256"};
  const unsigned seen = Object(kNames, "\"packed\"", [&](std::size_t member) {
    if (member == 0) file.packed_bytes = json().Uint();
    if (member == 1) file.packed_sha256 = Hex(64);
  });
  Require(seen, 0b01, kNames, "\"packed\"");
  file.packed = true;
}

PackedManifestFile Parser::ReadFile() {
  constexpr std::string_view kNames[] = {"name", "bytes", "sha256", "packed"};
  PackedManifestFile file;
  const unsigned seen = Object(kNames, "a file", [&](std::size_t member) {
    if (member == 0) file.name = FileName();
    if (member == 1) file.bytes = json().Uint();
    if (member == 2) file.sha256 = Hex(64);
    if (member == 3) ReadPacked(file);
  });
  Require(seen, 0b0011, kNames, "a file");
  return file;
}

PackedManifestTensor Parser::ReadTensor() {
  constexpr std::string_view kNames[] = {"name",  "file",     "dtype",
                                         "shape", "xxh3_128", "base_xxh3_128"};
  PackedManifestTensor tensor;
  const unsigned seen = Object(kNames, "a tensor", [&](std::size_t member) {
    if (member == 0) tensor.name = json().String();
    if (member == 1) tensor.file = FileName();
    if (member == 2) tensor.dtype = ReadDtype();
    if (member == 3) tensor.shape = ReadShape();
    if (member == 4) tensor.xxh3 = Hex(32);
    if (member == 5) tensor.base_xxh3 = Hex(32);
  });
  Require(seen, 0b011111, kNames, "a tensor");
  if (!formats::NumBytes(tensor.dtype, tensor.shape)) {
    Fail(fmt::format("tensor {} of dtype {} and shape {} has no byte size",
                     QuoteForMessage(tensor.name), formats::DtypeName(tensor.dtype),
                     formats::ShapeToString(tensor.shape)));
  }
  return tensor;
}

// No two files may lie in one place, neither unpacked nor packed.
void Parser::CheckFiles(const PackedManifest& manifest) const {
  std::vector<std::string> places{std::string(kPackedManifestName)};
  std::vector<std::string_view> names;
  for (const PackedManifestFile& file : manifest.files) {
    places.push_back(file.packed ? file.PackedName() : file.name);
    names.push_back(file.name);
  }
  const auto check = [this](auto& list) {
    std::sort(list.begin(), list.end());
    const auto twice = std::adjacent_find(list.begin(), list.end());
    if (twice == list.end()) return;
    Fail(fmt::format("it lists two files at {}", QuoteForMessage(*twice)));
  };
  check(places);
  check(names);
}

void Parser::CheckTensors(const PackedManifest& manifest) const {
  std::vector<std::pair<std::string_view, std::string_view>> places;
  places.reserve(manifest.tensors.size());
  for (const PackedManifestTensor& tensor : manifest.tensors) {
    const PackedManifestFile* const file = manifest.FindFile(tensor.file);
    if (file == nullptr || !file->packed) {
      Fail(fmt::format("tensor {} is said to be in {}, which is not among the packed files",
                       QuoteForMessage(tensor.name), QuoteForMessage(tensor.file)));
    }
    places.emplace_back(tensor.file, tensor.name);
  }
  std::sort(places.begin(), places.end());
  const auto twice = std::adjacent_find(places.begin(), places.end());
  if (twice != places.end()) {
    Fail(fmt::format("tensor {} of {} is listed twice", QuoteForMessage(twice->second),
                     QuoteForMessage(twice->first)));
  }
}

// Without it a changed digit of a digest would not be seen where nothing needs that digest.
void Parser::CheckDigest(std::string_view text, const std::string& digest) const {
  const std::size_t place = text.rfind(fmt::format("\"{}\"", kListDigest));
  if (place == text.npos || formats::Xxh3Hex(text.substr(0, place)) != digest) {
    Fail(fmt::format("its bytes are not those that its \"{}\" was made of", kListDigest));
  }
}

PackedManifest Parser::Parse(std::string_view text) {
  constexpr std::string_view kNames[] = {"format", "version", "files", "tensors", kListDigest};
  PackedManifest manifest;
  std::string digest;
  const unsigned seen = Object(kNames, "it", [&](std::size_t member) {
    if (member == 0 && json().String() != kFormat) {
      Fail(fmt::format("its \"format\" is not \"{}\"", kFormat));
    }
    if (member == 1) {
      const std::uint64_t version = json().Uint();
      if (version != kVersion) {
        throw Error(ErrorCode::kBadInput,
                    fmt::format("{}: it is a packed checkpoint of version {}, and this program "
                                "knows version {} alone; unpack it with the program that packed "
                                "it, or a newer one",
                                formats::ShownPath(file_), version, kVersion),
                    {file_, ""});
      }
    }
    if (member == 2) {
      Array([&] { manifest.files.push_back(ReadFile()); });
    }
    if (member == 3) {
      Array([&] { manifest.tensors.push_back(ReadTensor()); });
    }
    if (member == 4) digest = Hex(32);
  });
  json().End();
  Require(seen, 0b11111, kNames, "it");
  std::stable_sort(
      manifest.files.begin(), manifest.files.end(),
      [](const PackedManifestFile& a, const PackedManifestFile& b) { return a.name < b.name; });
  CheckFiles(manifest);
  CheckTensors(manifest);
  CheckDigest(text, digest);
  return manifest;
}

}  // namespace

std::string PackedManifestFile::PackedName() const { return name + std::string(kPackedSuffix); }

bool PackedManifest::NeedsBase() const {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const PackedManifestTensor& tensor) { return !tensor.base_xxh3.empty(); });
}

const PackedManifestFile* PackedManifest::FindFile(std::string_view name) const {
  const auto found = std::lower_bound(
      files.begin(), files.end(), name,
      [](const PackedManifestFile& file, std::string_view n) { return file.name < n; });
  return found != files.end() && found->name == name ? &*found : nullptr;
}

std::map<std::string_view, std::vector<const PackedManifestTensor*>> PackedManifest::TensorsByFile()
    const {
  std::map<std::string_view, std::vector<const PackedManifestTensor*>> by_file;
  for (const PackedManifestTensor& tensor : tensors) by_file[tensor.file].push_back(&tensor);
  return by_file;
}

std::string SerializePackedManifest(const PackedManifest& manifest) {
  std::string text =
      fmt::format("{{\n\"format\": \"{}\",\n\"version\": {},\n\"files\": [\n", kFormat, kVersion);
  AppendLines(text, manifest.files, FileLine);
  text += "\n],\n\"tensors\": [\n";
  AppendLines(text, manifest.tensors, TensorLine);
  text += "\n],\n";
  const std::string digest = formats::Xxh3Hex(text);
  return text + fmt::format("\"{}\": \"{}\"\n}}\n", kListDigest, digest);
}

PackedManifest ParsePackedManifest(std::string_view text, const std::string& file) {
  return Parser(text, file).Parse(text);
}

}  // namespace dsv3::convert
