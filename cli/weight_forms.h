#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convert/model/quantized_form.h"
#include "formats/json/json_writer.h"

// Forms of weights that conversions do not read, in the reports of checks of values.
namespace dsv3::cli {

// A line of the report for each form: `label`, and the form with its weights.
void AppendFormLines(std::string_view label, const std::vector<convert::FormCount>& forms,
                     std::vector<std::pair<std::string, std::string>>& lines);

// "; the codes of 96 weights were not judged", for the verdict; empty where all were decoded.
std::string NotJudged(const std::vector<convert::FormCount>& forms);

// An array of objects under `key`.
void FormsMember(formats::JsonWriter& json, std::string_view key,
                 const std::vector<convert::FormCount>& forms);

}  // namespace dsv3::cli
