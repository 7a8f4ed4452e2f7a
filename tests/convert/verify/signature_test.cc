#include "convert/verify/signature.h"

#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "formats/manifest.h"
#include "formats/signature_bundle.h"
#include "formats/signature_key.h"
#include "formats/signature_statement.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/signature_vectors.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/other_user.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::ExpectBadInput;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kSignatureVectors;
using testing::kSignedModel;
using testing::ReadFile;
using testing::SignatureVector;
using testing::TempDir;
using testing::WriteFile;

class SignatureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& file : kSignedModel) WriteFile(model_ / file.name, file.content);
    for (const SignatureVector& vector : kSignatureVectors) {
      WriteFile(dir_ / (std::string(vector.curve) + ".pem"), vector.private_key);
      WriteFile(dir_ / (std::string(vector.curve) + ".pub"), vector.public_key);
    }
  }

  SignReport Sign(const std::function<void(SignRequest&)>& change = [](SignRequest&) {}) {
    SignRequest request;
    request.model = model_;
    request.key = dir_ / "P-256.pem";
    request.threads = 1;
    change(request);
    return SignModel(request, formats::PosixFileSystem(), progress_, stop_);
  }

  VerifySignatureReport Verify(const std::string& curve = "P-256", const fs::path& model = {},
                               const fs::path& signature = {}) {
    VerifySignatureRequest request;
    request.model = model.empty() ? model_ : model;
    request.key = dir_ / (curve + ".pub");
    request.signature = signature;
    request.threads = 1;
    return VerifySignature(request, progress_, stop_);
  }

  // "kind file" of each finding.
  std::vector<std::string> Findings(const std::string& curve = "P-256") {
    std::vector<std::string> found;
    for (const formats::Finding& finding : Verify(curve).verification.findings) {
      found.push_back(finding.kind + " " + finding.file);
    }
    return found;
  }

  formats::SignatureStatement SignedStatement() const {
    return formats::ParseStatement(
        formats::ParseBundle(ReadFile(model_ / "model.sig"), "model.sig").payload, "model.sig");
  }

  // Signs any payload with the P-256 key.
  void WriteSignature(const std::string& payload) {
    const auto& vector = kSignatureVectors[0];
    const auto key = formats::SigningKey::FromPem(std::string(vector.private_key), "key");
    WriteFile(model_ / "model.sig",
              formats::BundleText(
                  {key.hint(), payload, key.Sign(formats::PreAuthenticationEncoding(payload))}));
  }

  TempDir dir_;
  fs::path model_ = dir_ / "model";
  ProgressSink progress_;
  StopToken stop_;
};

TEST_F(SignatureTest, AFileThatCannotBeReadIsFoundBeforeTheOthersAreRead) {
  for (const fs::path& open : {dir_.path(), model_}) fs::permissions(open, fs::perms::all);
  fs::permissions(model_ / "sub-a", fs::perms::none);
  SignRequest request;
  request.model = model_;
  request.key = dir_ / "P-256.pem";
  testing::CountingSink progress;
  const Error error = ErrorOf([&] {
    const testing::OtherUser user;
    SignModel(request, formats::PosixFileSystem(), progress, stop_);
  });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.message(), HasSubstr("sub-a"));
  EXPECT_EQ(progress.phase(), "");
}

TEST_F(SignatureTest, VerifiesWhatThePythonToolSigned) {
  WriteFile(model_ / ".gitignore", "not signed\n");
  for (const SignatureVector& vector : kSignatureVectors) {
    WriteFile(model_ / "model.sig", vector.bundle);
    const VerifySignatureReport report = Verify(std::string(vector.curve));
    EXPECT_TRUE(report.authentic);
    EXPECT_EQ(report.curve, vector.curve);
    EXPECT_EQ(report.subject, "model");
    EXPECT_EQ(report.files, 3U);
    EXPECT_THAT(report.verification.findings, IsEmpty());
    EXPECT_THAT(report.verification.files, ElementsAre("config.json", "sub-a", "sub/x"));
  }
}

TEST_F(SignatureTest, VerifiesWhatItSignedWithEveryCurve) {
  for (const SignatureVector& vector : kSignatureVectors) {
    const std::string curve(vector.curve);
    const SignReport report =
        Sign([&](SignRequest& request) { request.key = dir_ / (curve + ".pem"); });
    EXPECT_EQ(report.signature, model_ / "model.sig");
    EXPECT_EQ(report.curve, curve);
    EXPECT_EQ(report.files, 3U);
    EXPECT_EQ(report.bytes, 9U);
    EXPECT_EQ(report.trusted_files, 0U);
    EXPECT_FALSE(fs::exists(model_ / "model.sig.partial"));
    EXPECT_THAT(Findings(curve), IsEmpty());
  }
}

// The order of files decides the root digest, so it must be the Python tool's.
TEST_F(SignatureTest, SignsTheFilesInTheToolsOrder) {
  const SignReport report = Sign();
  const formats::SignatureStatement ours = SignedStatement();
  const formats::SignatureStatement theirs =
      formats::ParseStatement(formats::ParseBundle(kSignatureVectors[0].bundle, "f").payload, "f");
  EXPECT_EQ(report.root_digest, theirs.root_digest);
  ASSERT_EQ(ours.files.size(), theirs.files.size());
  for (std::size_t i = 0; i < ours.files.size(); ++i) {
    EXPECT_EQ(ours.files[i].name, theirs.files[i].name);
    EXPECT_EQ(ours.files[i].sha256, theirs.files[i].sha256);
  }
  EXPECT_EQ(ours.subject, "model");
  EXPECT_FALSE(ours.allow_symlinks);
  EXPECT_THAT(ours.ignore_paths, ElementsAre(".cache/huggingface", ".git", ".gitattributes",
                                             ".github", ".gitignore", "model.sig"));
}

TEST_F(SignatureTest, NamesEveryFileThatChangedIsMissingOrWasAdded) {
  WriteFile(model_ / "also", "x");
  Sign();
  WriteFile(model_ / "config.json", "{ }\n");
  WriteFile(model_ / "sub/x", "twO");
  fs::remove(model_ / "sub-a");
  WriteFile(model_ / "sub/new", "");
  EXPECT_THAT(Findings(), ElementsAre("wrong-digest config.json", "missing-file sub-a",
                                      "extra-file sub/new", "wrong-digest sub/x"));
}

TEST_F(SignatureTest, LeavesOutGitTheHubAndTheSignatureAtTheTopOnly) {
  const std::vector<std::string> ignored = {".git/config", ".gitattributes", ".gitignore",
                                            ".github/workflows/x.yml",
                                            ".cache/huggingface/download/config.json.metadata"};
  for (const std::string& name : ignored) WriteFile(model_ / name, "1");
  Sign();
  for (const std::string& name : ignored) WriteFile(model_ / name, "2");
  EXPECT_THAT(Findings(), IsEmpty());
  WriteFile(model_ / "sub/.gitignore", "1");
  WriteFile(model_ / ".cache/other", "1");
  WriteFile(model_ / ".gitignored", "1");
  EXPECT_THAT(Findings(), ElementsAre("extra-file .cache/other", "extra-file .gitignored",
                                      "extra-file sub/.gitignore"));
}

TEST_F(SignatureTest, ChecksSignedFilesAlsoWhereOthersAreIgnored) {
  WriteFile(model_ / ".git/config", "1");
  formats::SignatureStatement statement;
  statement.subject = "model";
  statement.ignore_paths = {"sub", "config.json", "sub-a"};
  statement.files = {{".git/config", std::string(64, '0')}, {"sub/x", std::string(64, '0')}};
  statement.root_digest = formats::RootDigest(statement.files);
  WriteSignature(formats::StatementText(statement));
  EXPECT_THAT(Findings(), ElementsAre("wrong-digest .git/config", "wrong-digest sub/x"));
}

TEST_F(SignatureTest, SignatureMayLieElsewhere) {
  const fs::path outside = dir_ / "signatures/a.sig";
  fs::create_directories(outside.parent_path());
  Sign([&](SignRequest& request) { request.signature = outside; });
  EXPECT_FALSE(fs::exists(model_ / "model.sig"));
  EXPECT_THAT(Verify("P-256", {}, outside).verification.findings, IsEmpty());
  const fs::path inside = model_ / "sub/b.sig";
  Sign([&](SignRequest& request) { request.signature = inside; });
  EXPECT_THAT(Verify("P-256", {}, inside).verification.findings, IsEmpty());
}

TEST_F(SignatureTest, SaysThatAnotherKeySigned) {
  Sign();
  const VerifySignatureReport report = Verify("P-384");
  EXPECT_FALSE(report.authentic);
  ASSERT_EQ(report.verification.findings.size(), 1U);
  EXPECT_EQ(report.verification.findings[0].kind, "wrong-key");
  EXPECT_THAT(report.verification.findings[0].message, HasSubstr("another key"));
  EXPECT_EQ(report.subject, "");
}

TEST_F(SignatureTest, SaysThatTheStatementWasChanged) {
  Sign();
  formats::SignatureBundle bundle =
      formats::ParseBundle(ReadFile(model_ / "model.sig"), "model.sig");
  const std::string from = "\"allow_symlinks\":false";
  bundle.payload.replace(bundle.payload.find(from), from.size(), "\"allow_symlinks\":true");
  WriteFile(model_ / "model.sig", formats::BundleText(bundle));
  EXPECT_THAT(Findings(), ElementsAre("wrong-signature model.sig"));
}

TEST_F(SignatureTest, SignatureWithoutAHintIsJudgedByTheKeyAlone) {
  Sign();
  formats::SignatureBundle bundle =
      formats::ParseBundle(ReadFile(model_ / "model.sig"), "model.sig");
  bundle.hint.clear();
  WriteFile(model_ / "model.sig", formats::BundleText(bundle));
  EXPECT_THAT(Findings(), IsEmpty());
  EXPECT_THAT(Findings("P-384"), ElementsAre("wrong-signature model.sig"));
}

TEST_F(SignatureTest, RejectsAStatementThatContradictsItself) {
  Sign();
  formats::SignatureStatement statement = SignedStatement();
  std::string text = formats::StatementText(statement);
  const std::string root = formats::RootDigest(statement.files);
  text.replace(text.find(root), root.size(), std::string(64, '0'));
  WriteSignature(text);
  ExpectBadInput([&] { Verify(); }, "model.sig", "contradicts itself", root);
}

TEST_F(SignatureTest, RejectsAMissingOrMalformedSignature) {
  ExpectBadInput([&] { Verify(); }, "model.sig");
  WriteFile(model_ / "model.sig", "");
  ExpectBadInput([&] { Verify(); }, "model.sig");
  WriteSignature("no JSON");
  ExpectBadInput([&] { Verify(); }, "model.sig", "statement");
}

TEST_F(SignatureTest, FollowsLinksOnlyWhereTheSignatureSaysSo) {
  Sign();
  fs::remove(model_ / "sub-a");
  fs::create_symlink("sub/x", model_ / "sub-a");
  WriteFile(model_ / "sub/x", "two");
  EXPECT_THAT(Findings(), ElementsAre("symlink sub-a"));
  const SignReport report = Sign();
  EXPECT_TRUE(report.symlinks);
  EXPECT_TRUE(SignedStatement().allow_symlinks);
  EXPECT_THAT(Findings(), IsEmpty());
}

TEST_F(SignatureTest, RefusesWhatCannotBeSigned) {
  fs::create_directory_symlink("sub", model_ / "link");
  ExpectBadInput([&] { Sign(); }, ": link is ", "symbolic link to a directory");
  fs::remove(model_ / "link");
  fs::create_symlink("nowhere", model_ / "link");
  ExpectBadInput([&] { Sign(); }, ": link is ", "leads nowhere");
  fs::remove(model_ / "link");
  ASSERT_EQ(::mkfifo((model_ / "pipe").c_str(), 0600), 0);
  ExpectBadInput([&] { Sign(); }, ": pipe is ", "no regular file");
  fs::remove(model_ / "pipe");
  WriteFile(model_ / "a\xff", "");
  ExpectBadInput([&] { Sign(); }, "$'a\\xff'", "UTF-8");
  EXPECT_FALSE(fs::exists(model_ / "model.sig"));
}

TEST_F(SignatureTest, RefusesAnUnfinishedConversionAndAnEmptyModel) {
  WriteFile(model_ / ".dsv3-journal", "");
  EXPECT_EQ(ErrorOf([&] { Sign(); }).code(), ErrorCode::kUsage);
  fs::remove_all(model_);
  fs::create_directories(model_);
  ExpectBadInput([&] { Sign(); }, "no file to sign");
}

TEST_F(SignatureTest, ReplacesASignatureAndNothingElse) {
  Sign();
  WriteFile(model_ / "model.sig.partial", "of a killed run");
  Sign();
  EXPECT_THAT(Findings(), IsEmpty());
  const Error error = ErrorOf(
      [&] { Sign([&](SignRequest& request) { request.signature = model_ / "config.json"; }); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("not replaced"));
  EXPECT_EQ(ReadFile(model_ / "config.json"), "{}\n");
}

TEST_F(SignatureTest, SignsASingleFileAsThePythonToolNamesIt) {
  const fs::path file = model_ / "config.json";
  EXPECT_EQ(ErrorOf([&] { Sign([&](SignRequest& request) { request.model = file; }); }).code(),
            ErrorCode::kUsage);
  const fs::path signature = dir_ / "one.sig";
  Sign([&](SignRequest& request) {
    request.model = file;
    request.signature = signature;
  });
  EXPECT_THAT(ReadFile(signature), HasSubstr("dsseEnvelope"));
  EXPECT_THAT(Verify("P-256", file, signature).verification.findings, IsEmpty());
  WriteFile(file, "changed");
  const auto findings = Verify("P-256", file, signature).verification.findings;
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].file, "config.json");
}

class SignWithManifestTest : public SignatureTest {
 protected:
  void WriteManifest(const std::string& sha256) {
    formats::Manifest manifest;
    for (const char* name : {"config.json", "sub/x"}) {
      formats::ManifestFile file;
      file.name = name;
      file.bytes = fs::file_size(model_ / name);
      file.sha256 = sha256;
      manifest.files.push_back(file);
    }
    WriteFile(model_ / formats::kManifestName, formats::SerializeManifest(manifest));
  }

  SignReport SignByManifest() {
    return Sign([](SignRequest& request) { request.use_manifest = true; });
  }
};

TEST_F(SignWithManifestTest, TakesItsDigestsWithoutReading) {
  WriteManifest(std::string(64, '7'));  // so it shows that they were taken
  const SignReport report = SignByManifest();
  EXPECT_EQ(report.files, 4U);
  EXPECT_EQ(report.trusted_files, 2U);
  EXPECT_EQ(report.trusted_bytes, 6U);
  EXPECT_THAT(Findings(), ElementsAre("wrong-digest config.json", "wrong-digest sub/x"));
}

TEST_F(SignWithManifestTest, RefusesOneThatDoesNotFit) {
  WriteManifest(std::string(64, '7'));
  WriteFile(model_ / "sub/x", "longer");
  Error error = ErrorOf([&] { SignByManifest(); });
  EXPECT_EQ(error.code(), ErrorCode::kVerification);
  EXPECT_THAT(error.message(), HasSubstr("sub/x has 3 bytes there and 6 bytes here"));
  fs::remove(model_ / "sub/x");
  error = ErrorOf([&] { SignByManifest(); });
  EXPECT_EQ(error.code(), ErrorCode::kVerification);
  EXPECT_THAT(error.message(), HasSubstr("missing here"));
  EXPECT_FALSE(fs::exists(model_ / "model.sig"));
}

TEST_F(SignWithManifestTest, RefusesToGoOnWithoutOne) {
  ExpectBadInput([&] { SignByManifest(); }, "there is no manifest", "checksum create");
  WriteManifest("");
  ExpectBadInput([&] { SignByManifest(); }, "no SHA-256", "config.json");
}

TEST_F(SignatureTest, WhetherTheSignatureCanBeWrittenIsTriedFirst) {
  testing::FaultyFileSystem read_only(formats::PosixFileSystem(), 0, EACCES,
                                      testing::FaultyFileSystem::Failing::kFromThenOn);
  SignRequest request;
  request.model = model_;
  request.key = dir_ / "P-256.pem";
  StopToken stop;
  stop.RequestStop();  // whoever reads a file is interrupted
  const Error error = ErrorOf([&] { SignModel(request, read_only, progress_, stop); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.message(), HasSubstr("--signature FILE"));
}

TEST_F(SignatureTest, RefusesWhatIsNotWhole) {
  WriteFile(model_ / "model-00001-of-00002.safetensors.part", "x");
  ExpectBadInput([&] { Sign(); }, "model-00001-of-00002.safetensors.part", "signing is refused");
  EXPECT_FALSE(fs::exists(model_ / "model.sig"));
}

TEST_F(SignatureTest, RefusesAShardThatIsCutOff) {
  WriteFile(model_ / "model.safetensors", std::string("\x40\0\0\0\0\0\0\0{", 9));
  ExpectBadInput([&] { Sign(); }, "model.safetensors", "signing is refused");
}

TEST_F(SignatureTest, RefusesASingleFileThatIsCutOff) {
  const fs::path file = dir_ / "alone.safetensors";
  const auto sign = [&] {
    Sign([&](SignRequest& request) {
      request.model = file;
      request.signature = dir_ / "alone.sig";
    });
  };
  const std::string whole("\x08\0\0\0\0\0\0\0{}      ", 16);
  WriteFile(file, whole.substr(0, 15));
  ExpectBadInput(sign, "alone.safetensors", "signing is refused");
  WriteFile(file, whole);
  sign();
}

}  // namespace
}  // namespace dsv3::convert
