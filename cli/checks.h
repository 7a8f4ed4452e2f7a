#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "cli/verify_report.h"
#include "convert/layouts/stacks.h"

// The checks of dsv3-verify that need one directory alone, each with its report: a command runs one
// of them, and "all" runs every check that applies. They throw Error as the functions of
// convert/verify do.
namespace dsv3::cli {

struct CommandContext;

// DIR of the checks that judge a model, whatever form its files have.
inline constexpr char kModelDescription[] =
    "The checkpoint: a directory, a single safetensors file, a model directory of the Hugging Face "
    "hub cache, rank shards of dsv3-reshard, or a training checkpoint, see dsv3-convert "
    "train-to-infer.";

// What DIR does not say of itself; see convert::OpenOptions.
struct ModelOptions {
  std::filesystem::path config = {};
  std::optional<convert::Stack> from = std::nullopt;
  std::filesystem::path base = {};
};

VerifyReport CheckStructure(const std::string& input, const ModelOptions& model,
                            const VerifyOptions& options, CommandContext& context);

struct ValueOptions {
  ModelOptions model = {};
  std::string histogram;
  std::uint64_t memory_bytes = 0;
};
VerifyReport CheckValues(const std::string& input, const ValueOptions& values,
                         const VerifyOptions& options, CommandContext& context);

struct ChecksumOptions {
  std::string manifest = {};
  bool quick = false;
  std::filesystem::path base = {};
};
VerifyReport CheckChecksums(const std::string& directory, const ChecksumOptions& checksums,
                            const VerifyOptions& options, CommandContext& context);

VerifyReport CheckProvenance(const std::string& directory, const std::string& source,
                             const VerifyOptions& options, CommandContext& context);

struct SignatureOptions {
  std::string key;        // PUBLIC.pem
  std::string signature;  // empty: model.sig in the directory
};
VerifyReport CheckSignature(const std::string& model, const SignatureOptions& signature,
                            const VerifyOptions& options, CommandContext& context);

}  // namespace dsv3::cli
