#include "formats/foreign_file.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "formats/text_encoding.h"

namespace dsv3::formats {
namespace {

struct Signature {
  std::string_view start;  // in lower case
  std::string_view description;
};

constexpr std::string_view kLfs =
    "it is a git-lfs pointer instead of the file itself; run 'git lfs pull' in the repository, or "
    "download the file";
constexpr std::string_view kHtml =
    "it is an HTML page, perhaps a login or error page that a download saved instead of the file; "
    "download the file again";
constexpr std::string_view kXml =
    "it is an XML document, perhaps an error that a download saved instead of the file; download "
    "the file again";

constexpr std::array<Signature, 7> kFailedDownloads = {{
    {"version https://git-lfs.github.com/spec/", kLfs},
    {"version https://hawser.github.com/spec/", kLfs},
    {"<!doctype html", kHtml},
    {"<html", kHtml},
    {"<head", kHtml},
    {"<?xml", kXml},
    {"<error", kXml},
}};

constexpr std::array<Signature, 2> kOtherFormats = {{
    {"pk\x03\x04",
     "it is a zip archive, perhaps a PyTorch checkpoint; if so, make one of safetensors of it: "
     "dsv3-convert train-to-infer"},
    {"gguf",
     "it is a GGUF file, which dsv3-inspect and structure, numeric, compare, checksum check and "
     "all "
     "of dsv3-verify read; give the safetensors checkpoint that it was made from"},
}};

constexpr std::string_view kCompressed =
    "it is a compressed file; unpack it, and give the safetensors checkpoint in it";
constexpr std::string_view kGgml =
    "it is a GGML file; give the safetensors checkpoint that it was made from";
constexpr std::string_view kImage = "it is an image; give a safetensors checkpoint";

constexpr std::array<Signature, 19> kBinarySignatures = {{
    {"\x93NUMPY", "it is a NumPy array; give a safetensors checkpoint"},
    {"\x89HDF", "it is an HDF5 file; give a safetensors checkpoint"},
    {std::string_view("\x00\x05\x16\x07", 4),
     "it is an AppleDouble file, which macOS leaves beside the file itself; give the file whose "
     "name is without '._'"},
    {"\x1f\x8b", kCompressed},
    {"\x28\xb5\x2f\xfd", kCompressed},
    {"\xfd\x37zXZ", kCompressed},
    {"BZh", kCompressed},
    {"\x04\x22\x4d\x18", kCompressed},
    {"7z\xbc\xaf\x27\x1c", kCompressed},
    {"Rar!\x1a", kCompressed},
    {"lmgg", kGgml},
    {"fmgg", kGgml},
    {"tjgg", kGgml},
    {"PAR1", "it is a Parquet file, a data set; give a safetensors checkpoint"},
    {"SQLite format 3", "it is an SQLite database; give a safetensors checkpoint"},
    {"\x89PNG", kImage},
    {"\xff\xd8\xff", kImage},
    {"%PDF", "it is a PDF document; give a safetensors checkpoint"},
    {"\x7f"
     "ELF",
     "it is a program; give a safetensors checkpoint"},
}};

bool IsWord(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

// An ONNX file has no signature: it is a message of Protocol Buffers that begins with its version
// and the name of the program that wrote it.
bool IsOnnx(std::string_view start) {
  constexpr char kVersion = 0x08;
  constexpr char kProducer = 0x12;
  constexpr char kMostVersion = 0x40;
  if (start.size() < 4 || start[0] != kVersion || start[1] > kMostVersion || start[1] < 1) {
    return false;
  }
  const auto length = static_cast<std::size_t>(static_cast<unsigned char>(start[3]));
  return start[2] == kProducer && start.size() >= 4 + length && IsWord(start.substr(4, length));
}

// Flax writes a map of MessagePack whose first key is a short word.
bool IsFlax(std::string_view start) {
  if (start.size() < 2) return false;
  const auto map = static_cast<unsigned char>(start[0]);
  const std::size_t key_at = map == 0xDE ? 3 : map == 0xDF ? 5 : map > 0x80 && map < 0x90 ? 1 : 0;
  if (key_at == 0 || start.size() <= key_at) return false;
  const auto key = static_cast<unsigned char>(start[key_at]);
  constexpr unsigned char kShortString = 0xA0;
  constexpr unsigned char kLength = 0x1F;
  if ((key & ~kLength) != kShortString) return false;
  const std::size_t length = key & kLength;
  return start.size() >= key_at + 1 + length && IsWord(start.substr(key_at + 1, length));
}

char ToLower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Of the first of `signatures` that the text has, behind a byte order mark and white space.
std::string_view DescriptionOf(std::string_view start, std::span<const Signature> signatures) {
  if (start.substr(0, 3) == "\xEF\xBB\xBF") start.remove_prefix(3);
  const std::size_t text = start.find_first_not_of(" \t\r\n");
  if (text == std::string_view::npos) return "";
  start.remove_prefix(text);
  for (const Signature& signature : signatures) {
    const std::string_view found = start.substr(0, signature.start.size());
    if (std::equal(found.begin(), found.end(), signature.start.begin(), signature.start.end(),
                   [](char a, char b) { return ToLower(a) == b; })) {
      return signature.description;
    }
  }
  return "";
}

}  // namespace

std::string_view DescribeFailedDownload(std::string_view start) {
  return DescriptionOf(start, kFailedDownloads);
}

std::string_view DescribeForeignFile(std::string_view start) {
  const std::string_view failed = DescribeFailedDownload(start);
  return failed.empty() ? DescriptionOf(start, kOtherFormats) : failed;
}

std::string_view DescribeNoSafetensors(std::string_view start) {
  if (const std::string_view foreign = DescribeForeignFile(start); !foreign.empty()) return foreign;
  constexpr char kPickle = '\x80';
  if (start.size() >= 2 && start[0] == kPickle && start[1] >= 2 && start[1] <= 5) {
    return "it is a Python pickle, perhaps of PyTorch before 1.6; load it with a newer PyTorch, "
           "save it again, and convert that with dsv3-convert train-to-infer";
  }
  for (const Signature& signature : kBinarySignatures) {
    if (start.starts_with(signature.start)) return signature.description;
  }
  if (IsOnnx(start)) {
    return "it is an ONNX file; give the safetensors checkpoint that it was made from";
  }
  if (IsFlax(start)) {
    return "it is a MessagePack file, as Flax writes them; give a safetensors checkpoint";
  }
  constexpr std::size_t kTarMark = 257;
  if (start.size() > kTarMark && start.substr(kTarMark).starts_with("ustar")) {
    return "it is a tar archive; unpack it, and give the safetensors checkpoint in it";
  }
  const std::string utf8 = ToUtf8(start);
  const std::size_t text = utf8.find_first_not_of(" \t\r\n");
  const bool is_text =
      text != std::string::npos && std::all_of(utf8.begin(), utf8.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= ' ' || c == '\t' || c == '\r' || c == '\n';
      });
  if (!is_text) return "";
  // Fewer may be the begin of a header's length.
  constexpr std::size_t kShortest = 4;
  if (utf8[text] == '{' || utf8[text] == '[') {
    return "it is a JSON text, not a safetensors file; give the checkpoint's directory, or "
           "download "
           "the file again where a download saved an error in its place";
  }
  if (start.size() < kShortest) return "";
  return "it is a text, not a safetensors file; give the checkpoint's directory, or download the "
         "file again where a download saved an error message in its place";
}

}  // namespace dsv3::formats
