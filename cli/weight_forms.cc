#include "cli/weight_forms.h"

#include <cstdint>

#include <fmt/format.h>

#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/units.h"

namespace dsv3::cli {

void AppendFormLines(std::string_view label, const std::vector<convert::FormCount>& forms,
                     std::vector<std::pair<std::string, std::string>>& lines) {
  for (const convert::FormCount& form : forms) {
    lines.emplace_back(
        label,
        fmt::format("{}: {}, {}", Printable(form.name), FormatCountOf(form.weights, "weight"),
                    form.decoded ? "read with their scales" : "whose codes are not decoded"));
  }
}

std::string NotJudged(const std::vector<convert::FormCount>& forms) {
  std::uint64_t weights = 0;
  for (const convert::FormCount& form : forms) {
    if (!form.decoded) weights += form.weights;
  }
  if (weights == 0) return "";
  return fmt::format("; the codes of {} were not judged", FormatCountOf(weights, "weight"));
}

void FormsMember(formats::JsonWriter& json, std::string_view key,
                 const std::vector<convert::FormCount>& forms) {
  json.BeginArray(key);
  for (const convert::FormCount& form : forms) {
    json.BeginObject();
    StringMember(json, "name", form.name);
    json.Uint("weights", form.weights);
    json.Bool("decoded", form.decoded);
    json.EndObject();
  }
  json.EndArray();
}

}  // namespace dsv3::cli
