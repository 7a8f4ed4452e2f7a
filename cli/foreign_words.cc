#include "cli/foreign_words.h"

#include <algorithm>

namespace dsv3::cli {
namespace {

struct OtherOption {
  std::string_view name;
  std::string_view here;  // an option; empty: `advice` says what to write
  std::string_view advice;
};

constexpr std::string_view kCast =
    "the directories are arguments here: dsv3-convert fp8-to-bf16 IN OUT";
constexpr std::string_view kArguments =
    "what is read and what is written are arguments here, in the order that --help shows";
constexpr std::string_view kResume =
    "the same command without it continues where an interrupted run was";
constexpr std::string_view kReshard =
    "the same job here: 'dsv3-reshard --format deepseek --tp N IN OUT'";

constexpr OtherOption kOptions[] = {
    {"force", "overwrite", ""},
    {"clobber", "overwrite", ""},
    {"jobs", "threads", ""},
    {"num-threads", "threads", ""},
    {"workers", "threads", ""},
    {"num-workers", "threads", ""},
    {"y", "yes", ""},
    // vLLM's, SGLang's and Megatron's.
    {"tensor-parallel-size", "tp", ""},
    {"tensor-model-parallel-size", "tp", ""},
    {"tp-size", "tp", ""},
    {"expert-parallel-size", "ep", ""},
    {"expert-model-parallel-size", "ep", ""},
    {"ep-size", "ep", ""},
    {"verbose", "", "progress and warnings are shown without it, and -V prints the version"},
    {"resume", "", kResume},
    {"continue", "", kResume},
    {"device", "", "everything runs on the CPU here"},
    {"i", "", kArguments},
    {"o", "", kArguments},
    {"input", "", kArguments},
    {"output", "", kArguments},
    {"output-dir", "", kArguments},
    {"out", "", kArguments},
    // DeepSeek's fp8_cast_bf16.py.
    {"input-fp8-hf-path", "", kCast},
    {"output-bf16-hf-path", "", kCast},
    {"input-bf16-hf-path", "",
     "the directories are arguments here: dsv3-convert bf16-to-fp8 IN OUT"},
    {"output-fp8-hf-path", "",
     "the directories are arguments here: dsv3-convert bf16-to-fp8 IN OUT"},
    // DeepSeek's convert.py.
    {"hf-ckpt-path", "", kReshard},
    {"save-path", "", kReshard},
    {"n-experts", "", kReshard},
    {"model-parallel", "", kReshard},
};

struct OtherCommand {
  std::string_view tool;
  std::string_view word;
  std::string_view advice;
};

constexpr std::string_view kVersion = "did you mean -V?";
constexpr std::string_view kCasts = "use 'fp8-to-bf16' or 'bf16-to-fp8'";
constexpr std::string_view kCompare = "'dsv3-verify compare A B' compares two checkpoints";

constexpr OtherCommand kCommands[] = {
    {"dsv3-convert", "cast", kCasts},
    {"dsv3-convert", "convert", kCasts},
    {"dsv3-convert", "fp8_cast_bf16", "did you mean 'fp8-to-bf16'?"},
    {"dsv3-convert", "fp8_cast_bf16.py", "did you mean 'fp8-to-bf16'?"},
    {"dsv3-convert", "bf16-to-int4", "use 'quantize --to int4'"},
    {"dsv3-convert", "bf16-to-int8", "use 'quantize --to int8'"},
    {"dsv3-convert", "fp8-to-int4", "use 'quantize --to int4'"},
    {"dsv3-convert", "fp8-to-int8", "use 'quantize --to int8'"},
    {"dsv3-convert", "gguf", "did you mean 'to-gguf'?"},
    {"dsv3-convert", "convert_hf_to_gguf.py", "did you mean 'to-gguf'?"},
    {"dsv3-convert", "diff", kCompare},
    {"dsv3-convert", "compare", kCompare},
    {"dsv3-convert", "verify", "checkpoints are checked by 'dsv3-verify all DIR'"},
    {"dsv3-convert", "check", "checkpoints are checked by 'dsv3-verify all DIR'"},
    {"dsv3-convert", "inspect", "'dsv3-inspect IN' shows the tensors"},
    {"dsv3-convert", "reshard", "'dsv3-reshard --tp N IN OUT' makes rank shards"},
    {"dsv3-convert", "merge", "'dsv3-reshard merge RANKS OUT' merges rank shards"},
    {"dsv3-verify", "diff", "did you mean 'compare'?"},
    {"dsv3-verify", "check", "did you mean 'checksum check'? 'all' runs every check"},
    {"dsv3-verify", "verify", "'all' runs every check"},
    {"dsv3-verify", "validate", "'all' runs every check"},
    {"dsv3-verify", "hash", "did you mean 'checksum create'?"},
    {"dsv3-verify", "sha256sum", "did you mean 'checksum check'?"},
    {"dsv3-verify", "sha256", "did you mean 'checksum check'?"},
    {"dsv3-verify", "inspect", "'dsv3-inspect IN' shows the tensors"},
    {"dsv3-convert", "version", kVersion},
    {"dsv3-verify", "version", kVersion},
};

}  // namespace

std::string AdviceForOption(std::string_view option, const std::vector<std::string>& known) {
  for (const OtherOption& other : kOptions) {
    if (other.name != option) continue;
    if (other.here.empty()) return std::string(other.advice);
    if (std::find(known.begin(), known.end(), other.here) == known.end()) return "";
    return "did you mean --" + std::string(other.here) + "?";
  }
  return "";
}

std::string AdviceForCommand(std::string_view tool, std::string_view word) {
  for (const OtherCommand& other : kCommands) {
    if (other.tool == tool && other.word == word) return std::string(other.advice);
  }
  return "";
}

}  // namespace dsv3::cli
