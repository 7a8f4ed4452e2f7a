#include "convert/job/report_fact.h"

#include <utility>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"

namespace dsv3::convert {

ReportFact FactOf(std::string_view member, std::vector<std::string> names, std::string_view what,
                  std::string_view which) {
  ReportFact fact{std::string(member), std::string(member), "", std::move(names), {}};
  const std::size_t count = fact.names.size();
  if (count != 0) fact.text = fmt::format("{} {}{} {}", count, what, count == 1 ? "" : "s", which);
  return fact;
}

ReportFact DroppedFact(std::vector<std::string> names, std::string_view what,
                       std::string_view which) {
  ReportFact fact = FactOf("dropped", std::move(names), what, which);
  fact.lines = PatternLines(CountPatterns(fact.names));
  return fact;
}

}  // namespace dsv3::convert
