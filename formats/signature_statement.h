#pragma once

#include <string>
#include <string_view>
#include <vector>

// The text that a signature of a model signs: an in-toto statement v1 with the predicate of OpenSSF
// Model Signing v1.0, method "files", SHA-256.
namespace dsv3::formats {

struct SignedFile {
  std::string name;    // relative, '/' between components; "." for a model that is one file
  std::string sha256;  // 64 lowercase hex digits
};

struct SignatureStatement {
  std::string subject;  // the model's name; it has no other meaning
  std::vector<SignedFile> files;
  bool allow_symlinks = false;            // files may be reached by symbolic links
  std::vector<std::string> ignore_paths;  // files and directories that are not signed
  // The digest of `files` that the statement itself gives; see RootDigest.
  std::string root_digest;
};

// SHA-256 of the raw digests of `files` in their order, lowercase hex.
std::string RootDigest(const std::vector<SignedFile>& files);

// The statement as compact JSON. `root_digest` is not read: the right one is written.
std::string StatementText(const SignatureStatement& statement);

// Reads a statement; files stay in its order. The caller judges whether root_digest fits. Throws
// Error (kBadInput), naming `file`, for a text that is not a statement of this form: malformed
// JSON, missing or repeated members, wrong types, other methods and digests, no file, and names
// that appear twice or lead out of the directory.
SignatureStatement ParseStatement(std::string_view text, const std::string& file);

// Orders names component by component: "a/b" before "a-b".
bool ComponentsLess(std::string_view a, std::string_view b);

}  // namespace dsv3::formats
