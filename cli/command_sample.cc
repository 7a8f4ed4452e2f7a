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
    case convert::SamplePreset::kV2Lite:
      return "v2-lite";
    case convert::SamplePreset::kMoonlight:
      return "moonlight";
    case convert::SamplePreset::kV32:
      return "v32";
    case convert::SamplePreset::kGlm5:
      return "glm5";
    case convert::SamplePreset::kKimiInt4:
      return "k2-int4";
    case convert::SamplePreset::kKimiK25:
      return "k2.5";
    case convert::SamplePreset::kAwq:
      return "awq";
    case convert::SamplePreset::kNvFp4:
      return "nvfp4";
    case convert::SamplePreset::kV4:
      return "v4";
    case convert::SamplePreset::kTiny:
      break;
  }
  return "tiny";
}

// What most of the weights are.
const char* FormName(convert::SamplePreset preset) {
  switch (preset) {
    case convert::SamplePreset::kV2Lite:
    case convert::SamplePreset::kMoonlight:
      return "BF16";
    case convert::SamplePreset::kKimiInt4:
    case convert::SamplePreset::kKimiK25:
    case convert::SamplePreset::kAwq:
      return "INT4";
    case convert::SamplePreset::kNvFp4:
      return "NVFP4";
    case convert::SamplePreset::kV4:
      return "FP4";
    default:
      return "FP8";
  }
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
  json.Uint("seed", options.sample.seed);
  json.Uint("files", report.files);
  json.Uint("tensors", report.tensors);
  json.Uint("bytes", report.bytes);
  json.EndObject();
  return json.Take() + "\n";
}

std::string Run(const Options& options, CommandContext& context) {
  const convert::SampleReport report = convert::WriteSample(
      options.sample, options.output, formats::PosixFileSystem(), context.progress);
  if (context.output.json) return ReportJson(options, report, context.tool.name);
  return fmt::format("Wrote a sample {} checkpoint ({}, seed {}): {}\n  {} in {}, {}\n",
                     FormName(options.sample.preset), PresetName(options.sample.preset),
                     options.sample.seed, formats::ShownPath(options.output),
                     FormatCountOf(report.tensors, "tensor"), FormatCountOf(report.files, "file"),
                     FormatBytes(report.bytes));
}

}  // namespace

Command SampleCommand() {
  using convert::SamplePreset;
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "sample";
  command.summary = "make a small genuine checkpoint";
  command.description = {
      "Writes a checkpoint with the names and structure of DeepSeek-V3, or of a relative, to OUT, "
      "for trying the tools and for tests. The weights are drawn at random and quantised as the "
      "model's are, to FP8 by default. Equal preset and seed give equal bytes on every machine."};
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
       {"v3-shapes", SamplePreset::kV3Shapes, "671B shapes as sparse files"},
       {"v2-lite", SamplePreset::kV2Lite, "V2-Lite's shape, BF16"},
       {"moonlight", SamplePreset::kMoonlight, "Moonlight's shape, BF16"},
       {"v32", SamplePreset::kV32, "V3.2's shape, FP8"},
       {"glm5", SamplePreset::kGlm5, "GLM-5's shape, FP8"},
       {"k2-int4", SamplePreset::kKimiInt4, "Kimi K2-Thinking's shape, INT4 experts"},
       {"k2.5", SamplePreset::kKimiK25, "Kimi K2.5's shape, INT4 experts"},
       {"awq", SamplePreset::kAwq, "V3's shape, INT4 of AWQ"},
       {"nvfp4", SamplePreset::kNvFp4, "V3's shape, NVFP4 experts"},
       {"v4", SamplePreset::kV4, "DeepSeek-V4's shape, FP8 and FP4"}},
      &options->sample.preset,
      "What to make: tiny (a few MB, the default), tiny-v32 (V3.2's indexers and power-of-two "
      "scales), tiny-kimi (Kimi-K2's shape, without an MTP layer), tiny-tp (some 30 MB: 16 heads "
      "and 32 experts, for resharding), tiny-61 (some 45 MB: V3's 61 layers, for the deepseek "
      "format of rank shards), small (about 1 GB) or v3-shapes (the shapes of the 671B model as "
      "sparse files that take hardly any disk, for planning and inspection). Relatives of a few "
      "MB, "
      "with the names, dtypes and config of the model: v2-lite and moonlight (BF16), v32 and glm5 "
      "(FP8), k2-int4 and k2.5 (routed experts in packed INT4), awq (V3's in AWQ's INT4), nvfp4 "
      "(V3's in ModelOpt's NVFP4), "
      "v4 (FP8 and FP4 experts, with scales in E8M0)."));
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
