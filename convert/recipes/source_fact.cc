#include "convert/recipes/source_fact.h"

#include <fmt/format.h>

namespace dsv3::convert {

ReportFact SourceFact(const OpenedModel::Training& training) {
  ReportFact fact{"source", "source", fmt::format("names of {}", training.stack), {training.stack}};
  if (training.skipped > 0) {
    fact.text += fmt::format("; {} other tensor{}, such as an optimizer's, not read",
                             training.skipped, training.skipped == 1 ? "" : "s");
  }
  if (training.padding_rows > 0) {
    fact.text += fmt::format("; {} rows of padding cut off the embedding", training.padding_rows);
  }
  return fact;
}

}  // namespace dsv3::convert
