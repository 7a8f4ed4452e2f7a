#include "cli/run_options.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "cli/base_option.h"

namespace dsv3::cli {

namespace {

constexpr std::uint64_t kMostParts = 1'000'000;

// "3/16".
convert::RunOptions::Part ParsePart(const std::string& text) {
  constexpr const char* kAccepted =
      "give I/N, the I-th of N parts counted from 0, such as 0/4, 1/4, 2/4 and 3/4";
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos) throw BadValue(kAccepted);
  convert::RunOptions::Part part;
  part.index = ParseNumber(text.substr(0, slash), kMostParts, kAccepted);
  part.count = ParseNumber(text.substr(slash + 1), kMostParts, kAccepted);
  if (part.index >= part.count) throw BadValue(kAccepted);
  return part;
}

std::vector<Option> ResourceOptions(convert::RunOptions* run) {
  constexpr std::uint64_t kMostThreads = 4096;
  std::vector<Option> options;
  options.push_back(
      OfOneRun(Flag("dry-run", &run->dry_run,
                    "Check everything that can be checked without reading weights, print "
                    "the files to be written, their bytes, the disk space and memory needed "
                    "and whether they are there, and write nothing.",
                    'n')));
  options.push_back(Number(
      "threads", "N", kMostThreads, "all processors",
      [run](std::uint64_t value) { run->threads = static_cast<unsigned>(value); },
      "Compute threads; 0, the default, is one for each processor. The output does not depend on "
      "it.",
      'j'));
  options.push_back(Size("memory", &run->memory_bytes,
                         "Bound for the buffers, 160Mi by default: bytes, or a number with K, M, "
                         "G (1000) or Ki, Mi, Gi (1024). The output does not depend on it."));
  return options;
}

Option OverwriteOption(convert::RunOptions* run) {
  return OfOneRun(
      Flag("overwrite", &run->overwrite,
           "Replace every file in OUT whose name this command writes, also files that others made, "
           "and remove other files that an earlier command made there. All other files stay.",
           'f'));
}

}  // namespace

std::vector<Option> PackingOptionTable(convert::RunOptions* run) {
  std::vector<Option> options = ResourceOptions(run);
  options.push_back(OverwriteOption(run));
  return options;
}

std::vector<Option> RunOptionTable(convert::RunOptions* run) {
  using convert::ChecksumMode;
  std::vector<Option> options = ResourceOptions(run);
  options.push_back(BaseOption(&run->base, "IN"));
  options.push_back(OneOf<ChecksumMode>(
      "checksum", "MODE",
      {{"sha256", ChecksumMode::kSha256, "a SHA-256 for each file"},
       {"none", ChecksumMode::kNone, "sizes and fast digests only"}},
      &run->checksum,
      "Whether the manifest lists a SHA-256 for each file: sha256 (default) or none. It is "
      "computed while writing, without a second read."));
  options.push_back(Flag("tensor-sha256", &run->tensor_sha256,
                         "Also list a SHA-256 for each tensor in the manifest, beside the fast "
                         "digest that is always there."));
  options.push_back(OneOf<bool>(
      "side-files", "MODE",
      {{"model", false, "the files of the model"}, {"all", true, "also the files left behind"}},
      &run->all_side_files,
      "Which files beside the weights are copied: model (default; config, tokenizer, code, licence "
      "and everything else that belongs to the model) or all (also weights in other formats, "
      "adapters, training states, other indexes, checksum lists, records of downloads and "
      "operating systems, and descriptions that are no longer true). The report names the files "
      "that are left behind."));
  options.push_back(OverwriteOption(run));
  return options;
}

std::vector<Option> PartOptionTable(convert::RunOptions* run) {
  std::vector<Option> options;
  Option part;
  part.name = "part";
  part.value_name = "I/N";
  part.of_one_run = true;
  part.help =
      "Make only the I-th of N parts of the output, I from 0, for job arrays. Runs of different "
      "parts may go on at the same time on machines that share OUT; once all have ended, the same "
      "command with --finish completes OUT. The output does not depend on it.";
  part.set = [run](const std::string& text) { run->part = ParsePart(text); };
  options.push_back(std::move(part));
  options.push_back(OfOneRun(
      Flag("finish", &run->finish,
           "Complete the output of runs with --part: check that every part is there, and write the "
           "files that describe the whole. With --part, that part is made first.")));
  return options;
}

std::vector<Option> DeletionOptionTable(convert::RunOptions* run, bool* yes) {
  std::vector<Option> options;
  options.push_back(
      Flag("delete-source-shards", &run->delete_source_shards,
           "Delete each source shard once all output that needs it is written and verified, for a "
           "disk that does not hold both. The command asks twice on a terminal, and needs --yes "
           "elsewhere. Where a shard is a link to a file outside IN, or to a file that other links "
           "lead to, only the link is deleted."));
  options.push_back(
      OfOneRun(Flag("yes", yes, "Answer the questions of --delete-source-shards with yes.")));
  return options;
}

Argument OutputArgument(std::string* output) {
  return {"OUT",
          "The directory to write. It may be missing, empty, or hold what an earlier run of the "
          "same command left.",
          output};
}

void StopAndContinue(Command& command) {
  command.after_stop = "run the same command again to continue";
  command.stops_by_itself = true;
  command.shares_work = true;
}

void AddOptions(std::vector<Option> options, Command& command) {
  std::move(options.begin(), options.end(), std::back_inserter(command.options));
}

}  // namespace dsv3::cli
