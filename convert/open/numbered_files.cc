#include "convert/open/numbered_files.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "formats/message_text.h"
#include "formats/number_of.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kSuffix = ".safetensors";

// "model-00003-of-00163.safetensors": the third of 163 files of one set.
struct NumberedName {
  std::string before;  // "model-"
  std::string digits;  // "00003"
  std::string after;   // "-of-00163.safetensors"
  std::uint64_t number = 0;
  std::uint64_t count = 0;
};

std::optional<NumberedName> ParseNumbered(const std::string& name) {
  constexpr std::string_view kOf = "-of-";
  constexpr std::size_t kFewestDigits = 5;
  constexpr std::string_view kDigits = "0123456789";
  const std::size_t of = name.rfind(kOf);
  if (of == std::string::npos || !name.ends_with(kSuffix)) return std::nullopt;
  const std::size_t before = name.find_last_not_of(kDigits, of - 1);
  const std::size_t begin = of == 0 ? 0 : before == std::string::npos ? 0 : before + 1;
  const std::size_t count_begin = of + kOf.size();
  const std::size_t count_end = name.find_first_not_of(kDigits, count_begin);
  if (of - begin < kFewestDigits || count_end - count_begin < kFewestDigits) return std::nullopt;
  const auto number =
      formats::NumberOf<std::uint64_t>(std::string_view(name).substr(begin, of - begin));
  const auto count = formats::NumberOf<std::uint64_t>(
      std::string_view(name).substr(count_begin, count_end - count_begin));
  if (!number || !count) return std::nullopt;
  return NumberedName{name.substr(0, begin), name.substr(begin, of - begin), name.substr(of),
                      *number, *count};
}

// By what is before and behind the number.
using NumberedSets = std::map<std::pair<std::string, std::string>, std::vector<NumberedName>>;

// Whether the names are those of another set with something before them, as file managers call
// copies ("copy of model-00003-of-00163.safetensors"): of these nobody needs all.
bool IsOfCopies(const NumberedSets& sets, const std::pair<std::string, std::string>& of) {
  return std::any_of(sets.begin(), sets.end(), [&](const auto& set) {
    return set.first.second == of.second && set.first.first.size() < of.first.size() &&
           !set.first.first.empty() && of.first.ends_with(set.first.first);
  });
}

}  // namespace

formats::Findings FindMissingNumbers(const std::vector<std::string>& files,
                                     std::string_view nothing_else) {
  formats::Findings findings;
  NumberedSets sets;
  for (const std::string& file : files) {
    if (auto name = ParseNumbered(file)) {
      sets[{name->before, name->after}].push_back(std::move(*name));
    }
  }
  for (const auto& [key, members] : sets) {
    if (IsOfCopies(sets, key)) continue;
    const NumberedName& one = members.front();
    std::set<std::uint64_t> there;
    for (const NumberedName& member : members) there.insert(member.number);
    if (there.size() >= one.count) continue;
    // Some count from 0.
    std::uint64_t first = there.count(0) != 0 ? 0 : 1;
    while (there.count(first) != 0) ++first;
    const std::string file =
        fmt::format("{}{:0{}}{}", one.before, first, one.digits.size(), one.after);
    const std::uint64_t others = one.count - there.size() - 1;
    std::string which = "this shard is not there";
    if (others > 0) which = fmt::format("this shard and {} more are not there", others);
    formats::Finding& finding = findings.emplace_back();
    finding.kind = "missing-shard";
    finding.file = file;
    finding.message = fmt::format(
        "{}: {}; the names say that there are {} shards{}; continue the download, or "
        "copy what is missing",
        formats::ShownPath(file), which, one.count, nothing_else);
  }
  return findings;
}

}  // namespace dsv3::convert
