#include "convert/stream/source_checks.h"

#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "convert/plan/slice_expression.h"
#include "convert/stream/executor.h"
#include "formats/error.h"
#include "tests/convert/stream/memory_sink.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// Rank shards r0 and r1, and two files that are put together from them:
//   a: "norm" (a copy), "columns" (two column slices), "vocab" (rows; the last one is padded)
//   b: "gate" and "up" (both from one tensor of each rank), "twice" (two tiles of one source)
// Nothing takes "copy", the norm of the other rank, and "empty", which has no bytes.
class SourceChecksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* const rank : {"r0", "r1"}) {
      const std::string suffix = rank;
      checkpoint_.Add(rank, "columns." + suffix, Dtype::kBF16, {700, 300});
      checkpoint_.Add(rank, "vocab." + suffix, Dtype::kBF16, {500, 60});
      checkpoint_.Add(rank, "gate_up." + suffix, Dtype::kBF16, {80, 50});
    }
    checkpoint_.Add("r0", "norm", Dtype::kF32, {999});
    checkpoint_.Add("r1", "copy", Dtype::kF32, {999}).bytes = checkpoint_.Find("norm").bytes;
    checkpoint_.Add("r1", "halves", Dtype::kU8, {40, 20});
    checkpoint_.Add("r1", "empty", Dtype::kF32, {0});
    checkpoint_.Write(dir_ / "in");
    catalog_.emplace(testing::CatalogOf(dir_ / "in"));
    for (std::uint32_t i = 0; i < catalog_->tensors().size(); ++i) {
      plan_.source_digests[i] = Xxh3Of(checkpoint_.Find(catalog_->tensors()[i].name).bytes);
    }
    NamedExpressions a;
    a.emplace_back("norm", Copy(*catalog_, At("norm")));
    a.emplace_back("columns", Assemble(*catalog_, "columns", Dtype::kBF16, {700, 600},
                                       {{{0, 700, 0, 300}, At("columns.r0"), 0, 0},
                                        {{0, 700, 300, 600}, At("columns.r1"), 0, 0}}));
    a.emplace_back("vocab", Assemble(*catalog_, "vocab", Dtype::kBF16, {900, 60},
                                     {{{0, 500, 0, 60}, At("vocab.r0"), 0, 0},
                                      {{500, 900, 0, 60}, At("vocab.r1"), 0, 0}}));
    a.emplace_back("empty", Copy(*catalog_, At("empty")));
    NamedExpressions b;
    for (const std::uint64_t half : {0U, 1U}) {
      b.emplace_back(half == 0 ? "gate" : "up",
                     Assemble(*catalog_, "half", Dtype::kBF16, {80, 50},
                              {{{0, 40, 0, 50}, At("gate_up.r0"), half * 40, 0},
                               {{40, 80, 0, 50}, At("gate_up.r1"), half * 40, 0}}));
    }
    b.emplace_back("twice", Assemble(*catalog_, "twice", Dtype::kU8, {20, 40},
                                     {{{0, 20, 0, 20}, At("halves"), 0, 0},
                                      {{0, 20, 20, 40}, At("halves"), 20, 0}}));
    plan_.files.push_back(PlanFile("a", std::move(a)));
    plan_.files.push_back(PlanFile("b", std::move(b)));
    options_.memory_bytes = kMinMemoryBytes;
  }

  static std::string Xxh3Of(const std::string& bytes) { return testing::Xxh3Of(bytes); }
  std::uint32_t At(const std::string& name) const { return catalog_->Find(name); }

  std::vector<std::string> Apart(const std::vector<std::size_t>& files) {
    SourceFiles sources(*catalog_);
    const SourceChecks checks(plan_, files, sources);
    std::vector<std::string> names;
    for (const std::uint32_t tensor : checks.apart()) {
      names.push_back(catalog_->tensors()[tensor].name);
    }
    return names;
  }

  void Run(const std::vector<std::size_t>& files, OutputSink& sink) {
    SourceFiles sources(*catalog_);
    ProgressSink progress;
    SourceChecks checks(plan_, files, sources);
    checks.CheckApart(options_.threads, progress, stop_);
    options_.checks = &checks;
    Execute(plan_, files, sources, options_, sink, progress, stop_);
  }

  // Turns one byte of a tensor in its file; again turns it back.
  void Damage(const std::string& name, std::uint64_t byte) {
    const CatalogTensor& tensor = catalog_->tensors()[At(name)];
    const fs::path path = catalog_->files()[tensor.extent.file].path;
    const fs::file_time_type time = fs::last_write_time(path);
    std::string content = testing::ReadFile(path);
    content[static_cast<std::size_t>(tensor.extent.offset + byte)] ^= 1;
    testing::WriteFile(path, content);
    fs::last_write_time(path, time);
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_;
  std::optional<Catalog> catalog_;
  Plan plan_;
  ExecutorOptions options_;
  StopToken stop_;
};

TEST_F(SourceChecksTest, ReadsApartWhatNoStreamGivesWholeAndInOrder) {
  EXPECT_THAT(Apart({0, 1}),
              UnorderedElementsAre("copy", "empty", "gate_up.r0", "gate_up.r1", "halves"));
  // Each run answers for its own files, and the one that makes the first file for what none takes.
  EXPECT_THAT(Apart({0}), UnorderedElementsAre("copy", "empty"));
  EXPECT_THAT(Apart({1}), UnorderedElementsAre("gate_up.r0", "gate_up.r1", "halves"));
  EXPECT_THAT(Apart({}), IsEmpty());
}

TEST_F(SourceChecksTest, ReadsApartWhatIsTakenFromItsMiddleOn) {
  NamedExpressions tensors;
  tensors.emplace_back("end", Assemble(*catalog_, "end", Dtype::kBF16, {200, 60},
                                       {{{0, 200, 0, 60}, At("vocab.r1"), 300, 0}}));
  plan_.files = {};
  plan_.files.push_back(PlanFile("a", std::move(tensors)));
  plan_.source_digests = {{At("vocab.r1"), plan_.source_digests.at(At("vocab.r1"))}};
  EXPECT_THAT(Apart({0}), ElementsAre("vocab.r1"));
  MemorySink sink;
  Run({0}, sink);
  EXPECT_EQ(sink.records.size(), 1U);
}

TEST_F(SourceChecksTest, KnowsThatSlicesShareTheBytesOfTheirOrigins) {
  const ExpressionPtr norm = Copy(*catalog_, At("norm"));
  plan_.source_digests = {{At("norm"), Xxh3Of(checkpoint_.Find("norm").bytes)}};
  plan_.files.clear();
  for (const std::uint64_t rank : {0U, 1U, 2U}) {
    NamedExpressions tensors;
    tensors.emplace_back("norm",
                         std::make_shared<SliceExpression>(
                             Dtype::kF32, formats::Shape{333},
                             std::vector<SlicePart>{{norm, {rank * 333, (rank + 1) * 333, 0, 1}}}));
    plan_.files.push_back(PlanFile("rank" + std::to_string(rank), std::move(tensors)));
  }
  EXPECT_THAT(Apart({0, 1, 2}), ElementsAre("norm"));
  plan_.shared_reads = true;
  EXPECT_THAT(Apart({0, 1, 2}), IsEmpty());
  EXPECT_THAT(Apart({1}), IsEmpty());
}

TEST_F(SourceChecksTest, PassesWhatIsRight) {
  for (const unsigned threads : {1U, 3U}) {
    options_.threads = threads;
    MemorySink sink;
    Run({0, 1}, sink);
    const testing::MemorySource memory(checkpoint_, *catalog_);
    for (std::size_t i = 0; i < plan_.files.size(); ++i) {
      std::string expected = FileHeader(plan_.files[i]);
      for (const PlannedTensor& tensor : plan_.files[i].tensors) {
        EvaluationCounts counts;
        expected += memory.Evaluate(*tensor.expression, counts);
      }
      EXPECT_TRUE(sink.files.at(i) == expected);
    }
  }
}

TEST_F(SourceChecksTest, FindsEveryDamagedByteThatIsStreamedOrNot) {
  struct Place {
    std::string tensor;
    std::uint64_t byte;
  };
  // The last ones lie in padding, in a tensor that nothing takes, and in such as several take.
  for (const Place& place :
       {Place{"norm", 0}, Place{"norm", 3995}, Place{"columns.r0", 7}, Place{"columns.r1", 419999},
        Place{"vocab.r0", 59999}, Place{"vocab.r1", 59999}, Place{"copy", 100},
        Place{"gate_up.r0", 0}, Place{"gate_up.r1", 7999}, Place{"halves", 799}}) {
    SCOPED_TRACE(place.tensor + " " + std::to_string(place.byte));
    Damage(place.tensor, place.byte);
    MemorySink sink;
    const Error error = testing::ErrorOf([&] { Run({0, 1}, sink); });
    Damage(place.tensor, place.byte);
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().tensor, place.tensor);
    const CatalogTensor& tensor = catalog_->tensors()[At(place.tensor)];
    const std::string& file = catalog_->files()[tensor.extent.file].name;
    EXPECT_EQ(error.place().file, file);
    std::string damaged = checkpoint_.Find(place.tensor).bytes;
    damaged[static_cast<std::size_t>(place.byte)] ^= 1;
    EXPECT_THAT(error.message(), HasSubstr(file));
    EXPECT_THAT(error.message(), HasSubstr("'" + place.tensor + "'"));
    EXPECT_THAT(error.message(), HasSubstr("digest " + Xxh3Of(damaged) + ", expected " +
                                           Xxh3Of(checkpoint_.Find(place.tensor).bytes)));
    EXPECT_THAT(error.message(), HasSubstr("--overwrite"));
  }
}

TEST_F(SourceChecksTest, FindsADigestThatIsWrongThoughTheTensorIsEmpty) {
  plan_.source_digests.at(At("empty")) = Xxh3Of("something");
  MemorySink sink;
  const Error error = testing::ErrorOf([&] { Run({0, 1}, sink); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "empty");
}

TEST_F(SourceChecksTest, PassesOverTensorsWithoutADigest) {
  plan_.source_digests.erase(At("norm"));
  plan_.source_digests.erase(At("gate_up.r0"));
  Damage("norm", 5);
  Damage("gate_up.r0", 5);
  MemorySink sink;
  Run({0, 1}, sink);
  EXPECT_EQ(sink.records.size(), 2U);
}

TEST_F(SourceChecksTest, TellsOfWhatItReadsApart) {
  SourceFiles sources(*catalog_);
  const std::vector<std::size_t> files = {0, 1};
  SourceChecks checks(plan_, files, sources);
  testing::CountingSink progress;
  checks.CheckApart(2, progress, stop_);
  EXPECT_EQ(progress.phase(), "checking source tensors");
  const std::uint64_t bytes = 999 * 4 + 2 * 80 * 50 * 2 + 40 * 20;
  EXPECT_EQ(checks.apart_bytes(), bytes);
  EXPECT_EQ(progress.total_bytes(), bytes);
  EXPECT_EQ(progress.bytes(), bytes);
}

TEST_F(SourceChecksTest, StopsOnRequest) {
  SourceFiles sources(*catalog_);
  const std::vector<std::size_t> files = {0, 1};
  SourceChecks checks(plan_, files, sources);
  ProgressSink progress;
  StopToken stop;
  stop.RequestStop();
  EXPECT_EQ(testing::ErrorOf([&] { checks.CheckApart(1, progress, stop); }).code(),
            ErrorCode::kInterrupted);
}

TEST_F(SourceChecksTest, DoesNothingForPlansWithoutDigests) {
  plan_.source_digests.clear();
  Damage("norm", 5);
  SourceFiles sources(*catalog_);
  const std::vector<std::size_t> files = {0, 1};
  SourceChecks checks(plan_, files, sources);
  testing::CountingSink progress;
  checks.CheckApart(1, progress, stop_);
  EXPECT_EQ(progress.phase(), "");
  EXPECT_THAT(checks.apart(), IsEmpty());
  MemorySink sink;
  Execute(plan_, files, sources, options_, sink, progress, stop_);
  EXPECT_EQ(sink.records.size(), 2U);
}

TEST_F(SourceChecksTest, TensorsMayBeStreamedAgain) {
  SourceFiles sources(*catalog_);
  const std::vector<std::size_t> files = {0, 1};
  SourceChecks checks(plan_, files, sources);
  const auto norm = testing::AsBytes(checkpoint_.Find("norm").bytes);
  for (int time = 0; time < 2; ++time) {
    checks.Add(At("norm"), 0, norm.first(100));
    checks.Add(At("norm"), 100, norm.subspan(100));
    checks.Finish(At("norm"));
  }
  checks.Add(At("norm"), 0, norm.first(100));
  EXPECT_EQ(testing::ErrorOf([&] { checks.Add(At("norm"), 101, norm.subspan(101)); }).code(),
            ErrorCode::kInternal);
}

TEST_F(SourceChecksTest, ExecutorsRefuseToLeaveDigestsUnchecked) {
  MemorySink sink;
  SourceFiles sources(*catalog_);
  ProgressSink progress;
  const std::vector<std::size_t> files = {0, 1};
  EXPECT_EQ(testing::ErrorOf([&] {
              Execute(plan_, files, sources, options_, sink, progress, stop_);
            }).message(),
            "a plan's digests of its sources are not checked");
}

}  // namespace
}  // namespace dsv3::convert
