#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "cli/base_option.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "cli/weight_forms.h"
#include "convert/verify/numeric.h"
#include "formats/message_text.h"
#include "formats/shape.h"

namespace dsv3::cli {

namespace {

using convert::MagnitudeHistogram;
using convert::NumericReport;
using convert::NumericTensor;

struct Options {
  VerifyOptions verify;
  std::string input;
  ValueOptions values;
};

// The dtype of the values: "FP8 × scale" for a weight that has a scale.
std::string DtypeText(const NumericTensor& tensor) {
  return tensor.dtype + (tensor.scaled ? " × scale" : "");
}

// The tensors of the table: with `all` every one, otherwise the worst: those with values that are
// not finite, then those that findings name, then the largest magnitudes.
std::vector<const NumericTensor*> Shown(const NumericReport& checked, bool all) {
  std::vector<const NumericTensor*> tensors;
  for (const NumericTensor& tensor : checked.tensors) tensors.push_back(&tensor);
  if (all || tensors.size() <= kFirstRows) return tensors;
  std::unordered_set<std::string_view> named;
  for (const formats::Finding& finding : checked.verification.findings)
    named.insert(finding.tensor);
  const auto rank = [&](const NumericTensor& tensor) {
    const std::uint64_t bad = tensor.nans + tensor.infinities + tensor.bad_scales;
    return std::tuple(bad, named.contains(tensor.name), tensor.measured ? tensor.absmax : 0);
  };
  std::stable_sort(
      tensors.begin(), tensors.end(),
      [&](const NumericTensor* a, const NumericTensor* b) { return rank(*a) > rank(*b); });
  tensors.resize(kFirstRows);
  return tensors;
}

std::string TensorTable(const NumericReport& checked, bool all) {
  Table table("lllrrrr");
  table.Add({"tensor", "dtype", "shape", "absmax", "RMS", "NaN", "Inf"});
  const std::vector<const NumericTensor*> shown = Shown(checked, all);
  for (const NumericTensor* tensor : shown) {
    const std::string name = Printable(tensor->name);
    const std::string shape = formats::ShapeToString(tensor->shape);
    if (!tensor->measured) {
      table.Add({name, DtypeText(*tensor), shape, "not decoded"});
      continue;
    }
    table.Add({name, DtypeText(*tensor), shape, fmt::format("{:.6g}", tensor->absmax),
               fmt::format("{:.6g}", tensor->rms), FormatCount(tensor->nans),
               FormatCount(tensor->infinities)});
  }
  return table.Text("", StdoutColumns()) + MoreLine(checked.tensors.size() - shown.size());
}

std::string HistogramText(const NumericTensor& tensor) {
  constexpr std::uint64_t kLongestBar = 40;
  const MagnitudeHistogram& histogram = *tensor.histogram;
  std::uint64_t most = 1;
  for (const auto& [exponent, count] : histogram.bins) most = std::max(most, count);
  Table table("lrl");
  if (histogram.zeros > 0) table.Add({"0", FormatCount(histogram.zeros), ""});
  for (const auto& [exponent, count] : histogram.bins) {
    const double part = static_cast<double>(count) / static_cast<double>(most);
    const auto length = static_cast<std::size_t>(std::ceil(part * double{kLongestBar}));
    table.Add({fmt::format("2^{}", exponent), FormatCount(count), std::string(length, '#')});
  }
  return Printable(tensor.name) + ", values by magnitude, from each power of two to the next:\n" +
         table.Text("  ");
}

void HistogramMember(formats::JsonWriter& json, const NumericTensor& tensor) {
  json.Key("histogram");
  if (!tensor.histogram) return json.Null();
  json.BeginObject();
  json.Uint("zeros", tensor.histogram->zeros);
  json.BeginArray("bins");
  for (const auto& [exponent, count] : tensor.histogram->bins) {
    json.BeginObject();
    json.Key("exponent");
    json.Int(exponent);
    json.Uint("count", count);
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
}

void Members(formats::JsonWriter& json, const NumericReport& checked) {
  json.Uint("bytes_read", checked.bytes_read);
  FormsMember(json, "forms", checked.forms);
  json.BeginArray("tensors");
  for (const NumericTensor& tensor : checked.tensors) {
    json.BeginObject();
    StringMember(json, "name", tensor.name);
    StringMember(json, "file", tensor.file);
    StringMember(json, "dtype", tensor.dtype);
    json.Uints("shape", tensor.shape);
    json.Bool("measured", tensor.measured);
    json.Bool("scaled", tensor.scaled);
    json.Bool("is_scale", tensor.is_scale);
    json.Uint("values", tensor.values);
    json.Uint("nans", tensor.nans);
    json.Uint("infinities", tensor.infinities);
    json.Uint("bad_scales", tensor.bad_scales);
    json.Double("absmax", tensor.absmax);
    json.Double("rms", tensor.rms);
    HistogramMember(json, tensor);
    json.EndObject();
  }
  json.EndArray();
}

}  // namespace

VerifyReport CheckValues(const std::string& input, const ValueOptions& values,
                         const VerifyOptions& options, CommandContext& context) {
  convert::NumericRequest request;
  request.input = input;
  request.config = values.model.config;
  request.from = values.model.from;
  request.base = values.model.base;
  request.threads = ThreadCount(options);
  request.memory_bytes = values.memory_bytes;
  request.histogram = values.histogram;
  const auto held = std::make_shared<const NumericReport>(
      convert::VerifyNumeric(request, context.progress, context.stop));
  const NumericReport& checked = *held;
  VerifyReport report;
  report.input = input;
  report.directory = checked.directory;
  report.verification = checked.verification;
  report.passes = checked.verification.Passes(options.strict);
  report.title = "Checked the values of " + formats::ShownPath(input);
  report.good =
      "no NaN, no infinity, no bad scale, and nothing suspicious" + NotJudged(checked.forms);
  report.lines.emplace_back("tensors", FormatCount(checked.tensors.size()));
  AppendFormLines("form", checked.forms, report.lines);
  report.lines.emplace_back("read", FormatBytes(checked.bytes_read));
  report.detail = TensorTable(checked, options.all);
  std::size_t histograms = 0;
  for (const NumericTensor& tensor : checked.tensors) {
    if (!tensor.histogram) continue;
    ++histograms;
    report.detail += "\n" + HistogramText(tensor);
  }
  std::string unmatched;
  if (!values.histogram.empty() && histograms == 0) {
    unmatched = values.histogram;
    context.progress.OnWarning("--histogram: no tensor's name matches " +
                               QuoteForMessage(unmatched));
    report.lines.emplace_back("warnings", "1 warning, printed above");
  }
  report.members = [held, unmatched](formats::JsonWriter& json) {
    Members(json, *held);
    StringOrNullMember(json, "unmatched_histogram", unmatched);
  };
  return report;
}

Command NumericCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "numeric";
  command.summary = "check the values of all tensors";
  command.description = {
      "Reads every weight of DIR once and judges its values. FP8 weights are multiplied by their "
      "scales. NaN, infinity, bad scales (NaN, infinite, zero or negative), and copies of the "
      "embedding and the head in an MTP layer that differ from the main ones make the exit code 1.",
      "Tensors of zeros or of one value only, tensors that stand out from the same tensor of the "
      "other layers, and scales that contradict the config's claim of powers of two are warnings. "
      "The report is a table with the largest magnitude and the root mean square of the tensors "
      "that stand out most, with --all of every one.",
      "Weights in forms whose codes are not decoded (GPTQ, bitsandbytes) are named with their "
      "number; of their codes only zeros are judged.",
      "DIR may be a GGUF file, or any split of several, with types F32, F16, BF16, Q8_0, Q4_0 and "
      "MXFP4. Findings have the tensors' Hugging Face names, and say which block of which tensor "
      "of the file it is."};
  command.arguments = {{"DIR", kModelDescription, &options->input}};
  command.options = {
      ConfigOption(&options->values.model.config),
      FromOption(&options->values.model.from),
      BaseOption(&options->values.model.base, "DIR"),
      Text("histogram", "GLOB", &options->values.histogram,
           "Also show how the magnitudes of these tensors are distributed: a shell pattern for "
           "whole tensor names, such as '*.o_proj.weight'."),
      StrictOption(&options->verify),
      ThreadsOption(&options->verify),
      MemoryOption(&options->values.memory_bytes)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {{"numeric DeepSeek-V3", "Check all values"},
                      {"numeric DeepSeek-V3 --histogram '*.o_proj.weight'",
                       "Show the distribution of some tensors, too"}};
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->input, options->verify, context, [&] {
      return CheckValues(options->input, options->values, options->verify, context);
    });
  };
  return command;
}

}  // namespace dsv3::cli
