#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "convert/open/completeness.h"
#include "convert/stream/file_digests.h"
#include "convert/verify/signature.h"
#include "convert/verify/signature_common.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/signature_bundle.h"
#include "formats/signature_key.h"
#include "formats/signature_statement.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::SignatureStatement;

void AddFinding(Verification& verification, std::string kind, const std::string& file,
                std::string message) {
  formats::Finding finding;
  finding.kind = std::move(kind);
  finding.file = file;
  finding.message = std::move(message);
  verification.findings.push_back(std::move(finding));
}

// Whether the key's owner made the signature; adds the finding when not.
bool IsAuthentic(const formats::SignatureBundle& bundle, const formats::VerifyingKey& key,
                 const VerifySignatureRequest& request, VerifySignatureReport& report) {
  const std::string name = report.signature.filename().string();
  if (!bundle.hint.empty() && bundle.hint != key.hint()) {
    AddFinding(report.verification, "wrong-key", name,
               fmt::format("{}: the signature was made with another key: it names the public key "
                           "{}, and {} is {}; verify with the signer's public key, or do not trust "
                           "this model",
                           formats::ShownPath(name), QuoteForMessage(bundle.hint),
                           formats::ShownPath(request.key), key.hint()));
    return false;
  }
  if (key.Verifies(formats::PreAuthenticationEncoding(bundle.payload), bundle.signature)) {
    return true;
  }
  AddFinding(
      report.verification, "wrong-signature", name,
      fmt::format("{}: the signature does not fit what it signs: it was changed, or was made "
                  "with another key than that of {}; get it again from the signer, and do "
                  "not trust this model until it fits",
                  formats::ShownPath(name), formats::ShownPath(request.key)));
  return false;
}

// The listing without what does not belong to the model; what the signature lists always does.
ModelListing ListSigned(const VerifySignatureRequest& request, const VerifySignatureReport& report,
                        const SignatureStatement& statement) {
  IgnoredPaths ignored = UnsignedPaths(report.directory, report.signature);
  for (const std::string& path : statement.ignore_paths) {
    const std::string clean = fs::path(path).lexically_normal().generic_string();
    ignored.insert(clean.ends_with('/') ? clean.substr(0, clean.size() - 1) : clean);
  }
  for (auto path = ignored.begin(); path != ignored.end();) {
    const bool holds_signed =
        std::any_of(statement.files.begin(), statement.files.end(),
                    [&](const formats::SignedFile& file) { return IsIgnored(file.name, {*path}); });
    path = holds_signed ? ignored.erase(path) : std::next(path);
  }
  return ListModel(request.model, ignored);
}

// What the model has and the signature says of each file, by name.
class Comparison {
 public:
  Comparison(const ModelListing& listing, const SignatureStatement& statement,
             Verification& verification)
      : listing_(listing), statement_(statement), verification_(verification) {
    for (const ModelFile& file : listing.files) found_.emplace(file.name, &file);
    for (const ModelOddity& oddity : listing.oddities) odd_.emplace(oddity.name, &oddity);
    for (const formats::SignedFile& file : statement.files) {
      // A signature of a single file may name it, or call it ".".
      const bool single = listing.single_file && statement.files.size() == 1 &&
                          (file.name == "." || file.name == listing.subject);
      signed_.emplace(single ? "." : file.name, &file);
    }
  }

  // Signed files that are there, to be hashed.
  std::vector<FileToDigest> ToDigest() const {
    std::vector<FileToDigest> files;
    for (const auto& [name, file] : signed_) {
      const auto found = found_.find(name);
      if (found == found_.end() || IsForbiddenLink(*found->second)) continue;
      FileToDigest one;
      one.name = Shown(name);
      one.path = found->second->path;
      files.push_back(std::move(one));
    }
    return files;
  }

  void Judge(const std::vector<FileToDigest>& files, const std::vector<FileDigest>& digests) {
    std::map<std::string, const FileDigest*> by_name;
    for (std::size_t i = 0; i < files.size(); ++i) by_name.emplace(files[i].name, &digests[i]);
    std::set<std::string> names;
    for (const auto& [name, file] : signed_) names.insert(name);
    for (const auto& [name, file] : found_) names.insert(name);
    for (const auto& [name, oddity] : odd_) names.insert(name);
    for (const std::string& name : names) {
      const auto digest = by_name.find(Shown(name));
      JudgeOne(name, digest == by_name.end() ? nullptr : digest->second);
      verification_.files.push_back(Shown(name));
    }
    std::sort(verification_.files.begin(), verification_.files.end());
  }

 private:
  std::string Shown(const std::string& name) const { return name == "." ? listing_.subject : name; }

  bool IsForbiddenLink(const ModelFile& file) const {
    return file.is_link && !statement_.allow_symlinks;
  }

  void Add(std::string kind, const std::string& name, const std::string& problem) {
    AddFinding(verification_, std::move(kind), Shown(name),
               fmt::format("{}: {}", Shown(name), problem));
  }

  void JudgeOne(const std::string& name, const FileDigest* digest) {
    const auto expected = signed_.find(name);
    const auto found = found_.find(name);
    const auto odd = odd_.find(name);
    if (expected == signed_.end()) {
      Add("extra-file", name,
          odd == odd_.end()
              ? "the signature does not list this file: it was added after signing; remove it, or "
                "have the model signed again"
              : fmt::format("this is {}, and the signature does not list it; remove it",
                            odd->second->what));
    } else if (found == found_.end()) {
      Add("missing-file", name,
          odd == odd_.end()
              ? std::string("the signature lists this file, but there is none; download it again")
              : fmt::format("the signature lists this file, but here is {}; download it again",
                            odd->second->what));
    } else if (IsForbiddenLink(*found->second)) {
      Add("symlink", name,
          "this is a symbolic link, and the signature allows none; put the file itself here, for "
          "instance with 'hf download --local-dir'");
    } else if (digest->error) {
      AddFinding(verification_, "unreadable-file", Shown(name), digest->error->message());
    } else if (digest->sha256 != expected->second->sha256) {
      Add("wrong-digest", name,
          fmt::format("its SHA-256 is {}, but {} was signed: the file was changed or damaged; "
                      "download it again",
                      digest->sha256, expected->second->sha256));
    }
  }

  const ModelListing& listing_;
  const SignatureStatement& statement_;
  Verification& verification_;
  std::map<std::string, const ModelFile*> found_;
  std::map<std::string, const ModelOddity*> odd_;
  std::map<std::string, const formats::SignedFile*> signed_;
};

}  // namespace

VerifySignatureReport VerifySignature(const VerifySignatureRequest& request, ProgressSink& progress,
                                      const StopToken& stop) {
  VerifySignatureReport report;
  report.verification.check = "signature";
  report.signature = SignaturePath(request.signature, request.model);
  report.directory = ModelDirectory(request.model);
  const std::string signature_name = report.signature.string();
  const formats::VerifyingKey key =
      formats::VerifyingKey::FromPem(ReadKeyFile(request.key), request.key.string());
  report.curve = key.curve();
  report.key_hint = key.hint();
  const formats::SignatureBundle bundle = formats::ParseBundle(
      formats::ReadSmallFile(report.signature, kMaxSignatureBytes), signature_name);
  // A bundle without a statement is reported as malformed, with a good signature, too.
  const SignatureStatement statement = formats::ParseStatement(bundle.payload, signature_name);
  report.authentic = IsAuthentic(bundle, key, request, report);
  if (!report.authentic) return report;
  if (formats::RootDigest(statement.files) != statement.root_digest) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the signed statement contradicts itself: its files have the root "
                            "digest {}, but it says {}; have the model signed again",
                            formats::ShownPath(signature_name),
                            formats::RootDigest(statement.files), statement.root_digest),
                {.file = signature_name, .tensor = {}});
  }
  report.subject = statement.subject;
  report.files = statement.files.size();
  const ModelListing listing = ListSigned(request, report, statement);
  Comparison comparison(listing, statement, report.verification);
  const std::vector<FileToDigest> files = comparison.ToDigest();
  std::uint64_t total = 0;
  for (const ModelFile& file : listing.files) total += file.bytes;
  progress.OnPhase("hashing", total);
  const std::vector<FileDigest> digests = DigestFiles(files, request.threads, progress, stop);
  for (const FileDigest& digest : digests) report.bytes += digest.bytes;
  comparison.Judge(files, digests);
  if (!listing.single_file) {
    AddUnlessKnown(JudgeCompleteness(listing.directory), report.verification.findings);
  }
  return report;
}

}  // namespace dsv3::convert
