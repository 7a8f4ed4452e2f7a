#include "convert/recipes/source_fact.h"

#include <cstdint>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"

namespace dsv3::convert {

ReportFact SourceFact(const OpenedModel::Training& training) {
  ReportFact fact{
      "source", "source", fmt::format("names of {}", training.stack), {training.stack}, {}};
  if (const std::uint64_t skipped = TotalOf(training.skipped); skipped > 0) {
    fact.text += fmt::format("; {} other tensor{}, such as an optimizer's, not read", skipped,
                             skipped == 1 ? "" : "s");
    fact.lines = PatternLines(training.skipped);
  }
  if (training.padding_rows > 0) {
    fact.text += fmt::format("; {} rows of padding cut off the embedding", training.padding_rows);
  }
  return fact;
}

}  // namespace dsv3::convert
