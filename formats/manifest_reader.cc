#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/manifest.h"

namespace dsv3::formats {
namespace {

bool IsHex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& file)
      : file_(file),
        reader_(text, {.file = file_,
                       .part = "the manifest",
                       .advice = "restore it, or remove it and make it again with `dsv3-verify "
                                 "checksum create`"}) {}

  Manifest Parse();

 private:
  [[noreturn]] void Fail(std::string problem) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the manifest is malformed: {}; restore it, or remove it and make "
                            "it again with `dsv3-verify checksum create`",
                            file_, problem),
                {.file = file_, .tensor = {}});
  }

  // Calls `member(index)` for each member that `names` lists, at most once each, and skips others.
  // Returns which were there, as bits.
  template <typename Member>
  unsigned Object(std::span<const std::string_view> names, std::string_view what,
                  const Member& member) {
    unsigned seen = 0;
    reader_.BeginObject();
    while (const auto key = reader_.NextMember()) {
      const auto found = std::find(names.begin(), names.end(), *key);
      if (found == names.end()) {
        reader_.SkipValue();
        continue;
      }
      const auto index = static_cast<std::size_t>(found - names.begin());
      if ((seen >> index & 1) != 0) Fail(fmt::format("{} has two members \"{}\"", what, *found));
      seen |= 1U << index;
      member(index);
    }
    return seen;
  }

  void Require(unsigned seen, unsigned required, std::span<const std::string_view> names,
               std::string_view what) const {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if ((required >> i & 1) != 0 && (seen >> i & 1) == 0) {
        Fail(fmt::format("{} has no member \"{}\"", what, names[i]));
      }
    }
  }

  std::string Hex(std::size_t digits) {
    std::string text(reader_.String());
    if (!IsHex(text, digits)) {
      Fail(fmt::format("a digest of {} lowercase hex digits is expected, {} found", digits,
                       QuoteForMessage(text)));
    }
    return text;
  }

  std::string FileName() {
    std::string name(reader_.String());
    const std::string_view outside = OutsidePath(name);
    if (!outside.empty()) Fail(fmt::format("it lists file {}, {}", QuoteForMessage(name), outside));
    return name;
  }

  bool Bool() {
    const std::string_view value = reader_.SkipValue();
    if (value != "true" && value != "false") Fail("\"by_recipe\" is neither true nor false");
    return value == "true";
  }

  Dtype ReadDtype() {
    const std::string_view name = reader_.String();
    const std::optional<Dtype> dtype = DtypeFromName(name);
    if (!dtype) Fail(fmt::format("it names an unknown dtype {}", QuoteForMessage(name)));
    return *dtype;
  }

  Shape ReadShape() {
    Shape shape;
    reader_.BeginArray();
    while (reader_.NextElement()) shape.push_back(reader_.Uint());
    return shape;
  }

  std::vector<std::pair<std::string, std::string>> RawMembers() {
    std::vector<std::pair<std::string, std::string>> members;
    reader_.BeginObject();
    while (const auto key = reader_.NextMember()) {
      std::string name(*key);
      members.emplace_back(std::move(name), std::string(reader_.SkipValue()));
    }
    return members;
  }

  ManifestSourceFile ReadSourceFile();
  ManifestFile ReadFile();
  ManifestSource ReadSource();
  ManifestTensor ReadTensor();
  void ReadSourceMember(ManifestJob& job);
  void Check(const Manifest& manifest) const;

  std::string file_;
  JsonReader reader_;
};

ManifestSourceFile Parser::ReadSourceFile() {
  constexpr std::string_view kNames[] = {"checkpoint", "name", "bytes", "header_xxh3_128"};
  ManifestSourceFile file;
  const unsigned seen = Object(kNames, "a source file", [&](std::size_t member) {
    if (member == 0) file.checkpoint = reader_.String();
    if (member == 1) file.name = reader_.String();
    if (member == 2) file.bytes = reader_.Uint();
    if (member == 3) file.header_xxh3 = Hex(32);
  });
  Require(seen, 0b0110, kNames, "a source file");
  return file;
}

ManifestFile Parser::ReadFile() {
  constexpr std::string_view kNames[] = {"name", "bytes", "sha256", "header_xxh3_128", "by_recipe"};
  ManifestFile file;
  const unsigned seen = Object(kNames, "a file", [&](std::size_t member) {
    if (member == 0) file.name = FileName();
    if (member == 1) file.bytes = reader_.Uint();
    if (member == 2) file.sha256 = Hex(64);
    if (member == 3) file.header_xxh3 = Hex(32);
    if (member == 4) file.by_recipe = Bool();
  });
  Require(seen, 0b00011, kNames, "a file");
  return file;
}

ManifestSource Parser::ReadSource() {
  constexpr std::string_view kNames[] = {"checkpoint", "name",     "dtype",
                                         "shape",      "xxh3_128", "sha256"};
  ManifestSource source;
  const unsigned seen = Object(kNames, "a source", [&](std::size_t member) {
    if (member == 0) source.checkpoint = reader_.String();
    if (member == 1) source.name = reader_.String();
    if (member == 2) source.dtype = ReadDtype();
    if (member == 3) source.shape = ReadShape();
    if (member == 4) source.xxh3 = Hex(32);
    if (member == 5) source.sha256 = Hex(64);
  });
  Require(seen, 0b011110, kNames, "a source");
  return source;
}

ManifestTensor Parser::ReadTensor() {
  constexpr std::string_view kNames[] = {"name",   "file",      "dtype", "shape",  "xxh3_128",
                                         "sha256", "nan_codes", "rule",  "sources"};
  ManifestTensor tensor;
  const unsigned seen = Object(kNames, "a tensor", [&](std::size_t member) {
    if (member == 0) tensor.name = reader_.String();
    if (member == 1) tensor.file = FileName();
    if (member == 2) tensor.dtype = ReadDtype();
    if (member == 3) tensor.shape = ReadShape();
    if (member == 4) tensor.xxh3 = Hex(32);
    if (member == 5) tensor.sha256 = Hex(64);
    if (member == 6) tensor.nan_codes = reader_.Uint();
    if (member == 7) tensor.rule = reader_.String();
    if (member == 8) {
      reader_.BeginArray();
      while (reader_.NextElement()) tensor.sources.push_back(ReadSource());
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
  constexpr std::string_view kNames[] = {"removed_config", "files"};
  const unsigned seen = Object(kNames, "\"source\"", [&](std::size_t member) {
    if (member == 0) {
      job.removed_config = RawMembers();
      return;
    }
    reader_.BeginArray();
    while (reader_.NextElement()) job.source_files.push_back(ReadSourceFile());
  });
  Require(seen, 0b11, kNames, "\"source\"");
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
    if (member == 0 && reader_.String() != "dsv3-checkpoint-manifest") {
      Fail("its \"format\" is not \"dsv3-checkpoint-manifest\"");
    }
    if (member == 1 && reader_.Uint() != 1) {
      Fail("its \"version\" is not 1, the only one that this program knows");
    }
    if (member == 2) manifest.job.recipe = reader_.String();
    if (member == 3) manifest.job.options = RawMembers();
    if (member == 4) ReadSourceMember(manifest.job);
    if (member == 5) {
      reader_.BeginArray();
      while (reader_.NextElement()) manifest.files.push_back(ReadFile());
    }
    if (member == 6) {
      reader_.BeginArray();
      while (reader_.NextElement()) manifest.tensors.push_back(ReadTensor());
    }
    if (member == 7) manifest.content_digest = Hex(64);
  });
  reader_.End();
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
