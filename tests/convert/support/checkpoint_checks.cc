#include "tests/convert/support/checkpoint_checks.h"

#include <map>
#include <string>

#include <gtest/gtest.h>

#include "convert/verify/checksum.h"
#include "convert/verify/numeric.h"
#include "convert/verify/provenance.h"
#include "convert/verify/structure.h"
#include "formats/manifest.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSums = "SHA256SUMS";

formats::Manifest ManifestOf(const fs::path& directory) {
  return formats::ParseManifest(ReadFile(directory / formats::kManifestName),
                                std::string(formats::kManifestName));
}

convert::CreateChecksumsReport CreateChecksums(const fs::path& directory) {
  convert::CreateChecksumsRequest request;
  request.directory = directory;
  request.threads = 1;
  QuickFileSystem file_system;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::CreateChecksums(request, file_system, progress, stop);
}

convert::CheckChecksumsReport CheckChecksums(const fs::path& directory) {
  convert::CheckChecksumsRequest request;
  request.directory = directory;
  request.threads = 1;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::CheckChecksums(request, progress, stop);
}

}  // namespace

std::string Messages(const formats::Findings& findings) {
  std::string messages;
  for (const formats::Finding& finding : findings) messages += finding.message + "\n";
  return messages;
}

void ExpectWithoutFindings(const fs::path& directory) {
  const convert::StructureReport structure = convert::VerifyStructure({directory});
  EXPECT_EQ(Messages(structure.verification.findings), "") << "structure";
  convert::NumericRequest request;
  request.input = directory;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  const convert::NumericReport numeric = convert::VerifyNumeric(request, progress, stop);
  EXPECT_EQ(Messages(numeric.verification.findings), "") << "numeric";
  EXPECT_EQ(numeric.tensors.size(), structure.tensors);
}

void ExpectManifest(const fs::path& directory) { EXPECT_TRUE(CreateChecksums(directory).written); }

void ExpectSoundChecksums(const fs::path& directory, const fs::path& copy) {
  const convert::CheckChecksumsReport report = CheckChecksums(directory);
  EXPECT_EQ(Messages(report.verification.findings), "") << "checksum check";
  EXPECT_EQ(report.basis, convert::CheckChecksumsReport::Basis::kManifest);
  const formats::Manifest streamed = ManifestOf(directory);
  EXPECT_EQ(report.tensors, streamed.tensors.size());

  fs::copy(directory, copy, fs::copy_options::recursive);
  fs::remove(copy / formats::kManifestName);
  const convert::CreateChecksumsReport created = CreateChecksums(copy);
  EXPECT_TRUE(created.written);
  EXPECT_EQ(created.content_digest, streamed.content_digest);
  const formats::Manifest read = ManifestOf(copy);
  ASSERT_EQ(read.files.size(), streamed.files.size());
  for (std::size_t i = 0; i < read.files.size(); ++i) {
    EXPECT_EQ(read.files[i].name, streamed.files[i].name);
    EXPECT_EQ(read.files[i].bytes, streamed.files[i].bytes) << read.files[i].name;
    EXPECT_EQ(read.files[i].sha256, streamed.files[i].sha256) << read.files[i].name;
  }
  ASSERT_EQ(read.tensors.size(), streamed.tensors.size());
  for (std::size_t i = 0; i < read.tensors.size(); ++i) {
    EXPECT_EQ(read.tensors[i].name, streamed.tensors[i].name);
    EXPECT_EQ(read.tensors[i].dtype, streamed.tensors[i].dtype) << read.tensors[i].name;
    EXPECT_EQ(read.tensors[i].shape, streamed.tensors[i].shape) << read.tensors[i].name;
    EXPECT_EQ(read.tensors[i].xxh3, streamed.tensors[i].xxh3) << read.tensors[i].name;
  }
  fs::remove_all(copy);

  const convert::CreateChecksumsReport again = CreateChecksums(directory);
  EXPECT_EQ(Messages(again.verification.findings), "") << "checksum create";
  EXPECT_TRUE(again.written && again.kept_provenance);
  EXPECT_EQ(Messages(CheckChecksums(directory).verification.findings), "") << "the second check";
}

void ExpectTraced(const fs::path& directory, const fs::path& source) {
  const convert::ProvenanceReport report = convert::TraceProvenance({directory, source});
  EXPECT_EQ(Messages(report.verification.findings), "") << "provenance";
  EXPECT_GT(report.matching, 0U);
  for (const convert::ProvenanceTensor& tensor : report.tensors) {
    EXPECT_FALSE(tensor.rule.empty()) << tensor.name;
    EXPECT_FALSE(tensor.sources.empty()) << tensor.name;
  }
}

convert::CompareReport Compare(const fs::path& a, const fs::path& b, double atol, double rtol) {
  convert::CompareRequest request;
  request.a = a;
  request.b = b;
  request.atol = atol;
  request.rtol = rtol;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::CompareCheckpoints(request, progress, stop);
}

void ExpectEqualValues(const fs::path& a, const fs::path& b) {
  const convert::CompareReport report = Compare(a, b);
  EXPECT_EQ(Messages(report.verification.findings), "") << "compare";
  EXPECT_GT(report.tensors.size(), 0U);
  EXPECT_EQ(report.counts.identical_bytes + report.counts.identical_values, report.tensors.size());
}

void ExpectSameFiles(const fs::path& a, const fs::path& b) {
  std::map<std::string, std::string> trees[] = {ReadTree(a), ReadTree(b)};
  for (auto& tree : trees) {
    tree.erase(std::string(formats::kManifestName));
    tree.erase(kSums);
  }
  for (const auto& [name, content] : trees[0]) {
    const auto other = trees[1].find(name);
    ASSERT_NE(other, trees[1].end()) << name << " is in the first directory alone";
    EXPECT_TRUE(other->second == content) << name << " differs";
  }
  EXPECT_EQ(trees[0].size(), trees[1].size());
}

}  // namespace dsv3::testing
