#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "formats/document_reader.h"
#include "formats/error.h"
#include "formats/manifest.h"

namespace dsv3::formats {
namespace {

class Parser : DocumentReader {
 public:
  Parser(std::string_view text, const std::string& file)
      : DocumentReader(text, file, "the manifest",
                       "restore it from where it came from; until then nothing says that the "
                       "files are right") {}

  Manifest Parse();

 private:
  bool Bool() {
    const std::string_view value = json().SkipValue();
    if (value != "true" && value != "false") Fail("\"by_recipe\" is neither true nor false");
    return value == "true";
  }

  std::vector<std::pair<std::string, std::string>> RawMembers() {
    std::vector<std::pair<std::string, std::string>> members;
    json().BeginObject();
    while (const auto key = json().NextMember()) {
      std::string name(*key);
      members.emplace_back(std::move(name), std::string(json().SkipValue()));
    }
    return members;
  }

  ManifestSourceFile ReadSourceFile();
  std::pair<std::string, std::uint64_t> ReadDropped();
  ManifestFile ReadFile();
  ManifestSource ReadSource();
  ManifestTensor ReadTensor();
  void ReadSourceMember(ManifestJob& job);
  void Check(const Manifest& manifest) const;
};

ManifestSourceFile Parser::ReadSourceFile() {
  constexpr std::string_view kNames[] = {"checkpoint", "name", "bytes", "header_xxh3_128"};
  ManifestSourceFile file;
  const unsigned seen = Object(kNames, "a source file", [&](std::size_t member) {
    if (member == 0) file.checkpoint = json().String();
    if (member == 1) file.name = json().String();
    if (member == 2) file.bytes = json().Uint();
    if (member == 3) file.header_xxh3 = Hex(32);
  });
  Require(seen, 0b0110, kNames, "a source file");
  return file;
}

std::pair<std::string, std::uint64_t> Parser::ReadDropped() {
  constexpr std::string_view kNames[] = {"pattern", "tensors"};
  std::pair<std::string, std::uint64_t> dropped;
  const unsigned seen = Object(kNames, "a member of \"dropped\"", [&](std::size_t member) {
    if (member == 0) dropped.first = json().String();
    if (member == 1) dropped.second = json().Uint();
  });
  Require(seen, 0b11, kNames, "a member of \"dropped\"");
  return dropped;
}

ManifestFile Parser::ReadFile() {
  constexpr std::string_view kNames[] = {"name", "bytes", "sha256", "header_xxh3_128", "by_recipe"};
  ManifestFile file;
  const unsigned seen = Object(kNames, "a file", [&](std::size_t member) {
    if (member == 0) file.name = FileName();
    if (member == 1) file.bytes = json().Uint();
    if (member == 2) file.sha256 = Hex(64);
    if (member == 3) file.header_xxh3 = Hex(32);
    if (member == 4) file.by_recipe = Bool();
  });
  Require(seen, 0b00011, kNames, "a file");
  return file;
}

ManifestSource Parser::ReadSource() {
  constexpr std::string_view kNames[] = {"checkpoint", "name",   "dtype", "shape",
                                         "xxh3_128",   "sha256", "file"};
  ManifestSource source;
  const unsigned seen = Object(kNames, "a source", [&](std::size_t member) {
    if (member == 0) source.checkpoint = json().String();
    if (member == 1) source.name = json().String();
    if (member == 2) source.dtype = ReadDtype();
    if (member == 3) source.shape = ReadShape();
    if (member == 4) source.xxh3 = Hex(32);
    if (member == 5) source.sha256 = Hex(64);
    if (member == 6) source.file = json().String();
  });
  Require(seen, 0b001110, kNames, "a source");
  return source;
}

ManifestTensor Parser::ReadTensor() {
  constexpr std::string_view kNames[] = {"name",   "file",      "dtype", "shape",  "xxh3_128",
                                         "sha256", "nan_codes", "rule",  "sources"};
  ManifestTensor tensor;
  const unsigned seen = Object(kNames, "a tensor", [&](std::size_t member) {
    if (member == 0) tensor.name = json().String();
    if (member == 1) tensor.file = FileName();
    if (member == 2) tensor.dtype = ReadDtype();
    if (member == 3) tensor.shape = ReadShape();
    if (member == 4) tensor.xxh3 = Hex(32);
    if (member == 5) tensor.sha256 = Hex(64);
    if (member == 6) tensor.nan_codes = json().Uint();
    if (member == 7) tensor.rule = json().String();
    if (member == 8) {
      Array([&] { tensor.sources.push_back(ReadSource()); });
    }
  });
  Require(seen, 0b000011111, kNames, "a tensor");
  if (!NumBytes(tensor.dtype, tensor.shape)) {
    Fail(fmt::format("tensor {} of dtype {} and shape {} has no byte size",
                     QuoteForMessage(tensor.name), DtypeName(tensor.dtype),
                     ShapeToString(tensor.shape)));
  }
  return tensor;
}

void Parser::ReadSourceMember(ManifestJob& job) {
  constexpr std::string_view kNames[] = {"removed_config", "files", "dropped"};
  const unsigned seen = Object(kNames, "\"source\"", [&](std::size_t member) {
    if (member == 0) {
      // Values of a config, which may hold what Python writes.
      json().AllowPythonNumbers(true);
      job.removed_config = RawMembers();
      json().AllowPythonNumbers(false);
      return;
    }
    if (member == 1) {
      Array([&] { job.source_files.push_back(ReadSourceFile()); });
    }
    if (member == 2) {
      Array([&] { job.dropped.push_back(ReadDropped()); });
    }
  });
  Require(seen, 0b011, kNames, "\"source\"");
}

void Parser::Check(const Manifest& manifest) const {
  const auto& files = manifest.files;
  const auto twice = std::adjacent_find(
      files.begin(), files.end(),
      [](const ManifestFile& a, const ManifestFile& b) { return a.name == b.name; });
  if (twice != files.end())
    Fail(fmt::format("file {} is listed twice", QuoteForMessage(twice->name)));
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (manifest.FindFile(tensor.file) != nullptr) continue;
    Fail(fmt::format("tensor {} is said to be in {}, which is not among the files",
                     QuoteForMessage(tensor.name), QuoteForMessage(tensor.file)));
  }
}

Manifest Parser::Parse() {
  constexpr std::string_view kNames[] = {"format", "version", "recipe",  "options",
                                         "source", "files",   "tensors", "content_digest"};
  Manifest manifest;
  const unsigned seen = Object(kNames, "it", [&](std::size_t member) {
    if (member == 0 && json().String() != "dsv3-checkpoint-manifest") {
      Fail("its \"format\" is not \"dsv3-checkpoint-manifest\"");
    }
    if (member == 1 && json().Uint() != 1) {
      Fail("its \"version\" is not 1, the only one that this program knows");
    }
    if (member == 2) manifest.job.recipe = json().String();
    if (member == 3) manifest.job.options = RawMembers();
    if (member == 4) ReadSourceMember(manifest.job);
    if (member == 5) {
      Array([&] { manifest.files.push_back(ReadFile()); });
    }
    if (member == 6) {
      Array([&] { manifest.tensors.push_back(ReadTensor()); });
    }
    if (member == 7) manifest.content_digest = Hex(64);
  });
  json().End();
  // Manifests without a content digest are of the first release.
  Require(seen, 0b01111111, kNames, "it");
  const auto by_name = [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; };
  std::stable_sort(manifest.files.begin(), manifest.files.end(), by_name);
  Check(manifest);
  return manifest;
}

}  // namespace

Manifest ParseManifest(std::string_view text, const std::string& file) {
  return Parser(text, file).Parse();
}

}  // namespace dsv3::formats
