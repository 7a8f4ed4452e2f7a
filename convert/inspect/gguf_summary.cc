#include "convert/inspect/gguf_summary.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "formats/gguf.h"
#include "formats/gguf_files.h"

namespace dsv3::convert {
namespace {

using formats::GgufType;
using formats::Shape;

// A name around its first number; without one, all of it is in `before`.
struct NumberedName {
  std::string_view before;
  std::string_view number;
  std::string_view behind;
};

NumberedName TakeApart(std::string_view name) {
  constexpr std::size_t kMostDigits = 9;
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() <= kMostDigits &&
                        part.find_first_not_of("0123456789") == std::string_view::npos &&
                        (part[0] != '0' || part.size() == 1);
    if (number) return {name.substr(0, begin), part, name.substr(end)};
    begin = end + 1;
  }
  return {name, {}, {}};
}

// "3", "[3-60]", "[0-2,5]"; sorts.
std::string RangesOf(std::vector<std::uint32_t>& numbers) {
  std::sort(numbers.begin(), numbers.end());
  if (numbers.size() == 1) return fmt::format("{}", numbers[0]);
  std::string text = "[";
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (i > 0) text += ',';
    text += fmt::format("{}", numbers[i]);
    if (last > i) text += fmt::format("-{}", numbers[last]);
    i = last + 1;
  }
  return text + "]";
}

bool IsInteger(GgufType type) {
  return type == GgufType::kI8 || type == GgufType::kI16 || type == GgufType::kI32 ||
         type == GgufType::kI64;
}

class Summarizer {
 public:
  explicit Summarizer(const GgufModel& model) : model_(model) {}

  GgufSummary Run() {
    TakeKeys();
    for (const SourceFile& file : model_.stored.files()) {
      ++summary_.files;
      summary_.file_bytes += file.bytes;
    }
    for (std::size_t i = 0; i < model_.held.size(); ++i) Add(i);
    NameGroups();
    if (found_stack_) summary_.activated_parameters = activated_;
    for (const auto& [type, total] : types_) summary_.types.push_back(total);
    std::stable_sort(summary_.types.begin(), summary_.types.end(),
                     [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    return std::move(summary_);
  }

 private:
  void TakeKeys() {
    const formats::GgufValue* const value =
        formats::FindGgufKey(model_.keys, formats::kGgufArchitectureKey);
    const auto* const text = value == nullptr ? nullptr : std::get_if<std::string>(value);
    if (text != nullptr) summary_.architecture = *text;
    const auto number = [&](std::string_view key) {
      return formats::GgufNumber(model_.keys, fmt::format("{}.{}", summary_.architecture, key))
          .value_or(0);
    };
    experts_ = number("expert_count");
    experts_used_ = std::min(number("expert_used_count"), experts_);
  }

  void Add(std::size_t i) {
    const CatalogTensor& stored = model_.stored.tensors()[i];
    const GgufModel::Held& held = model_.held[i];
    const std::uint64_t elements = formats::NumElements(held.shape).value_or(0);
    const std::uint64_t parameters = IsInteger(held.type) ? 0 : elements;
    ++summary_.tensors;
    summary_.tensor_bytes += stored.extent.length;
    summary_.parameters += parameters;
    GgufSummary::TypeTotal& total = types_[held.type];
    total.type = held.type;
    ++total.tensors;
    total.elements += elements;
    total.bytes += stored.extent.length;
    activated_ += Activated(stored.name, held.shape, parameters);

    const NumberedName name = TakeApart(stored.name);
    const auto key = std::tuple(std::string(name.before), !name.number.empty(),
                                std::string(name.behind), held.type, held.shape);
    const auto [found, added] = by_key_.try_emplace(key, summary_.groups.size());
    if (added) {
      summary_.groups.push_back({{}, held.type, held.shape, 0, 0, 0});
      numbers_.emplace_back();
    }
    GgufSummary::Group& group = summary_.groups[found->second];
    ++group.tensors;
    group.parameters += parameters;
    group.bytes += stored.extent.length;
    if (!name.number.empty()) {
      std::uint32_t number = 0;
      for (const char c : name.number) number = number * 10 + static_cast<std::uint32_t>(c - '0');
      numbers_[found->second].push_back(number);
    }
  }

  std::uint64_t Activated(std::string_view name, const Shape& shape, std::uint64_t parameters) {
    const bool stack = name.find("_exps.") != std::string_view::npos;
    if (stack && shape.size() == 3 && experts_ != 0 && shape[0] == experts_) {
      found_stack_ = true;
      return parameters / experts_ * experts_used_;
    }
    if (name == "token_embd.weight" && shape.size() == 2) return shape[1];
    return parameters;
  }

  void NameGroups() {
    for (const auto& [key, position] : by_key_) {
      std::string& name = summary_.groups[position].name;
      name = std::get<0>(key);
      if (std::get<1>(key)) name += RangesOf(numbers_[position]) + std::get<2>(key);
    }
  }

  const GgufModel& model_;
  GgufSummary summary_;
  std::uint64_t experts_ = 0;
  std::uint64_t experts_used_ = 0;
  std::uint64_t activated_ = 0;
  bool found_stack_ = false;
  std::map<GgufType, GgufSummary::TypeTotal> types_;
  std::map<std::tuple<std::string, bool, std::string, GgufType, Shape>, std::size_t> by_key_;
  std::vector<std::vector<std::uint32_t>> numbers_;  // by group
};

}  // namespace

GgufSummary SummarizeGguf(const GgufModel& model) { return Summarizer(model).Run(); }

}  // namespace dsv3::convert
