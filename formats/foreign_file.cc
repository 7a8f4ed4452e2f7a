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
     "it is a zip archive, perhaps a PyTorch checkpoint; convert it to safetensors first"},
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

}  // namespace dsv3::formats
