// dsv3-convert pack and unpack: what comes back, and what the packed checkpoint is.

#include "tests/convert/recipes/pack_test.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/unpack.h"
#include "formats/safetensors.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/thread_sharing.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using ::testing::HasSubstr;
using testing::PackTest;
using testing::ReadFile;
using testing::ReadTree;
using ::testing::UnorderedElementsAre;
using testing::WriteFile;
using Outcome = ConversionReport::Outcome;
using Tree = std::map<std::string, std::string>;

Tree Without(Tree tree, const std::string& name) {
  tree.erase(name);
  return tree;
}

TEST_F(PackTest, EveryFileComesBack) {
  const ConversionReport report = Pack();
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  EXPECT_EQ(report.tensors, 11U);
  EXPECT_EQ(report.files.size(), 5U);
  EXPECT_LT(report.output_bytes, report.source_bytes);
  Unpack();
  EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile), ReadTree(in()));
  EXPECT_TRUE(fs::exists(out() / testing::kManifestFile));
}

TEST_F(PackTest, AManifestOfInComesBackAndNoOtherIsWritten) {
  WriteFile(in() / testing::kManifestFile, "one that this version cannot read");
  Pack();
  EXPECT_EQ(ReadFile(packed() / testing::kManifestFile), "one that this version cannot read");
  Unpack();
  EXPECT_EQ(ReadTree(out()), ReadTree(in()));
  EXPECT_EQ(Unpack().outcome, Outcome::kNothingToDo);
  EXPECT_EQ(ReadTree(out()), ReadTree(in()));
  Flip(out() / testing::kManifestFile, 3);
  EXPECT_EQ(testing::ErrorOf([&] { Unpack(); }).code(), ErrorCode::kUsage);
}

TEST_F(PackTest, APackedFileIsSafetensorsAndOthersStayAsTheyAre) {
  Pack();
  const Tree original = ReadTree(in());
  Tree expected;
  for (const auto& [name, content] : original) {
    if (!name.ends_with(".safetensors")) expected[name] = content;
  }
  Tree found = ReadTree(packed());
  for (const auto& [name, content] : original) {
    if (!name.ends_with(".safetensors")) continue;
    const std::string packed_name = name + ".packed";
    ASSERT_EQ(found.count(packed_name), 1U) << packed_name;
    const formats::SafetensorsHeader header =
        formats::ReadSafetensorsHeader(packed() / packed_name, packed_name);
    const auto has = [&](const std::string& tensor) {
      return std::any_of(header.tensors.begin(), header.tensors.end(),
                         [&](const auto& each) { return each.name == tensor; });
    };
    EXPECT_TRUE(has("__header__")) << packed_name;
    for (const auto& tensor : header.tensors) EXPECT_EQ(tensor.dtype, formats::Dtype::kU8);
    found.erase(packed_name);
  }
  EXPECT_EQ(Without(found, "packed.json"), expected);
}

TEST_F(PackTest, PackedJsonHasTheDigests) {
  Pack();
  const PackedManifest manifest = Manifest();
  const Tree original = ReadTree(in());
  const Tree packed_files = ReadTree(packed());
  std::size_t files = 0;
  for (const auto& [name, content] : original) {
    if (name.ends_with("/")) continue;
    ++files;
    const PackedManifestFile* const file = manifest.FindFile(name);
    ASSERT_NE(file, nullptr) << name;
    EXPECT_EQ(file->bytes, content.size()) << name;
    EXPECT_EQ(file->sha256, testing::Sha256Of(content)) << name;
    if (!name.ends_with(".safetensors")) {
      EXPECT_FALSE(file->packed) << name;
      continue;
    }
    EXPECT_TRUE(file->packed) << name;
    const std::string& packed_file = packed_files.at(name + ".packed");
    EXPECT_EQ(file->packed_bytes, packed_file.size()) << name;
    EXPECT_EQ(file->packed_sha256, testing::Sha256Of(packed_file)) << name;
  }
  EXPECT_EQ(manifest.files.size(), files);
  ASSERT_EQ(manifest.tensors.size(), 11U);
  for (const PackedManifestTensor& tensor : manifest.tensors) {
    const std::map<std::string, std::string> bytes = {
        {"b", "abcdef"}, {"a/\\z", "GHIJ"}, {"none", ""}};
    const auto known = bytes.find(tensor.name);
    if (known == bytes.end()) continue;
    EXPECT_EQ(tensor.xxh3, testing::Xxh3Of(known->second)) << tensor.name;
  }
  EXPECT_FALSE(manifest.NeedsBase());
}

TEST_F(PackTest, BytesDependOnNoOption) {
  Pack();
  const Tree expected = ReadTree(packed());
  for (const unsigned threads : {1U, 2U, 5U}) {
    for (const std::uint64_t memory : {std::uint64_t{8} << 20, std::uint64_t{400} << 20}) {
      SCOPED_TRACE(::testing::Message() << threads << " threads, " << memory << " bytes");
      fs::remove_all(dir_ / "again");
      Conversion conversion = Pack(in(), dir_ / "again");
      conversion.request.run.threads = threads;
      conversion.request.run.memory_bytes = memory;
      conversion.Run();
      EXPECT_EQ(ReadTree(dir_ / "again"), expected);
      fs::remove_all(out());
      conversion = Unpack(packed(), out());
      conversion.request.run.threads = threads;
      conversion.request.run.memory_bytes = memory;
      conversion.Run();
      EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile), ReadTree(in()));
    }
  }
}

TEST_F(PackTest, AFinishedOutputIsLeftAlone) {
  Pack();
  Unpack();
  const std::string listing = testing::DetailedListing(dir_.path());
  const ConversionReport packed_again = Pack();
  EXPECT_EQ(packed_again.outcome, Outcome::kNothingToDo);
  EXPECT_EQ(packed_again.files.at(0).bytes,
            fs::file_size(packed() / packed_again.files.at(0).name));
  EXPECT_EQ(Unpack().outcome, Outcome::kNothingToDo);
  EXPECT_EQ(testing::DetailedListing(dir_.path()), listing);
}

TEST_F(PackTest, AnotherSourceIsNotTheFinishedOne) {
  Pack();
  // Headers, sizes and names say nothing: one tensor of each file is read.
  Flip(in() / testing::kOddShard, testing::OddShard().size() - 12);
  const Error other = testing::ErrorOf([&] { Pack(); });
  EXPECT_EQ(other.code(), ErrorCode::kUsage);
  EXPECT_THAT(other.message(), HasSubstr("another IN"));
  WriteFile(in() / "new.txt", "more");
  const Error more = testing::ErrorOf([&] { Pack(); });
  EXPECT_EQ(more.code(), ErrorCode::kUsage);
  EXPECT_THAT(more.message(), HasSubstr("new.txt"));
}

TEST_F(PackTest, ADamagedFinishedOutputIsNamed) {
  Pack();
  const std::string name = std::string(testing::kLongShard) + ".packed";
  fs::resize_file(packed() / name, 100);
  const Error error = testing::ErrorOf([&] { Pack(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr(name));
}

TEST_F(PackTest, OverwriteLeavesNoFileOfTheEarlierOutput) {
  // A conversion's output becomes a packed one, and the other way round.
  Pack();
  Unpack();
  Conversion pack = Pack(in(), out());
  pack.request.run.overwrite = true;
  pack.Run();
  EXPECT_EQ(ReadTree(out()), ReadTree(packed()));
  Conversion unpack = Unpack(packed(), out());
  unpack.request.run.overwrite = true;
  unpack.Run();
  EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile), ReadTree(in()));
}

TEST_F(PackTest, ADryRunEstimatesAndWritesNothing) {
  Conversion conversion = Pack(in(), packed());
  conversion.request.run.dry_run = true;
  const ConversionReport planned = conversion.Run();
  EXPECT_EQ(planned.outcome, Outcome::kPlanned);
  EXPECT_FALSE(fs::exists(packed()));
  const ConversionReport made = Pack();
  EXPECT_NEAR(static_cast<double>(planned.output_bytes), static_cast<double>(made.output_bytes),
              0.05 * static_cast<double>(made.output_bytes));
  std::uint64_t bytes = 0;
  for (const auto& file : made.files) bytes += fs::file_size(packed() / file.name);
  EXPECT_EQ(made.output_bytes, bytes);
}

TEST_F(PackTest, OneFileIsPackedAlone) {
  const std::string name = testing::kLongShard;
  fs::remove(in() / testing::kIndexFile);
  Pack(in() / name, packed()).Run();
  Unpack();
  EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile),
            (Tree{{name, ReadFile(in() / name)}}));
}

TEST_F(PackTest, FilesThatShareNamesOfTensorsComeBack) {
  WriteFile(in() / "second" / testing::kLongShard, ReadFile(in() / testing::kLongShard));
  Pack();
  Unpack();
  EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile), ReadTree(in()));
  EXPECT_EQ(Pack().outcome, Outcome::kNothingToDo);
}

TEST_F(PackTest, WhatGitAndDownloadsKeepIsLeftBehind) {
  WriteFile(in() / ".git/config", "x");
  WriteFile(in() / ".cache/huggingface/download/a.metadata", "yy");
  const ConversionReport report = Pack();
  ASSERT_EQ(report.left_behind.size(), 2U);
  EXPECT_EQ(report.left_behind[0].name, ".cache/huggingface/download/a.metadata");
  EXPECT_EQ(report.left_behind[0].bytes, 2U);
  Conversion all = Pack(in(), dir_ / "all");
  all.request.run.all_side_files = true;
  all.Run();
  Unpack(dir_ / "all", out()).Run();
  EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile), ReadTree(in()));
}

TEST_F(PackTest, LinksCountAsFilesAndDeadOnesAreNamed) {
  fs::rename(in() / testing::kLongShard, dir_ / "blob");
  fs::create_symlink(dir_ / "blob", in() / testing::kLongShard);
  fs::create_symlink(dir_ / "nothing", in() / "dead.txt");
  WriteFile(in() / "left.partial", "x");
  const ConversionReport report = Pack();
  ASSERT_EQ(report.warnings.size(), 2U);
  EXPECT_EQ(report.warnings[0].kind, "dead-link");
  EXPECT_EQ(report.warnings[1].kind, "left-out");
  Unpack();
  EXPECT_EQ(ReadFile(out() / testing::kLongShard), ReadFile(dir_ / "blob"));
  EXPECT_FALSE(fs::exists(out() / "left.partial"));
}

TEST_F(PackTest, PartsGiveTheSameFiles) {
  Pack();
  for (const bool unpack : {false, true}) {
    const fs::path whole = unpack ? out() : packed();
    if (unpack) Unpack();
    Conversion conversion =
        unpack ? Unpack(packed(), dir_ / "parts-out") : Pack(in(), dir_ / "parts");
    for (const std::uint64_t part : {1U, 0U}) {
      conversion.request.run.part = RunOptions::Part{part, 2};
      EXPECT_EQ(conversion.Run().outcome, Outcome::kPartDone);
    }
    EXPECT_FALSE(fs::exists(dir_ / "parts" / "packed.json") && !unpack);
    conversion.request.run.part.reset();
    conversion.request.run.finish = true;
    EXPECT_EQ(conversion.Run().outcome, Outcome::kConverted);
    EXPECT_EQ(ReadTree(conversion.request.output), ReadTree(whole));
  }
}

TEST_F(PackTest, ProcessesGiveTheSameFiles) {
  Pack();
  testing::ThreadGroup group(3);
  const auto errors = group.Run([&](WorkSharing& sharing) {
    Conversion conversion = Pack(in(), dir_ / "shared");
    conversion.request.run.sharing = &sharing;
    conversion.Run();
  });
  for (const auto& error : errors) EXPECT_FALSE(error) << error->message();
  EXPECT_EQ(ReadTree(dir_ / "shared"), ReadTree(packed()));
}

TEST_F(PackTest, SourceShardsGoOnTheWay) {
  const Tree original = ReadTree(in());
  Pack(in(), dir_ / "expected").Run();
  Conversion conversion = Pack(in(), packed());
  conversion.request.run.delete_source_shards = true;
  const ConversionReport report = conversion.Run();
  EXPECT_EQ(report.freed_source_shards, 4U);  // the one without tensors stays
  EXPECT_FALSE(fs::exists(in() / testing::kLongShard));
  EXPECT_EQ(ReadTree(packed()), ReadTree(dir_ / "expected"));
  EXPECT_EQ(conversion.Run().outcome, Outcome::kNothingToDo);
  Unpack();
  EXPECT_EQ(Without(ReadTree(out()), testing::kManifestFile), original);
}

TEST_F(PackTest, SomeTensorsMakeACheckpointOfTheirOwn) {
  Pack();
  // All other streams are zeros.
  const std::string name = std::string(testing::kLongShard) + ".packed";
  for (const std::string& file : {std::string("model-00001-of-00003.safetensors.packed"), name}) {
    const formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(packed() / file, file);
    std::string content = ReadFile(packed() / file);
    for (const auto& tensor : header.tensors) {
      if (tensor.name == "__header__" || tensor.name == "scale" || tensor.name == "a.ids") continue;
      std::fill(content.begin() + static_cast<std::ptrdiff_t>(header.data_offset + tensor.begin),
                content.begin() + static_cast<std::ptrdiff_t>(header.data_offset + tensor.end),
                '\0');
    }
    WriteFile(packed() / file, content);
  }
  Conversion conversion = Unpack(packed(), out());
  conversion.kind = UnpackConversion({.tensors = {"scale", "a.i*"}});
  const ConversionReport report = conversion.Run();
  EXPECT_EQ(report.tensors, 2U);
  EXPECT_LT(report.bytes_read, 10'000U);
  EXPECT_EQ(conversion.Run().outcome, Outcome::kNothingToDo);
  const Tree tree = ReadTree(out());
  EXPECT_EQ(tree.count("SHA256SUMS"), 0U);
  EXPECT_EQ(tree.at("tokenizer.json"), "{}");
  EXPECT_THAT(tree.at(testing::kIndexFile),
              HasSubstr("\"scale\": \"" + std::string(testing::kLongShard)));
  const formats::SafetensorsHeader header =
      formats::ReadSafetensorsHeader(out() / testing::kLongShard, "long");
  ASSERT_EQ(header.tensors.size(), 1U);
  const formats::SafetensorsHeader original =
      formats::ReadSafetensorsHeader(in() / testing::kLongShard, "original");
  const auto scale = std::find_if(original.tensors.begin(), original.tensors.end(),
                                  [](const auto& each) { return each.name == "scale"; });
  EXPECT_EQ(tree.at(testing::kLongShard).substr(header.data_offset),
            ReadFile(in() / testing::kLongShard).substr(original.data_offset + scale->begin, 4));
  EXPECT_EQ(tree.count("model-00003-of-00003.safetensors"), 0U);
}

}  // namespace
}  // namespace dsv3::convert
