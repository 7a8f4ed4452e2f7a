#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

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
#include "cli/version.h"
#include "convert/open/pull_weights_model.h"
#include "convert/verify/checksum.h"
#include "convert/verify/signature.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/io/existence.h"
#include "formats/manifest.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  VerifyOptions verify;
  std::string input;
  ModelOptions model;
  std::string source;
  SignatureOptions signature;
  std::uint64_t memory_bytes = 0;
};

// Runs the checks one after the other, the quick ones first.
class AllChecks {
 public:
  AllChecks(const Options& options, CommandContext& context)
      : options_(options),
        verify_(options.verify),
        context_(context),
        is_delta_(convert::IsPullDirectory(options.input)) {}

  std::string Run() {
    CheckFindingFiles(verify_);
    Check("structure",
          [&] { return CheckStructure(options_.input, options_.model, verify_, context_); });
    // Where not even the headers can be listed, the other checks would report the same.
    if (const CheckRun& structure = runs_.front(); structure.thrown) {
      Abandon(structure.thrown);
    } else {
      directory_ = is_delta_ ? fs::path(options_.input) : structure.report->directory;
    }
    CheckOrSkip("provenance", WhyNoProvenance(), [&] {
      return CheckProvenance(options_.input, options_.source, verify_, context_);
    });
    CheckOrSkip("verify-signature", WhyNoSignature(), [&] {
      return CheckSignature(options_.input, options_.signature, verify_, context_);
    });
    CheckOrSkip("checksum check", WhyNoChecksums(), [&] {
      // Of weight deltas the files are compared; the other checks read the values.
      return CheckChecksums(options_.input, {.base = is_delta_ ? fs::path() : options_.model.base},
                            verify_, context_);
    });
    Check("numeric", [&] {
      return CheckValues(
          options_.input,
          {.model = options_.model, .histogram = "", .memory_bytes = options_.memory_bytes},
          verify_, context_);
    });
    const auto write = [&] {
      WriteFindingFiles(options_.input, directory_, Records(), verify_, context_);
    };
    SetExitCode();
    if (context_.output.json) {
      write();
      return Json();
    }
    const bool color = UseColor(context_.output.color, STDOUT_FILENO);
    std::string text = context_.output.quiet ? Verdict(color) : Text(color);
    ShowIfItThrows(text, write);
    return text;
  }

 private:
  using CheckFunction = std::function<VerifyReport()>;

  void Check(const std::string& command, const CheckFunction& check) {
    CheckRun run = RunTimed(command, verify_, context_, check);
    const bool stopped = run.record.error && run.record.error->code() == ErrorCode::kInterrupted;
    const std::exception_ptr thrown = run.thrown;
    runs_.push_back(std::move(run));
    if (stopped) Abandon(thrown);
  }

  void CheckOrSkip(const std::string& command, const std::string& why_not,
                   const CheckFunction& check) {
    if (why_not.empty()) return Check(command, check);
    CheckRun run;
    run.record.command = command;
    run.record.begin = std::chrono::system_clock::now();
    run.record.skipped = why_not;
    runs_.push_back(std::move(run));
  }

  [[noreturn]] void Abandon(const std::exception_ptr& thrown) {
    try {
      WriteFindingFiles(options_.input, directory_, Records(), verify_, context_);
    } catch (const Error&) {
      // The error of the check comes first.
    }
    std::rethrow_exception(thrown);
  }

  bool IsOneFile() const {
    std::error_code error;
    return fs::is_regular_file(options_.input, error);
  }

  std::string WhyNoProvenance() const {
    if (IsOneFile()) return "DIR is a single file";
    if (!options_.source.empty()) return "";
    const fs::path manifest = directory_ / formats::kManifestName;
    if (!formats::Exists(manifest)) return fmt::format("there is no {}", formats::kManifestName);
    if (!IsOfAConversion(manifest)) return "no conversion wrote the manifest";
    return "";
  }

  // A manifest that cannot be read is left to the check, which says so.
  static bool IsOfAConversion(const fs::path& manifest) {
    try {
      const std::string text = formats::ReadSmallFile(manifest, formats::kMaxManifestBytes);
      return formats::ParseManifest(text, manifest.string()).job.recipe != formats::kNoRecipe;
    } catch (const Error&) {
      return true;
    }
  }

  std::string WhyNoSignature() const {
    if (!options_.signature.key.empty()) return "";
    if (IsOneFile() || !formats::Exists(directory_ / convert::kSignatureName)) {
      return fmt::format("there is no {}", convert::kSignatureName);
    }
    return fmt::format("{} is there; give --key PUBLIC.pem to check it", convert::kSignatureName);
  }

  std::string WhyNoChecksums() const {
    if (IsOneFile() && !formats::IsGgufFile(options_.input)) return "DIR is a single file";
    if (convert::HasChecksums(options_.input)) return "";
    return "there is nothing to check against: no manifest, SHA256SUMS or records of the hub";
  }

  std::vector<CheckRecord> Records() const {
    std::vector<CheckRecord> records;
    for (const CheckRun& run : runs_) records.push_back(run.record);
    return records;
  }

  static bool Ran(const CheckRun& run) { return run.record.skipped.empty(); }

  std::size_t CountRun() const {
    return static_cast<std::size_t>(std::count_if(runs_.begin(), runs_.end(), Ran));
  }
  std::size_t CountFailed() const {
    return static_cast<std::size_t>(
        std::count_if(runs_.begin(), runs_.end(),
                      [](const CheckRun& run) { return Ran(run) && !run.record.passes; }));
  }

  void SetExitCode() {
    context_.found_differences = CountFailed() > 0;
    for (const CheckRun& run : runs_) {
      if (run.record.error && !context_.failed_part)
        context_.failed_part = run.record.error->code();
    }
  }

  static const char* Outcome(const CheckRun& run) {
    if (!Ran(run)) return "skipped";
    if (run.record.error) return "error";
    return run.record.passes ? "passed" : "failed";
  }

  std::string Verdict(bool color) const {
    const std::size_t failed = CountFailed();
    if (failed == 0) {
      return fmt::format("{} {} passed\n", Colored("OK:", Tone::kGood, color),
                         FormatCountOf(CountRun(), "check"));
    }
    return fmt::format("{} {} of {}\n", Colored("FAILED:", Tone::kBad, color), failed,
                       FormatCountOf(CountRun(), "check"));
  }

  // The last line of the check's report, or why it has none.
  static std::string Summary(const CheckRun& run) {
    if (!Ran(run)) return run.record.skipped;
    if (run.record.error) return Printable(run.record.error->message());
    std::string line = VerdictLine(*run.report, false);
    line.pop_back();
    return line.substr(line.find(' ') + 1);
  }

  std::string Text(bool color) const {
    std::string text = "Checked " + formats::ShownPath(options_.input) + "\n";
    Table table("llrl");
    for (const CheckRun& run : runs_) {
      table.Add({run.record.command, Outcome(run),
                 Ran(run) ? FormatSeconds(run.record.seconds) : "", Summary(run)});
    }
    text += table.Wrapped("  ", StdoutColumns());
    for (const CheckRun& run : runs_) {
      if (!run.report) continue;
      if (verify_.all) {
        text += "\n" + VerifyText(*run.report, true, color);
        continue;
      }
      const std::string findings =
          FindingsText(run.report->verification.findings, verify_.all, color);
      if (!findings.empty()) text += "\n" + run.record.command + ":\n" + findings;
    }
    return text + "\n" + Verdict(color);
  }

  std::string Json() const {
    std::size_t errors = 0;
    std::size_t warnings = 0;
    for (const CheckRun& run : runs_) {
      errors += run.record.verification.Count(formats::Severity::kError);
      warnings += run.record.verification.Count(formats::Severity::kWarning);
    }
    formats::JsonWriter json(2);
    json.BeginObject();
    StringMember(json, "tool", context_.tool.name);
    StringMember(json, "version", kVersion);
    StringMember(json, "command", context_.command.name);
    StringMember(json, "input", options_.input);
    json.Bool("passes", CountFailed() == 0);
    json.Uint("errors", errors);
    json.Uint("warnings", warnings);
    json.BeginArray("checks");
    for (const CheckRun& run : runs_) {
      json.BeginObject();
      StringMember(json, "check", run.record.command);
      StringMember(json, "outcome", Outcome(run));
      json.Double("seconds", run.record.seconds);
      StringOrNullMember(json, "reason",
                         run.record.error ? run.record.error->message() : run.record.skipped);
      json.Key("report");
      if (run.report) {
        WriteReport(json, *run.report, context_.tool.name, run.record.command);
      } else {
        json.Null();
      }
      json.EndObject();
    }
    json.EndArray();
    json.EndObject();
    return json.Take() + "\n";
  }

  const Options& options_;
  const VerifyOptions& verify_;
  CommandContext& context_;
  const bool is_delta_;  // weight deltas, whose model has the directory of its base
  fs::path directory_;
  std::vector<CheckRun> runs_;
};

}  // namespace

Command AllChecksCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "all";
  command.summary = "run every check that applies to a model directory";
  command.description = {
      "Runs, one after the other: structure; provenance where a conversion wrote a manifest; "
      "verify-signature where --key is given; checksum check where there is something to compare "
      "with; and numeric. A check that does not apply is skipped, and the report says why. DIR may "
      "be a GGUF file.",
      "The exit code is 0 where all checks that ran passed, 1 where one found an error, and that "
      "of the error where one could not run; the other checks still run. --junit and --sarif write "
      "one file each, with the findings of all checks."};
  command.arguments = {{"DIR", kModelDescription, &options->input}};
  command.options = {
      ConfigOption(&options->model.config),
      FromOption(&options->model.from),
      BaseOption(&options->model.base, "DIR"),
      PathOption("key", "PUBLIC.pem", PathUse::kInputFile, &options->signature.key,
                 "The signer's public key, in PEM form; without it no signature is checked."),
      PathOption("signature", "FILE", PathUse::kInputFile, &options->signature.signature,
                 "The signature, DIR/model.sig by default."),
      PathOption("source", "DIR2", PathUse::kCheckpoint, &options->source,
                 "The directory that DIR was made from, for provenance."),
      StrictOption(&options->verify),
      ThreadsOption(&options->verify),
      MemoryOption(&options->memory_bytes)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {{"all DeepSeek-V3", "Run all checks that apply"},
                      {"all --strict DeepSeek-V3 --junit reports/verify.xml --sarif "
                       "reports/verify.sarif",
                       "The same in a CI system"}};
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) { return AllChecks(*options, context).Run(); };
  return command;
}

}  // namespace dsv3::cli
