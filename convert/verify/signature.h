#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/verify/verification.h"
#include "formats/finding.h"
#include "formats/io/file_system.h"

// `dsv3-verify sign` and `verify-signature`: signatures of models in the form of OpenSSF Model
// Signing v1.0. docs/signing.md says what is signed.
namespace dsv3::convert {

inline constexpr std::string_view kSignatureName = "model.sig";

struct SignRequest {
  std::filesystem::path model;      // a directory, a hub cache "models--org--name", or one file
  std::filesystem::path key;        // private, PEM
  std::filesystem::path signature;  // to write; empty: model.sig in the directory
  bool use_manifest = false;        // take digests from the directory's manifest
  unsigned threads = 0;             // compute threads; 0: all processors
};

struct SignReport {
  std::filesystem::path directory;
  std::filesystem::path signature;
  std::string curve;        // "P-256"
  std::string key_hint;     // see formats::VerifyingKey::hint
  std::string root_digest;  // see formats::RootDigest
  std::uint64_t files = 0;  // signed
  std::uint64_t bytes = 0;  // of those
  // The part of them whose digests are the manifest's, so that their bytes were not read.
  std::uint64_t trusted_files = 0;
  std::uint64_t trusted_bytes = 0;
  bool symlinks = false;  // some of the files are symbolic links
  formats::Findings warnings;
};

// Signs every file of the model but what git and the hub keep beside it and signatures, and writes
// the signature durably; whether it can be written is tried first. With `use_manifest` the SHA-256
// digests of the files that the manifest lists are taken from there, after their sizes were
// compared; others are computed. Throws Error: kBadInput for a key that is none or of another kind,
// a model without files, with something that cannot be signed (a link to a directory, a FIFO, a
// name that is not UTF-8), or without a manifest that lists SHA-256 digests where one is to be
// used, and for one that is not whole (see JudgeCompleteness); kVerification where sizes differ
// from the manifest's; kUsage where an unfinished conversion lies, or `signature` is a file that is
// no signature; kIo; kInterrupted.
SignReport SignModel(const SignRequest& request, formats::FileSystem& file_system,
                     ProgressSink& progress, const StopToken& stop);

struct VerifySignatureRequest {
  std::filesystem::path model;
  std::filesystem::path key;        // public, PEM
  std::filesystem::path signature;  // empty: model.sig in the directory
  unsigned threads = 0;             // compute threads; 0: all processors
};

struct VerifySignatureReport {
  // check is "signature". A signature that is not the key's owner's is the only finding then, since
  // what it says of files counts for nothing; otherwise each file that differs is one.
  Verification verification;
  std::filesystem::path directory;
  std::filesystem::path signature;
  std::string curve;
  std::string key_hint;
  bool authentic = false;   // the key's owner made the signature
  std::string subject;      // the model's name as the signature has it; empty when not authentic
  std::uint64_t files = 0;  // that the signature lists
  std::uint64_t bytes = 0;  // read
};

// Checks that the owner of `key` signed the model and that every file is as it was then. Throws
// Error: kBadInput for a signature or key that is missing, malformed or of a kind that is not
// understood; kIo where the directory cannot be listed; kInterrupted.
VerifySignatureReport VerifySignature(const VerifySignatureRequest& request, ProgressSink& progress,
                                      const StopToken& stop);

}  // namespace dsv3::convert
