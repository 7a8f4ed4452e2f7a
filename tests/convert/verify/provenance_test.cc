#include "convert/verify/provenance.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/manifest.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::IsEmpty;
using ::testing::Pair;
using testing::ReadFile;
using testing::WriteFile;

class ProvenanceTest : public ::testing::Test {
 protected:
  ProvenanceTest() {
    testing::SmallFp8Checkpoint().Write(in_);
    testing::Conversion(in_, out_).Run();
    testing::Create(in_, false);
  }

  formats::Manifest Read(const fs::path& directory) const {
    return formats::ParseManifest(ReadFile(directory / formats::kManifestName), "manifest");
  }
  void Write(const fs::path& directory, const formats::Manifest& manifest) const {
    WriteFile(directory / formats::kManifestName, formats::SerializeManifest(manifest));
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  fs::path in_ = dir_ / "in";
  fs::path out_ = dir_ / "out";
};

TEST_F(ProvenanceTest, TellsRulesAndSourcesFromTheManifestAlone) {
  for (const auto& entry : fs::directory_iterator(out_)) {
    if (entry.path().extension() == ".safetensors") fs::remove(entry.path());
  }
  const ProvenanceReport report = TraceProvenance({out_, {}});
  EXPECT_EQ(report.recipe, "fp8-to-bf16");
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_EQ(report.tensors.size(), Read(out_).tensors.size());
  EXPECT_THAT(report.rules, Contains(Pair("dequantize", 5U)));
  const auto found =
      std::find_if(report.tensors.begin(), report.tensors.end(),
                   [](const ProvenanceTensor& tensor) { return tensor.name == "a.weight"; });
  ASSERT_NE(found, report.tensors.end());
  EXPECT_EQ(found->rule, "dequantize");
  ASSERT_EQ(found->sources.size(), 2U);
  EXPECT_EQ(found->sources[1].source.name, "a.weight_scale_inv");
  EXPECT_EQ(found->sources[1].match, SourceMatch::kNotCompared);
}

TEST_F(ProvenanceTest, EverySourceTensorMatchesTheSourcesManifest) {
  const ProvenanceReport report = TraceProvenance({out_, in_});
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_EQ(report.matching, testing::SmallFp8Checkpoint().tensors.size());
  EXPECT_EQ(report.differing + report.unknown, 0U);
  EXPECT_EQ(report.source_recipe, "");
  EXPECT_EQ(report.source_content_digest, Read(in_).content_digest);
}

TEST_F(ProvenanceTest, ListsWhatDiffersAndWhatIsUnknown) {
  formats::Manifest source = Read(in_);
  const auto find = [&](const std::string& name) {
    return std::find_if(source.tensors.begin(), source.tensors.end(),
                        [&](const auto& tensor) { return tensor.name == name; });
  };
  find("a.weight_scale_inv")->xxh3 = std::string(32, '0');
  source.tensors.erase(find("norm.weight"));
  Write(in_, source);
  const ProvenanceReport report = TraceProvenance({out_, in_});
  EXPECT_EQ(report.differing, 1U);
  EXPECT_EQ(report.unknown, 1U);
  EXPECT_THAT(testing::Kinds(report.verification),
              ::testing::UnorderedElementsAre("source-differs", "source-unknown"));
  EXPECT_FALSE(report.verification.Passes(false));
}

TEST_F(ProvenanceTest, TellsTwoSourcesApart) {
  // The scales come from another checkpoint, which has tensors of the same names.
  formats::Manifest output = Read(out_);
  for (formats::ManifestTensor& tensor : output.tensors) {
    formats::ManifestSource other = tensor.sources[0];
    other.checkpoint = "original";
    other.xxh3 = std::string(32, 'f');
    tensor.sources.push_back(other);
  }
  Write(out_, output);
  ProvenanceReport report = TraceProvenance({out_, in_});
  EXPECT_EQ(report.differing, 0U);
  EXPECT_EQ(report.unknown, 0U);
  EXPECT_TRUE(report.verification.Passes(/*strict=*/true));
  formats::Manifest other = Read(in_);
  for (formats::ManifestTensor& tensor : other.tensors) tensor.xxh3 = std::string(32, 'f');
  fs::create_directory(dir_ / "other");
  Write(dir_ / "other", other);
  report = TraceProvenance({out_, dir_ / "other"});
  EXPECT_EQ(report.differing, 0U);
  EXPECT_EQ(report.matching, output.tensors.size());
}

TEST_F(ProvenanceTest, LooksInTheFileThatIsTold) {
  // Two files of the source hold a tensor of this name, as rank shards do.
  formats::Manifest source = Read(in_);
  const auto tensor = std::find_if(source.tensors.begin(), source.tensors.end(),
                                   [](const auto& one) { return one.name == "norm.weight"; });
  const std::string file = tensor->file;
  const std::string other = source.files.at(file == source.files[0].name ? 1 : 0).name;
  formats::ManifestTensor twin = *tensor;
  twin.file = other;
  twin.xxh3 = std::string(32, 'f');
  source.tensors.push_back(twin);
  Write(in_, source);
  const auto trace = [&](const std::string& told) {
    formats::Manifest output = Read(out_);
    for (formats::ManifestTensor& one : output.tensors) {
      if (one.name == "norm.weight") one.sources[0].file = told;
    }
    Write(out_, output);
    return TraceProvenance({out_, in_});
  };
  EXPECT_EQ(trace("").differing, 0U);
  EXPECT_EQ(trace(file).differing, 0U);
  const ProvenanceReport differs = trace(other);
  EXPECT_EQ(differs.differing, 1U);
  ASSERT_EQ(differs.verification.findings.size(), 1U);
  EXPECT_THAT(differs.verification.findings[0].message,
              ::testing::HasSubstr("has " + std::string(32, 'f') + ";"));
  EXPECT_EQ(trace("elsewhere").unknown, 1U);
}

TEST_F(ProvenanceTest, SaysWhereNoConversionTells) {
  const ProvenanceReport report = TraceProvenance({in_, {}});
  EXPECT_EQ(report.recipe, "");
  EXPECT_THAT(testing::Kinds(report.verification), ElementsAre("no-provenance"));
  EXPECT_TRUE(report.verification.Passes(false));
  fs::remove(in_ / formats::kManifestName);
  EXPECT_EQ(ErrorOf([&] { TraceProvenance({in_, {}}); }).code(), ErrorCode::kBadInput);
  EXPECT_EQ(ErrorOf([&] { TraceProvenance({out_, in_}); }).code(), ErrorCode::kBadInput);
}

}  // namespace
}  // namespace dsv3::convert
