#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/json_members.h"
#include "cli/tool_main.h"
#include "cli/version.h"
#include "convert/recipes/sample.h"
#include "formats/io/file_system.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

struct Options {
  std::string output;
  convert::SampleOptions sample;
};

const char* PresetName(convert::SamplePreset preset) {
  switch (preset) {
    case convert::SamplePreset::kSmall:
      return "small";
    case convert::SamplePreset::kV3Shapes:
      return "v3-shapes";
    case convert::SamplePreset::kTinyV32:
      return "tiny-v32";
    case convert::SamplePreset::kTinyKimi:
      return "tiny-kimi";
    case convert::SamplePreset::kTinyTp:
      return "tiny-tp";
    case convert::SamplePreset::kTiny61:
      return "tiny-61";
    case convert::SamplePreset::kTiny:
      break;
  }
  return "tiny";
}

std::string ReportJson(const Options& options, const convert::SampleReport& report,
                       const std::string& tool) {
  formats::JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "command", "sample");
  StringMember(json, "output", options.output);
  StringMember(json, "preset", PresetName(options.sample.preset));
  UintMember(json, "seed", options.sample.seed);
  UintMember(json, "files", report.files);
  UintMember(json, "tensors", report.tensors);
  UintMember(json, "bytes", report.bytes);
  json.EndObject();
  return json.Take() + "\n";
}

std::string Run(const Options& options, CommandContext& context) {
  const convert::SampleReport report = convert::WriteSample(
      options.sample, options.output, formats::PosixFileSystem(), context.progress);
  if (context.output.json) return ReportJson(options, report, context.tool.name);
  return fmt::format("Wrote a sample FP8 checkpoint ({}, seed {}): {}\n  {} in {}, {}\n",
                     PresetName(options.sample.preset), options.sample.seed,
                     formats::ShownPath(options.output), FormatCountOf(report.tensors, "tensor"),
                     FormatCountOf(report.files, "file"), FormatBytes(report.bytes));
}

}  // namespace

Command SampleCommand() {
  using convert::SamplePreset;
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "sample";
  command.summary = "make a small genuine FP8 checkpoint";
  command.description = {
      "Writes an FP8 checkpoint with DeepSeek-V3's names and structure to OUT, for trying the "
      "tools and for tests. The weights are drawn at random and quantised by the real recipe. "
      "Equal preset and seed give equal bytes on every machine."};
  command.arguments = {
      {"OUT", "The directory to write. It must be missing or empty.", &options->output}};
  command.options.push_back(OneOf<SamplePreset>(
      "preset", "NAME",
      {{"tiny", SamplePreset::kTiny, "a few MB"},
       {"tiny-v32", SamplePreset::kTinyV32, "as tiny, in V3.2's shape"},
       {"tiny-kimi", SamplePreset::kTinyKimi, "as tiny, in Kimi-K2's shape"},
       {"tiny-tp", SamplePreset::kTinyTp, "some 30 MB, for resharding"},
       {"tiny-61", SamplePreset::kTiny61, "some 45 MB with V3's 61 layers"},
       {"small", SamplePreset::kSmall, "about 1 GB"},
       {"v3-shapes", SamplePreset::kV3Shapes, "671B shapes as sparse files"}},
      &options->sample.preset,
      "What to make: tiny (a few MB, the default), tiny-v32 (V3.2's indexers and power-of-two "
      "scales), tiny-kimi (Kimi-K2's shape, without an MTP layer), tiny-tp (some 30 MB: 16 heads "
      "and 32 experts, for resharding), tiny-61 (some 45 MB: V3's 61 layers, for the deepseek "
      "format of rank shards), small (about 1 GB) or v3-shapes (the shapes of the 671B model as "
      "sparse files that take hardly any disk, for planning and inspection)."));
  command.options.push_back(Number(
      "seed", "N", std::numeric_limits<std::uint64_t>::max(), "",
      [options](std::uint64_t value) { options->sample.seed = value; },
      "Seed of the random weights, 0 by default."));
  command.examples = {{"sample /tmp/tiny --preset tiny --seed 1", "Make a checkpoint of a few MB"}};
  command.after_stop = "the sample is incomplete, delete its directory before the next try";
  command.run = [options](CommandContext& context) { return Run(*options, context); };
  return command;
}

}  // namespace dsv3::cli
