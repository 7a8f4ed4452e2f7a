#include <memory>
#include <string>

#include <fmt/format.h>

#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "cli/version.h"
#include "convert/verify/signature.h"
#include "formats/io/file_system.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

struct SignOptions {
  VerifyOptions verify;
  std::string model;
  std::string key;
  std::string signature;
  bool use_manifest = false;
};

[[noreturn]] void FailMissingKey(const CommandContext& context, const char* which) {
  throw UsageError(fmt::format("{}: missing --key {}", context.command.name, which),
                   fmt::format("Run '{} {} --help' to see what it accepts.", context.tool.name,
                               context.command.name));
}

std::string Amount(std::uint64_t files, std::uint64_t bytes) {
  return fmt::format("{}, {}", FormatCountOf(files, "file"), FormatBytes(bytes));
}

std::string SignText(const SignOptions& options, const convert::SignReport& report) {
  std::string text = "Signed " + formats::ShownPath(options.model) + "\n";
  Table table("ll");
  table.Add({"signature", formats::ShownPath(report.signature)});
  table.Add({"key", fmt::format("{}, public key {}", report.curve, report.key_hint)});
  table.Add({"files", Amount(report.files, report.bytes)});
  if (options.use_manifest) {
    table.Add({"trusted", fmt::format("{}: digests taken from checkpoint.manifest.json, bytes not "
                                      "read, sizes compared",
                                      Amount(report.trusted_files, report.trusted_bytes))});
    table.Add({"hashed",
               Amount(report.files - report.trusted_files, report.bytes - report.trusted_bytes)});
  }
  table.Add({"root digest", report.root_digest});
  if (!report.warnings.empty()) {
    table.Add({"warnings", FormatCountOf(report.warnings.size(), "warning") + ", printed above"});
  }
  return text + table.Text("  ");
}

std::string SignJson(const SignOptions& options, const convert::SignReport& report,
                     const CommandContext& context) {
  formats::JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "tool", context.tool.name);
  StringMember(json, "version", kVersion);
  StringMember(json, "command", context.command.name);
  StringMember(json, "input", options.model);
  StringMember(json, "signature", report.signature.string());
  StringMember(json, "curve", report.curve);
  StringMember(json, "key_hint", report.key_hint);
  StringMember(json, "root_digest", report.root_digest);
  json.Uint("file_count", report.files);
  json.Uint("bytes", report.bytes);
  json.Bool("use_manifest", options.use_manifest);
  json.Uint("trusted_files", report.trusted_files);
  json.Uint("trusted_bytes", report.trusted_bytes);
  json.Bool("symlinks", report.symlinks);
  FindingsMember(json, "warnings", report.warnings);
  json.EndObject();
  return json.Take() + "\n";
}

std::string RunSign(const SignOptions& options, CommandContext& context) {
  if (options.key.empty()) FailMissingKey(context, "PRIVATE.pem");
  convert::SignRequest request;
  request.model = options.model;
  request.key = options.key;
  request.signature = options.signature;
  request.use_manifest = options.use_manifest;
  request.threads = options.verify.threads;
  const convert::SignReport report =
      convert::SignModel(request, formats::PosixFileSystem(), context.progress, context.stop);
  return context.output.json ? SignJson(options, report, context) : SignText(options, report);
}

struct VerifySignatureOptions {
  VerifyOptions verify;
  std::string model;
  SignatureOptions signature;
};

}  // namespace

VerifyReport CheckSignature(const std::string& model, const SignatureOptions& signature,
                            const VerifyOptions& options, CommandContext& context) {
  convert::VerifySignatureRequest request;
  request.model = model;
  request.key = signature.key;
  request.signature = signature.signature;
  request.threads = options.threads;
  const auto held = std::make_shared<const convert::VerifySignatureReport>(
      convert::VerifySignature(request, context.progress, context.stop));
  const convert::VerifySignatureReport& checked = *held;
  VerifyReport report;
  report.input = model;
  report.directory = checked.directory;
  report.verification = checked.verification;
  report.passes = checked.verification.Passes(false);
  report.title = "Checked the signature of " + formats::ShownPath(model);
  report.good = "the key's owner signed the model, and every file is as it was then";
  report.lines.emplace_back("signature", formats::ShownPath(checked.signature));
  report.lines.emplace_back("key",
                            fmt::format("{}, public key {}", checked.curve, checked.key_hint));
  if (checked.authentic) {
    report.lines.emplace_back(
        "signed", fmt::format("{} of the model {}", FormatCountOf(checked.files, "file"),
                              QuoteForMessage(checked.subject)));
    report.lines.emplace_back("read", FormatBytes(checked.bytes));
  } else {
    report.consequence =
        "the files were not compared, because the signature is not valid for this key";
  }
  report.members = [held, &checked](formats::JsonWriter& json) {
    StringMember(json, "signature", checked.signature.string());
    StringMember(json, "curve", checked.curve);
    StringMember(json, "key_hint", checked.key_hint);
    json.Bool("authentic", checked.authentic);
    StringOrNullMember(json, "subject", checked.subject);
    json.Uint("signed_files", checked.files);
    json.Uint("bytes", checked.bytes);
  };
  return report;
}

Command SignCommand() {
  const auto options = std::make_shared<SignOptions>();
  Command command;
  command.name = "sign";
  command.summary = "sign a model directory";
  command.description = {
      "Hashes the files of DIR and signs their digests with the private key, in the form of "
      "OpenSSF Model Signing v1.0, which 'dsv3-verify verify-signature' and the Python tool "
      "'model_signing verify key' verify.",
      "Not signed are model.sig, the signature itself, .git, .gitattributes, .github, .gitignore "
      "and .cache/huggingface at the top of DIR. Sign last: a file that is added later counts as a "
      "difference. A directory is refused where a conversion or a download is not finished."};
  command.arguments = {{"DIR",
                        "The model directory, a model directory of the Hugging Face hub cache, or "
                        "a single file.",
                        &options->model}};
  command.options = {
      PathOption(
          "key", "PRIVATE.pem", PathUse::kInputFile, &options->key,
          "The private key, in PEM form and without a password: P-256, P-384 or P-521. Required."),
      PathOption(
          "signature", "FILE", PathUse::kOutputFile, &options->signature,
          "Where to write the signature, DIR/model.sig by default. A signature that is there is "
          "replaced."),
      Flag("use-manifest", &options->use_manifest,
           "Take the digests from checkpoint.manifest.json in DIR, which a conversion wrote in the "
           "same stream as the files, and do not read the files again. Sizes are compared; the "
           "bytes are trusted, and the report says so."),
      ThreadsOption(&options->verify)};
  command.examples = {{"sign DeepSeek-V3-BF16 --key signer.pem", "Sign a model"},
                      {"sign DeepSeek-V3-BF16 --key signer.pem --use-manifest",
                       "Sign the output of a conversion without reading it again"}};
  command.stops_by_itself = true;
  command.run = [options](CommandContext& context) { return RunSign(*options, context); };
  return command;
}

Command VerifySignatureCommand() {
  const auto options = std::make_shared<VerifySignatureOptions>();
  Command command;
  command.name = "verify-signature";
  command.summary = "check a signed model directory";
  command.description = {
      "Checks that the owner of the key signed the model in DIR, and that every file is as it was "
      "then. Signatures of 'dsv3-verify sign' and of the Python tool 'model_signing sign key' are "
      "understood.",
      "Every file that changed, is missing or was added is listed, and makes the exit code 1, as "
      "does a signature by another key. A malformed signature makes it 3."};
  command.arguments = {{"DIR",
                        "The model directory, a model directory of the Hugging Face hub cache, or "
                        "a single file.",
                        &options->model}};
  command.options = {
      PathOption("key", "PUBLIC.pem", PathUse::kInputFile, &options->signature.key,
                 "The signer's public key, in PEM form. Required."),
      PathOption("signature", "FILE", PathUse::kInputFile, &options->signature.signature,
                 "The signature, DIR/model.sig by default."),
      ThreadsOption(&options->verify)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {
      {"verify-signature DeepSeek-V3-BF16 --key signer.pub.pem", "Check a signed model"}};
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    if (options->signature.key.empty()) FailMissingKey(context, "PUBLIC.pem");
    return RunCheck(options->model, options->verify, context, [&] {
      return CheckSignature(options->model, options->signature, options->verify, context);
    });
  };
  return command;
}

}  // namespace dsv3::cli
