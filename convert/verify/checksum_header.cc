#include "convert/verify/checksum_header.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/shape.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kAdvice = "download or copy the file again";

void CompareTensors(const std::string& file, const ExpectedFile& expected,
                    const ContainerHeader& header, formats::Findings& findings) {
  const std::optional<std::vector<DigestRange>> layout = expected.Layout();
  std::map<std::string_view, const TensorEntry*> found;
  for (const TensorEntry& tensor : header.tensors) found[tensor.name] = &tensor;
  for (std::size_t i = 0; i < expected.tensors.size(); ++i) {
    const formats::ManifestTensor& tensor = *expected.tensors[i];
    const auto entry = found.find(tensor.name);
    if (entry == found.end()) {
      findings.push_back(Difference(
          "missing-tensor", file, tensor.name,
          fmt::format("{}: the header has no tensor {}, which the manifest lists in this file; {}",
                      formats::ShownPath(file), QuoteForMessage(tensor.name), kAdvice)));
      continue;
    }
    const TensorEntry& now = *entry->second;
    found.erase(entry);
    if (now.dtype != tensor.dtype || now.shape != tensor.shape) {
      findings.push_back(Difference(
          "wrong-tensor-header", file, tensor.name,
          fmt::format("{}: tensor {} is {} {} by the header, and {} {} by the manifest; {}",
                      formats::ShownPath(file), QuoteForMessage(tensor.name),
                      formats::DtypeName(now.dtype), formats::ShapeToString(now.shape),
                      formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape),
                      kAdvice)));
    } else if (layout && header.data_offset + now.offset != (*layout)[i].begin) {
      findings.push_back(Difference(
          "wrong-tensor-header", file, tensor.name,
          fmt::format(
              "{}: tensor {} begins at byte {} by the header, and at {} by the manifest; {}",
              formats::ShownPath(file), QuoteForMessage(tensor.name),
              header.data_offset + now.offset, (*layout)[i].begin, kAdvice)));
    }
  }
  for (const auto& [name, tensor] : found) {
    findings.push_back(Difference(
        "extra-tensor", file, std::string(name),
        fmt::format("{}: the header has a tensor {}, which the manifest does not list in this "
                    "file; {}",
                    formats::ShownPath(file), QuoteForMessage(name), kAdvice)));
  }
}

}  // namespace

formats::Finding Difference(std::string kind, const std::string& file, const std::string& tensor,
                            std::string message) {
  return {.severity = formats::Severity::kError,
          .kind = std::move(kind),
          .file = file,
          .tensor = tensor,
          .message = std::move(message),
          .unreadable = false};
}

formats::Finding Unreadable(const std::string& file, const Error& error) {
  formats::Finding finding = Difference("unreadable-file", file, "", error.message());
  finding.unreadable = true;
  return finding;
}

bool HasHeader(const std::string& name, const ExpectedFile& expected) {
  return ContainerOf(name) != nullptr || !expected.tensors.empty();
}

HeaderComparison CompareHeader(const std::string& name, const std::filesystem::path& path,
                               const ExpectedFile& expected) {
  HeaderComparison comparison;
  try {
    const Container* const container = ContainerOf(name);
    comparison.header = (container == nullptr ? Safetensors() : *container).ReadHeader(path, name);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) {
      comparison.findings.push_back(Unreadable(name, error));
      return comparison;
    }
    formats::Finding finding =
        Difference("unreadable-header", name, error.place().tensor, error.message());
    finding.unreadable = true;
    comparison.findings.push_back(std::move(finding));
    return comparison;
  }
  const bool same = comparison.header->digest == expected.header_xxh3;
  if (same || (expected.tensors.empty() && expected.header_xxh3.empty())) return comparison;
  CompareTensors(name, expected, *comparison.header, comparison.findings);
  if (comparison.findings.empty() && !expected.header_xxh3.empty()) {
    comparison.findings.push_back(Difference(
        "wrong-header", name, "",
        fmt::format(
            "{}: the header is not the one that the manifest records (XXH3-128 {}, expected "
            "{}), though it says the same of every tensor: its metadata, spelling or order "
            "differs; {}",
            formats::ShownPath(name), comparison.header->digest, expected.header_xxh3, kAdvice)));
  }
  return comparison;
}

}  // namespace dsv3::convert
