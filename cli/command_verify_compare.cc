#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "cli/base_option.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "cli/weight_forms.h"
#include "convert/verify/compare.h"
#include "formats/message_text.h"
#include "formats/shape.h"

namespace dsv3::cli {

namespace {

using convert::ComparedTensor;
using convert::CompareReport;
using convert::DifferenceStatistics;

struct Options {
  VerifyOptions verify;
  std::string a;
  std::string b;
  std::filesystem::path config;
  std::filesystem::path base;
  double atol = 0;
  double rtol = 0;
  std::uint64_t memory_bytes = 0;
};

std::string Number(double value) { return fmt::format("{:.4g}", value); }

// How many of the values differ: "25 %", "under 0.01 %".
std::string Share(const DifferenceStatistics& s) {
  if (s.elements == 0) return "";
  constexpr double kLeast = 0.01;
  const double percent = 100.0 * static_cast<double>(s.differing) / static_cast<double>(s.elements);
  if (percent > 0 && percent < kLeast) return fmt::format("under {} %", kLeast);
  return fmt::format("{:.4g} %", percent);
}

// The tensors that differ, the worst first.
// A terminal that is too narrow for all columns has shares in place of counts, and the errors that
// say most.
std::string DifferenceTable(const CompareReport& compared, bool all) {
  if (compared.worst.empty()) return "";
  Table table("llrrrrr");
  Table narrow("llrrr");
  table.Add({"tensor", "dtypes", "differing", "max |a-b|", "max |a-b|/|b|", "RMSE", "relative"});
  narrow.Add({"tensor", "dtypes", "differing", "max |a-b|", "relative"});
  const std::size_t shown =
      all ? compared.worst.size() : std::min(kFirstRows, compared.worst.size());
  for (std::size_t i = 0; i < shown; ++i) {
    const ComparedTensor& tensor = compared.tensors[compared.worst[i]];
    const DifferenceStatistics& s = tensor.statistics;
    const std::string name = Printable(tensor.name);
    const std::string dtypes = fmt::format("{}, {}", tensor.dtype_a, tensor.dtype_b);
    const std::string largest = tensor.codes ? "codes" : Number(s.max_abs);
    table.Add({name, dtypes,
               fmt::format("{} of {}", FormatCount(s.differing), FormatCount(s.elements)), largest,
               Number(s.max_relative), Number(s.rmse), Number(s.relative)});
    narrow.Add({name, dtypes, Share(s), largest, Number(s.relative)});
  }
  // So much of a name says which tensor it is.
  constexpr std::size_t kName = 32;
  const unsigned columns = StdoutColumns();
  return (table.Fits("", columns, kName) ? table : narrow).Text("", columns) +
         MoreLine(compared.worst.size() - shown);
}

// One side of a tensor; null where that checkpoint has none.
void SideMember(formats::JsonWriter& json, std::string_view key, const std::string& file,
                const std::string& dtype, const formats::Shape& shape, const std::string& scale) {
  json.Key(key);
  if (file.empty()) return json.Null();
  json.BeginObject();
  StringMember(json, "file", file);
  StringMember(json, "dtype", dtype);
  json.Uints("shape", shape);
  StringOrNullMember(json, "scale", scale);
  json.EndObject();
}

void StatisticsMember(formats::JsonWriter& json, const DifferenceStatistics& s) {
  json.Key("statistics");
  if (s.elements == 0) return json.Null();
  json.BeginObject();
  json.Uint("elements", s.elements);
  json.Uint("differing", s.differing);
  json.Uint("beyond_tolerance", s.beyond_tolerance);
  json.Uint("nonfinite_differing", s.nonfinite_differing);
  json.Double("max_abs", s.max_abs);
  json.Double("max_relative", s.max_relative);
  json.Double("rmse", s.rmse);
  json.Double("relative", s.relative);
  json.Key("first");
  if (s.differing == 0) {
    json.Null();
  } else {
    json.BeginObject();
    json.Uint("element", s.first_element);
    json.Double("a", s.first_a);
    json.Double("b", s.first_b);
    json.EndObject();
  }
  json.EndObject();
}

void Members(formats::JsonWriter& json, const Options& options, const CompareReport& compared) {
  StringMember(json, "other", options.b);
  json.Double("atol", options.atol);
  json.Double("rtol", options.rtol);
  json.BeginObject("counts");
  json.Uint("identical_bytes", compared.counts.identical_bytes);
  json.Uint("identical_values", compared.counts.identical_values);
  json.Uint("within_tolerance", compared.counts.within_tolerance);
  json.Uint("different", compared.counts.different);
  json.Uint("only_in_a", compared.counts.only_in_a);
  json.Uint("only_in_b", compared.counts.only_in_b);
  json.EndObject();
  FormsMember(json, "forms_a", compared.forms_a);
  FormsMember(json, "forms_b", compared.forms_b);
  json.Uint("bytes_read", compared.bytes_read);
  json.BeginArray("tensors");
  for (const ComparedTensor& tensor : compared.tensors) {
    json.BeginObject();
    StringMember(json, "name", tensor.name);
    StringMember(json, "comparison", convert::ComparisonName(tensor.comparison));
    json.Bool("codes", tensor.codes);
    SideMember(json, "a", tensor.file_a, tensor.dtype_a, tensor.shape_a, tensor.scale_a);
    SideMember(json, "b", tensor.file_b, tensor.dtype_b, tensor.shape_b, tensor.scale_b);
    StatisticsMember(json, tensor.statistics);
    json.EndObject();
  }
  json.EndArray();
}

VerifyReport Check(const Options& options, CommandContext& context) {
  convert::CompareRequest request;
  request.a = options.a;
  request.b = options.b;
  request.config = options.config;
  request.base = options.base;
  request.atol = options.atol;
  request.rtol = options.rtol;
  request.threads = ThreadCount(options.verify);
  request.memory_bytes = options.memory_bytes;
  const auto held = std::make_shared<const CompareReport>(
      convert::CompareCheckpoints(request, context.progress, context.stop));
  const CompareReport& compared = *held;
  VerifyReport report;
  report.input = options.a;
  report.directory = compared.directory_a;
  report.verification = compared.verification;
  report.passes = compared.verification.Passes(false);
  report.title = fmt::format("Compared {} with {}", formats::ShownPath(options.a),
                             formats::ShownPath(options.b));
  const bool tolerant = options.atol > 0 || options.rtol > 0;
  report.good = tolerant ? "all values are equal or within the tolerance" : "all values are equal";
  const convert::CompareCounts& counts = compared.counts;
  report.lines.emplace_back("tensors", FormatCount(compared.tensors.size()));
  AppendFormLines("form of A", compared.forms_a, report.lines);
  AppendFormLines("form of B", compared.forms_b, report.lines);
  report.lines.emplace_back("identical", FormatCount(counts.identical_bytes) + " in every byte");
  report.lines.emplace_back(
      "equal", FormatCount(counts.identical_values) + " in every value, stored in another way");
  if (tolerant) {
    report.lines.emplace_back("within", fmt::format("{} within |a - b| <= {} + {} * |b|",
                                                    FormatCount(counts.within_tolerance),
                                                    Number(options.atol), Number(options.rtol)));
  }
  report.lines.emplace_back("different", FormatCount(counts.different));
  report.lines.emplace_back("only in A", FormatCount(counts.only_in_a));
  report.lines.emplace_back("only in B", FormatCount(counts.only_in_b));
  report.lines.emplace_back("read", FormatBytes(compared.bytes_read));
  report.detail = DifferenceTable(compared, options.verify.all);
  report.members = [held, &options](formats::JsonWriter& json) { Members(json, options, *held); };
  return report;
}

}  // namespace

Command CompareCommand() {
  const auto options = std::make_shared<Options>();
  constexpr const char* kCheckpointHelp =
      "A checkpoint: a directory, a single safetensors file, a model directory of the Hugging "
      "Face hub cache, rank shards of dsv3-reshard, a training checkpoint, see dsv3-convert "
      "train-to-infer, or a GGUF file (any split of several).";
  Command command;
  command.name = "compare";
  command.summary = "compare the values of two checkpoints";
  command.description = {
      "Compares the checkpoints A and B tensor by tensor, however their tensors are split into "
      "files and whatever their dtypes: bytes first, then values in float32. FP8 weights are "
      "multiplied by their scales; where the other side is BF16, the product is rounded to BF16. "
      "Codes of a form that is not decoded are compared as codes, and the report names the form.",
      "The tensors of a GGUF file are compared under their Hugging Face names: experts one by one, "
      "kv_b_proj in one piece. What such files are often made without, MTP layers and what is "
      "beside the language model, is a warning.",
      "The exit code is 0 where all values are equal or within the tolerance, and 1 otherwise, "
      "also where a tensor is in one of the two only. The report has the error statistics of "
      "the tensors that differ most, the worst first; --all shows every one, and --json has those "
      "of all."};
  command.arguments = {
      {"A", kCheckpointHelp, &options->a},
      {"B", "The other one. Relative errors are relative to its values.", &options->b}};
  command.options = {ConfigOption(&options->config),
                     BaseOption(&options->base, "A, B or each of the two"),
                     RealNumber("atol", "X", &options->atol,
                                "Accept values with |a - b| <= X + rtol * |b|; 0 by default."),
                     RealNumber("rtol", "X", &options->rtol,
                                "Accept values with |a - b| <= atol + X * |b|; 0 by default."),
                     ThreadsOption(&options->verify),
                     MemoryOption(&options->memory_bytes)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {
      {"compare DeepSeek-V3 DeepSeek-V3-BF16", "Compare an FP8 checkpoint with its BF16 cast"},
      {"compare --rtol 0.07 DeepSeek-V3-BF16 DeepSeek-V3-requantised",
       "Accept the error of a quantisation"},
      {"compare DeepSeek-V3 DeepSeek-V3-BF16.gguf", "Compare a checkpoint with its GGUF file"}};
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->a, options->verify, context, [&] { return Check(*options, context); });
  };
  return command;
}

}  // namespace dsv3::cli
