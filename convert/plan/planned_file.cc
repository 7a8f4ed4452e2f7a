#include "convert/plan/planned_file.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <string_view>
#include <unordered_map>

#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using ExpressionsByName = std::map<std::string, ExpressionPtr, std::less<>>;

[[noreturn]] void Fail(const std::string& file, const std::string& tensor, std::string_view what) {
  throw Error(ErrorCode::kInternal, formats::ShownPath(file) + ": " + std::string(what),
              {file, tensor});
}

ExpressionsByName ByName(const std::string& file, NamedExpressions&& tensors) {
  ExpressionsByName expressions;
  for (auto& [name, expression] : tensors) {
    if (!expressions.emplace(name, std::move(expression)).second) {
      Fail(file, name, "a tensor was planned twice");
    }
  }
  return expressions;
}

// Whether the bytes are known only when another tensor was made.
bool IsLate(const Expression& expression) {
  return expression.maker() != nullptr && !expression.expected_source();
}

bool IsAligned(const std::vector<TensorEntry>& entries) {
  return std::all_of(entries.begin(), entries.end(), [](const TensorEntry& entry) {
    return entry.offset % std::max<std::uint64_t>(1, formats::DtypeBits(entry.dtype) / 8) == 0;
  });
}

// The tensors in the order of the file, with their places.
std::vector<TensorEntry> LayOut(const ExpressionsByName& expressions, const Container& container) {
  std::vector<TensorEntry> entries;
  std::vector<TensorEntry> late;
  for (const auto& [name, expression] : expressions) {
    (IsLate(*expression) ? late : entries)
        .push_back({name, expression->dtype(), expression->shape(), 0, 0});
  }
  container.LayOut(entries);
  if (late.empty()) return entries;
  container.LayOut(late);
  const std::uint64_t begin =
      entries.empty() ? 0 : formats::AlignUp(entries.back().end(), container.alignment());
  for (TensorEntry& entry : late) entry.offset += begin;
  const bool aligned = IsAligned(late);
  entries.insert(entries.end(), late.begin(), late.end());
  if (!aligned) container.LayOut(entries);
  return entries;
}

// Links expressions with their by-products.
void LinkByProducts(PlannedFile& file) {
  std::unordered_map<const Expression*, std::uint32_t> position_of;
  for (std::uint32_t i = 0; i < file.tensors.size(); ++i) {
    position_of.emplace(file.tensors[i].expression.get(), i);
  }
  for (std::uint32_t i = 0; i < file.tensors.size(); ++i) {
    PlannedTensor& tensor = file.tensors[i];
    const Expression* const by_product = tensor.expression->by_product();
    if (by_product == nullptr) continue;
    const auto found = position_of.find(by_product);
    if (found == position_of.end() || by_product->maker() != tensor.expression.get() ||
        (tensor.expression->num_bytes() == 0 && by_product->num_bytes() != 0)) {
      Fail(file.name, tensor.entry.name, "the by-product of this tensor is not planned");
    }
    tensor.by_product = found->second;
    file.tensors[found->second].maker = i;
  }
  for (const PlannedTensor& tensor : file.tensors) {
    if ((tensor.expression->maker() != nullptr) == (tensor.maker != PlannedTensor::kNone)) continue;
    Fail(file.name, tensor.entry.name, "the maker of this tensor is not planned");
  }
}

void TakeTensors(std::vector<TensorEntry> entries, ExpressionsByName& expressions,
                 PlannedFile& file) {
  file.tensors.reserve(entries.size());
  for (TensorEntry& entry : entries) {
    PlannedTensor& tensor = file.tensors.emplace_back();
    tensor.expression = std::move(expressions.find(entry.name)->second);
    tensor.entry = std::move(entry);
  }
  LinkByProducts(file);
}

// Sets the members that follow from the tensors and the header's bytes.
void Complete(std::string_view header, PlannedFile& file) {
  file.data_offset = header.size();
  file.bytes = header.size() + (file.tensors.empty() ? 0 : file.tensors.back().entry.end());
  file.header_digest = formats::Xxh3Hex(header);
}

}  // namespace

const FileMetadata& PtMetadata() {
  static const FileMetadata metadata = {{"format", "pt"}};
  return metadata;
}

std::string FileHeader(const PlannedFile& file) {
  if (!file.given_header.empty()) return file.given_header;
  std::vector<TensorEntry> entries;
  entries.reserve(file.tensors.size());
  for (const PlannedTensor& tensor : file.tensors) entries.push_back(tensor.entry);
  return file.container->Header(entries, file.metadata);
}

std::uint64_t TensorBytes(const PlannedFile& file) {
  return std::accumulate(
      file.tensors.begin(), file.tensors.end(), std::uint64_t{0},
      [](std::uint64_t sum, const PlannedTensor& tensor) { return sum + tensor.entry.bytes; });
}

PlannedFile PlanFile(std::string name, NamedExpressions tensors, const FileMetadata& metadata,
                     const Container& container) {
  ExpressionsByName expressions = ByName(name, std::move(tensors));
  PlannedFile file;
  file.name = std::move(name);
  file.container = &container;
  file.metadata = metadata;
  TakeTensors(LayOut(expressions, container), expressions, file);
  Complete(FileHeader(file), file);
  return file;
}

PlannedFile PlanFileLike(std::string name, std::string header_bytes,
                         const formats::SafetensorsHeader& header, NamedExpressions tensors) {
  ExpressionsByName expressions = ByName(name, std::move(tensors));
  if (header_bytes.size() != header.data_offset || expressions.size() != header.tensors.size()) {
    Fail(name, "", "a header was given that is not of these tensors");
  }
  std::vector<TensorEntry> entries;
  for (const formats::SafetensorsTensor& entry : header.tensors) {
    const auto found = expressions.find(entry.name);
    if (found == expressions.end() || found->second->dtype() != entry.dtype ||
        found->second->shape() != entry.shape) {
      Fail(name, entry.name, "a header was given that does not agree with the expressions");
    }
    entries.push_back({entry.name, entry.dtype, entry.shape, entry.begin, entry.end - entry.begin});
  }
  PlannedFile file;
  file.name = std::move(name);
  TakeTensors(std::move(entries), expressions, file);
  Complete(header_bytes, file);
  file.given_header = std::move(header_bytes);
  return file;
}

}  // namespace dsv3::convert
