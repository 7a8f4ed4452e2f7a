#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/verify/provenance.h"
#include "formats/manifest.h"
#include "formats/rank_layout.h"
#include "formats/safetensors.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/files.h"

// Directories of rank shards: files that hold tensors of the same names, and no index.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::ReadFile;
using testing::WriteFile;

constexpr char kRank0[] = "model-rank-0-part-0.safetensors";
constexpr char kRank1[] = "model-rank-1-part-0.safetensors";
constexpr char kCut[] = "cut.weight";    // each rank has another half
constexpr char kNorm[] = "norm.weight";  // both have all of it

class ChecksumRanksTest : public testing::ChecksumTest {
 protected:
  ChecksumRanksTest() {
    fs::remove_all(model_);
    WriteRank(kRank0, 1);
    WriteRank(kRank1, 2);
    WriteLayout({kRank0, kRank1});
  }

  // Of one rank that loads the files.
  void WriteLayout(const std::vector<std::string>& files) const {
    formats::RankLayout layout;
    layout.format = "hf-rank";
    layout.job = std::string(32, '0');
    layout.grouping = "rank";
    layout.on_misaligned = "error";
    layout.source_files.push_back({"model.safetensors", 16, "{}      "});
    formats::LayoutRank& rank = layout.ranks.emplace_back();
    for (const std::string& name : files) {
      rank.files.push_back(static_cast<std::uint32_t>(layout.files.size()));
      layout.files.push_back({name, fs::file_size(model_ / name), "", std::string(32, '0')});
    }
    WriteFile(model_ / "layout.json", formats::SerializeRankLayout(layout));
  }

  void WriteRank(const std::string& name, std::uint64_t seed) const {
    std::vector<formats::SafetensorsTensor> tensors(2);
    tensors[0].name = kCut;
    tensors[1].name = kNorm;
    for (formats::SafetensorsTensor& tensor : tensors) tensor.shape = {64};
    formats::LayOutTensors(tensors);
    WriteFile(model_ / name, formats::SerializeSafetensorsHeader(tensors, {}) +
                                 testing::RandomBytes(64, seed) + testing::RandomBytes(64, 7));
  }
  // The first byte of a tensor's data.
  std::size_t Offset(const std::string& file, const std::string& tensor) const {
    const auto header = formats::ReadSafetensorsHeader(model_ / file, file);
    for (const formats::SafetensorsTensor& entry : header.tensors) {
      if (entry.name == tensor) return static_cast<std::size_t>(header.data_offset + entry.begin);
    }
    return 0;
  }
  // Gives every tensor of the manifest a rule and a source that say where it is from.
  void WriteProvenance() {
    formats::Manifest manifest = Manifest();
    manifest.job.recipe = "reshard";
    for (formats::ManifestTensor& tensor : manifest.tensors) {
      tensor.rule = "slice of " + tensor.file;
      formats::ManifestSource source;
      source.name = tensor.name;
      source.shape = {128};
      tensor.sources.push_back(source);
    }
    WriteFile(model_ / formats::kManifestName, formats::SerializeManifest(manifest));
  }
};

TEST_F(ChecksumRanksTest, NamesTheFileOfEachSpoiltTensor) {
  const CreateChecksumsReport created = Create();
  ASSERT_TRUE(created.written);
  EXPECT_EQ(created.tensors, 4U);
  EXPECT_THAT(Check().verification.findings, IsEmpty());
  for (const char* file : {kRank0, kRank1}) {
    for (const char* tensor : {kCut, kNorm}) {
      const std::size_t offset = Offset(file, tensor);
      Spoil(file, offset);
      const formats::Findings findings = Check().verification.findings;
      Spoil(file, offset);
      ASSERT_EQ(findings.size(), 2U);
      EXPECT_EQ(findings[0].kind + findings[0].file, std::string("wrong-digest") + file);
      EXPECT_EQ(findings[1].kind, "wrong-tensor-digest");
      EXPECT_EQ(findings[1].file, file);
      EXPECT_EQ(findings[1].tensor, tensor);
    }
  }
  Spoil("layout.json", 0);
  EXPECT_THAT(Kinds(), ElementsAre("wrong-digest"));
}

TEST_F(ChecksumRanksTest, FindsSwappedRanks) {
  Create();
  const std::string rank0 = ReadFile(model_ / kRank0);
  WriteFile(model_ / kRank0, ReadFile(model_ / kRank1));
  WriteFile(model_ / kRank1, rank0);
  const Verification found = Check().verification;
  EXPECT_THAT(testing::Kinds(found), ElementsAre("wrong-digest", "wrong-tensor-digest",
                                                 "wrong-digest", "wrong-tensor-digest"));
  EXPECT_EQ(found.findings[1].tensor, kCut);
}

TEST_F(ChecksumRanksTest, ASecondCreateKeepsTheProvenanceOfEachFile) {
  Create();
  WriteProvenance();
  const std::string written = ReadFile(model_ / formats::kManifestName);
  fs::remove(model_ / "SHA256SUMS");
  const CreateChecksumsReport again = Create();
  EXPECT_TRUE(again.written);
  EXPECT_TRUE(again.kept_provenance);
  EXPECT_EQ(ReadFile(model_ / formats::kManifestName), written);
  // Its tensors are still the ones that were made, now elsewhere.
  fs::rename(model_ / kRank1, model_ / "moved.safetensors");
  WriteLayout({kRank0, "moved.safetensors"});
  Create(/*overwrite=*/true);
  for (const formats::ManifestTensor& tensor : Manifest().tensors) {
    const std::string of = tensor.file == kRank0 || tensor.name == kNorm ? kRank0 : kRank1;
    EXPECT_EQ(tensor.rule, "slice of " + of) << tensor.file << " " << tensor.name;
  }
}

TEST_F(ChecksumRanksTest, ATensorOfASourceOfRanksMatchesAnyOfItsName) {
  Create();
  // A model that was merged from the ranks, its first tensor from both.
  formats::Manifest merged = Manifest();
  merged.job.recipe = "merge";
  formats::ManifestTensor whole = merged.tensors[0];
  whole.rule = "assemble";
  whole.sources.clear();
  for (const formats::ManifestTensor& slice : merged.tensors) {
    formats::ManifestSource source;
    source.name = slice.name;
    source.shape = slice.shape;
    source.xxh3 = slice.xxh3;
    whole.sources.push_back(source);
  }
  merged.tensors = {whole};
  const auto trace = [&] {
    WriteFile(dir_ / "merged" / formats::kManifestName, formats::SerializeManifest(merged));
    return TraceProvenance({dir_ / "merged", model_});
  };
  EXPECT_EQ(trace().matching, 4U);
  merged.tensors[0].sources[0].xxh3 = std::string(32, '0');
  merged.tensors[0].sources[1].xxh3.clear();
  const ProvenanceReport report = trace();
  EXPECT_EQ(report.matching, 2U);
  EXPECT_EQ(report.differing, 1U);
  EXPECT_EQ(report.without_digest, 1U);
  EXPECT_EQ(report.tensors[0].sources[1].match, SourceMatch::kNotCompared);
}

}  // namespace
}  // namespace dsv3::convert
