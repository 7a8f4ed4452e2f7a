#include "formats/signature_statement.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "formats/hash/sha256.h"
#include "formats/json/json_writer.h"
#include "formats/relative_name.h"
#include "formats/signature_json.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kPredicateType = "https://model_signing/signature/v1.0";
constexpr std::size_t kDigestDigits = 64;

unsigned HexValue(char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); }

// The digest in lowercase; nothing when it is not a SHA-256.
std::optional<std::string> Sha256Text(std::string_view text) {
  if (text.size() != kDigestDigits) return std::nullopt;
  std::string digest(text);
  for (char& c : digest) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return std::nullopt;
  }
  return digest;
}

class StatementParser {
 public:
  StatementParser(std::string_view text, const std::string& file)
      : file_(file), json_(text, {file, "the signed statement", kSignatureAdvice}) {}

  SignatureStatement Parse() {
    ReadObject(json_, file_, "the signed statement",
               {"_type", "subject", "predicateType", "predicate"}, [&](const std::string& key) {
                 if (key == "_type") {
                   RequireText("_type", kStatementType);
                 } else if (key == "predicateType") {
                   RequireText("predicateType", kPredicateType);
                 } else if (key == "subject") {
                   Subjects();
                 } else if (key == "predicate") {
                   Predicate();
                 } else {
                   json_.SkipValue();
                 }
               });
    json_.End();
    if (statement_.files.empty()) FailSignature(file_, "the signed statement lists no file");
    if (statement_.files.size() > 1 && names_.contains(".")) {
      FailSignature(file_, "the signed statement names a file '.' beside others");
    }
    return std::move(statement_);
  }

 private:
  void RequireText(std::string_view what, std::string_view expected) {
    const std::string found(json_.String());
    if (found == expected) return;
    FailSignature(file_, fmt::format("{} of the signed statement is {}, but '{}' was expected",
                                     what, QuoteForMessage(found), expected));
  }

  std::string Digest(std::string_view what) {
    const std::string found(json_.String());
    if (std::optional<std::string> digest = Sha256Text(found)) return *digest;
    FailSignature(
        file_, fmt::format("the digest of {} is {}, but 64 hexadecimal digits were expected", what,
                           QuoteForMessage(found)));
  }

  void Subjects() {
    std::size_t count = 0;
    json_.BeginArray();
    while (json_.NextElement()) {
      ++count;
      ReadObject(json_, file_, "the subject", {"name", "digest"}, [&](const std::string& key) {
        if (key == "name") {
          statement_.subject = json_.String();
        } else if (key == "digest") {
          ReadObject(json_, file_, "the subject's digest", {"sha256"},
                     [&](const std::string& kind) {
                       if (kind == "sha256") {
                         statement_.root_digest = Digest("the subject");
                       } else {
                         json_.SkipValue();
                       }
                     });
        } else {
          json_.SkipValue();
        }
      });
    }
    if (count != 1) {
      FailSignature(file_,
                    fmt::format("the signed statement has {} subjects instead of one", count));
    }
  }

  void Predicate() {
    ReadObject(json_, file_, "the predicate", {"resources", "serialization"},
               [&](const std::string& key) {
                 if (key == "resources") {
                   json_.BeginArray();
                   while (json_.NextElement()) Resource();
                 } else if (key == "serialization") {
                   Serialization();
                 } else {
                   json_.SkipValue();
                 }
               });
  }

  void Resource() {
    SignedFile signed_file;
    std::string digest;
    ReadObject(json_, file_, "a resource", {"name", "algorithm", "digest"},
               [&](const std::string& key) {
                 if (key == "name") {
                   signed_file.name = json_.String();
                 } else if (key == "algorithm") {
                   RequireSha256("algorithm");
                 } else if (key == "digest") {
                   signed_file.sha256 = Digest("a resource");
                 } else {
                   json_.SkipValue();
                 }
               });
    if (signed_file.name != "." && !OutsidePath(signed_file.name).empty()) {
      FailSignature(
          file_,
          fmt::format(
              "the signed statement names the file {}, which is not a plain path within the model",
              QuoteForMessage(signed_file.name)));
    }
    if (!names_.insert(signed_file.name).second) {
      FailSignature(file_, fmt::format("the signed statement names the file {} twice",
                                       QuoteForMessage(signed_file.name)));
    }
    statement_.files.push_back(std::move(signed_file));
  }

  void RequireSha256(std::string_view what) {
    const std::string found(json_.String());
    if (found == "sha256") return;
    FailSignature(file_, fmt::format("{} is {}, and only 'sha256' is understood here", what,
                                     QuoteForMessage(found)));
  }

  void Serialization() {
    ReadObject(json_, file_, "the serialization", {"method", "hash_type", "allow_symlinks"},
               [&](const std::string& key) {
                 if (key == "method") {
                   const std::string method(json_.String());
                   if (method == "files") return;
                   FailSignature(file_, fmt::format("the signature's method is {}, and only "
                                                    "'files' is understood here",
                                                    QuoteForMessage(method)));
                 } else if (key == "hash_type") {
                   RequireSha256("hash_type");
                 } else if (key == "allow_symlinks") {
                   if (json_.Peek() != JsonType::kBool) {
                     json_.FailExpected("true or false", json_.offset());
                   }
                   statement_.allow_symlinks = json_.SkipValue() == "true";
                 } else if (key == "ignore_paths") {
                   json_.BeginArray();
                   while (json_.NextElement()) statement_.ignore_paths.emplace_back(json_.String());
                 } else {
                   json_.SkipValue();
                 }
               });
  }

  const std::string& file_;
  JsonReader json_;
  SignatureStatement statement_;
  std::set<std::string> names_;
};

}  // namespace

std::string RootDigest(const std::vector<SignedFile>& files) {
  Sha256 hash;
  for (const SignedFile& file : files) {
    std::string raw;
    for (std::size_t i = 0; i + 1 < file.sha256.size(); i += 2) {
      raw += static_cast<char>(HexValue(file.sha256[i]) * 16 + HexValue(file.sha256[i + 1]));
    }
    hash.Update(std::as_bytes(std::span(raw)));
  }
  return hash.FinishHex();
}

std::string StatementText(const SignatureStatement& statement) {
  JsonWriter json(0);
  json.BeginObject();
  json.String("_type", kStatementType);
  json.BeginArray("subject");
  json.BeginObject();
  json.String("name", statement.subject);
  json.BeginObject("digest");
  json.String("sha256", RootDigest(statement.files));
  json.EndObject();
  json.EndObject();
  json.EndArray();
  json.String("predicateType", kPredicateType);
  json.BeginObject("predicate");
  json.BeginObject("serialization");
  json.String("method", "files");
  json.String("hash_type", "sha256");
  json.Bool("allow_symlinks", statement.allow_symlinks);
  json.Strings("ignore_paths", statement.ignore_paths);
  json.EndObject();
  json.BeginArray("resources");
  for (const SignedFile& file : statement.files) {
    json.BeginObject();
    json.String("name", file.name);
    json.String("algorithm", "sha256");
    json.String("digest", file.sha256);
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  json.EndObject();
  return json.Take();
}

SignatureStatement ParseStatement(std::string_view text, const std::string& file) {
  return StatementParser(text, file).Parse();
}

bool ComponentsLess(std::string_view a, std::string_view b) {
  // '/' ends a component, and the end of one comes before any character.
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    const auto rank = [](char c) { return c == '/' ? 0 : static_cast<unsigned char>(c) + 1; };
    return rank(x) < rank(y);
  });
}

}  // namespace dsv3::formats
