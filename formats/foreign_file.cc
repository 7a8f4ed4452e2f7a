#include "formats/foreign_file.h"

#include <algorithm>
#include <array>
#include <cstddef>

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

constexpr std::array<Signature, 9> kSignatures = {{
    {"version https://git-lfs.github.com/spec/", kLfs},
    {"version https://hawser.github.com/spec/", kLfs},
    {"<!doctype html", kHtml},
    {"<html", kHtml},
    {"<head", kHtml},
    {"<?xml", kXml},
    {"<error", kXml},
    {"pk\x03\x04",
     "it is a zip archive, perhaps a PyTorch checkpoint; if so, make one of safetensors of it: "
     "dsv3-convert train-to-infer"},
    {"gguf", "it is a GGUF file; give the safetensors checkpoint that it was made from"},
}};

char ToLower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

std::string_view DescribeForeignFile(std::string_view start) {
  if (start.substr(0, 3) == "\xEF\xBB\xBF") start.remove_prefix(3);
  const std::size_t text = start.find_first_not_of(" \t\r\n");
  if (text == std::string_view::npos) return "";
  start.remove_prefix(text);
  for (const Signature& signature : kSignatures) {
    const std::string_view found = start.substr(0, signature.start.size());
    if (std::equal(found.begin(), found.end(), signature.start.begin(), signature.start.end(),
                   [](char a, char b) { return ToLower(a) == b; })) {
      return signature.description;
    }
  }
  return "";
}

std::string_view DescribeNoSafetensors(std::string_view start) {
  if (const std::string_view foreign = DescribeForeignFile(start); !foreign.empty()) return foreign;
  constexpr char kPickle = '\x80';
  if (start.size() >= 2 && start[0] == kPickle && start[1] >= 2 && start[1] <= 5) {
    return "it is a Python pickle, perhaps of PyTorch before 1.6; load it with a newer PyTorch, "
           "save it again, and convert that with dsv3-convert train-to-infer";
  }
  if (start.starts_with("\x93NUMPY")) {
    return "it is a NumPy array; give a safetensors checkpoint";
  }
  if (start.starts_with("\x89HDF")) {
    return "it is an HDF5 file; give a safetensors checkpoint";
  }
  if (start.starts_with(std::string_view("\x00\x05\x16\x07", 4))) {
    return "it is an AppleDouble file, which macOS leaves beside the file itself; give the file "
           "whose name is without '._'";
  }
  for (const std::string_view archive : {"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd\x37zXZ", "BZh"}) {
    if (start.starts_with(archive)) {
      return "it is a compressed file; unpack it, and give the safetensors checkpoint in it";
    }
  }
  constexpr std::size_t kTarMark = 257;
  if (start.size() > kTarMark && start.substr(kTarMark).starts_with("ustar")) {
    return "it is a tar archive; unpack it, and give the safetensors checkpoint in it";
  }
  const std::size_t text = start.find_first_not_of(" \t\r\n");
  const bool is_text =
      text != std::string_view::npos && std::all_of(start.begin(), start.end(), [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= ' ' || c == '\t' || c == '\r' || c == '\n';
      });
  if (!is_text) return "";
  constexpr std::size_t kShortest = 8;  // of what is worth calling a text
  if (start[text] == '{' || start[text] == '[') {
    return "it is a JSON text, not a safetensors file; give the checkpoint's directory";
  }
  if (start.size() < kShortest) return "";
  return "it is a text, not a safetensors file; give the checkpoint's directory, or download the "
         "file again where a download saved an error message in its place";
}

}  // namespace dsv3::formats
