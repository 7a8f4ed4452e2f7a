#include "convert/stream/shared_reads.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/dequantize_expression.h"
#include "convert/plan/slice_expression.h"
#include "convert/stream/read_order.h"
#include "formats/error.h"
#include "tests/convert/stream/memory_sink.h"
#include "tests/convert/support/aligned_container.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::HasSubstr;
using testing::Sha256Of;
using testing::Xxh3Of;

constexpr std::uint64_t kRanks = 4;

// How the ranks of a test share a tensor.
enum class Share { kAll, kRows, kCols, kOne, kPaddedRows };

// Rank files over a checkpoint whose tensors are longer than a panel, tiny, empty, or one row.
class SharedReadsTest : public ::testing::Test {
 protected:
  static testing::TinyCheckpoint Checkpoint() {
    testing::TinyCheckpoint checkpoint;
    checkpoint.Add("a.safetensors", "rows.long", Dtype::kBF16, {40000, 64});
    checkpoint.Add("a.safetensors", "cols.long", Dtype::kF8E4M3, {5000, 772});
    checkpoint.Add("a.safetensors", "cols.onerow", Dtype::kF32, {1, 400000});
    checkpoint.Add("b.safetensors", "all.weight", Dtype::kF8E4M3, {1000, 777});
    checkpoint.AddScale("c.safetensors", "all.weight_scale_inv", Dtype::kF32, {8, 7});
    checkpoint.Add("b.safetensors", "padded.odd", Dtype::kBF16, {13, 1000});
    checkpoint.Add("b.safetensors", "padded.little", Dtype::kBF16, {3, 5});
    checkpoint.Add("b.safetensors", "all.empty", Dtype::kF32, {0, 3});
    checkpoint.Add("b.safetensors", "all.aempty", Dtype::kF32, {0});
    checkpoint.Add("b.safetensors", "all.scalar", Dtype::kI64, {});
    for (std::size_t i = 0; i < 300; ++i) {
      checkpoint.Add("c.safetensors", "all.tiny" + std::to_string(i), Dtype::kF32, {i % 7});
      checkpoint.Add("c.safetensors", "one.tiny" + std::to_string(i), Dtype::kBF16, {3, i % 50});
      checkpoint.Add("c.safetensors", "rows.tiny" + std::to_string(i), Dtype::kBF16, {8, i % 5});
    }
    for (std::size_t i = 0; i < 8; ++i) {
      checkpoint.Add("d.safetensors", "one.large" + std::to_string(i), Dtype::kF8E4M3, {3000, 600});
    }
    return checkpoint;
  }

  static Share ShareOf(const std::string& name) {
    const std::string word = name.substr(0, name.find('.'));
    if (word == "rows") return Share::kRows;
    if (word == "cols") return Share::kCols;
    if (word == "one") return Share::kOne;
    if (word == "padded") return Share::kPaddedRows;
    return Share::kAll;
  }

  void SetUp() override {
    checkpoint_ = Checkpoint();
    checkpoint_.Write(dir_ / "in");
    catalog_.emplace(testing::CatalogOf(dir_ / "in"));
    const testing::MemorySource memory(checkpoint_, *catalog_);
    plan_.shared_reads = true;
    // By file: two parts for each rank.
    std::vector<NamedExpressions> tensors(2 * kRanks);
    std::vector<std::map<std::string, std::string>> values(2 * kRanks);
    std::uint64_t owner = 0;
    for (std::uint32_t i = 0; i < catalog_->tensors().size(); ++i) {
      const CatalogTensor& tensor = catalog_->tensors()[i];
      if (tensor.name.ends_with("_scale_inv")) continue;
      const std::uint32_t scale = catalog_->Find(tensor.name + "_scale_inv");
      const ExpressionPtr origin =
          scale == Catalog::kNone
              ? Copy(*catalog_, i)
              : Dequantize(*catalog_, testing::MatrixPair(*catalog_, i, scale, {128, 128}));
      EvaluationCounts counts;
      const std::string value = memory.Evaluate(*origin, counts);
      const std::size_t part = i % 3 == 0 ? 1 : 0;
      ++owner;
      for (std::uint64_t rank = 0; rank < kRanks; ++rank) {
        if (ShareOf(tensor.name) == Share::kOne && owner % kRanks != rank) continue;
        const std::size_t file = part * kRanks + rank;
        std::string& bytes = values[file][tensor.name];
        tensors[file].emplace_back(tensor.name, Slice(tensor.name, origin, value, rank, bytes));
      }
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      // Every other file has gaps.
      plan_.files.push_back(
          PlanFile("rank" + std::to_string(i), std::move(tensors[i]), PtMetadata(),
                   i % 2 == 1 ? testing::AlignedContainer::Get() : Safetensors()));
      PlannedFile& file = plan_.files.back();
      file.group = static_cast<std::uint32_t>(i / kRanks);
      std::string& content = expected_.emplace_back(FileHeader(file));
      for (const PlannedTensor& tensor : file.tensors) {
        testing::FillGap(file, tensor, content);
        content += values[i][tensor.entry.name];
      }
    }
    files_.resize(plan_.files.size());
    std::iota(files_.begin(), files_.end(), std::size_t{0});
    options_.memory_bytes = kMinMemoryBytes;
  }

  // The rank's slice, one for all ranks where it is the same; its bytes go to `bytes`.
  ExpressionPtr Slice(const std::string& name, const ExpressionPtr& origin,
                      const std::string& value, std::uint64_t rank, std::string& bytes) {
    const MatrixShape matrix = MatrixOf(origin->shape());
    const std::uint64_t element = formats::DtypeBits(origin->dtype()) / 8;
    Box box = Whole(matrix);
    formats::Shape shape = origin->shape();
    std::uint64_t rows = matrix.rows;
    switch (ShareOf(name)) {
      case Share::kAll:
      case Share::kOne:
        break;
      case Share::kRows:
        rows = matrix.rows / kRanks;
        box.row_begin = rank * rows;
        box.row_end = box.row_begin + rows;
        shape[0] = rows;
        break;
      case Share::kCols:
        shape[1] = matrix.cols / kRanks;
        box.col_begin = rank * shape[1];
        box.col_end = box.col_begin + shape[1];
        break;
      case Share::kPaddedRows:
        rows = 16 / kRanks;
        box.row_begin = std::min(matrix.rows, rank * rows);
        box.row_end = std::min(matrix.rows, (rank + 1) * rows);
        shape[0] = rows;
        break;
    }
    for (std::uint64_t row = box.row_begin; row < box.row_end; ++row) {
      bytes += value.substr((row * matrix.cols + box.col_begin) * element, box.cols() * element);
    }
    bytes.resize(rows * box.cols() * element);
    if (ShareOf(name) != Share::kAll) {
      return std::make_shared<SliceExpression>(origin->dtype(), shape,
                                               std::vector<SlicePart>{{origin, box}});
    }
    ExpressionPtr& shared = whole_[name];
    if (!shared) {
      shared = std::make_shared<SliceExpression>(origin->dtype(), shape,
                                                 std::vector<SlicePart>{{origin, box}});
    }
    return shared;
  }

  void Run(OutputSink& sink, ProgressSink& progress) {
    SourceFiles sources(*catalog_);
    SourceChecks checks(plan_, files_, sources);
    checks.CheckApart(options_.threads, progress, stop_);
    options_.checks = &checks;
    ExecuteSharedReads(plan_, files_, sources, options_, sink, progress, stop_);
    options_.checks = nullptr;
    bytes_read_ = sources.bytes_read();
  }
  void Run(OutputSink& sink) {
    ProgressSink progress;
    Run(sink, progress);
  }

  void ExpectFiles(const MemorySink& sink) const {
    EXPECT_EQ(sink.records.size(), files_.size());
    for (const std::size_t i : files_) {
      ASSERT_EQ(sink.records.count(i), 1U) << plan_.files[i].name;
      EXPECT_TRUE(sink.files.at(i) == expected_[i]) << plan_.files[i].name;
    }
  }

  std::uint64_t SourceBytes() const {
    std::uint64_t bytes = 0;
    for (const CatalogTensor& tensor : catalog_->tensors()) bytes += tensor.extent.length;
    return bytes;
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_;
  std::optional<Catalog> catalog_;
  std::map<std::string, ExpressionPtr> whole_;
  Plan plan_;
  std::vector<std::size_t> files_;
  std::vector<std::string> expected_;  // by position in plan_.files
  ExecutorOptions options_;
  StopToken stop_;
  std::uint64_t bytes_read_ = 0;
};

TEST_F(SharedReadsTest, BytesDependOnNoOption) {
  for (const unsigned threads : {1U, 2U, 5U}) {
    for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
      for (const std::size_t max_open_files : {std::size_t{0}, std::size_t{2}}) {
        SCOPED_TRACE(::testing::Message() << threads << " threads, " << memory << " bytes, "
                                          << max_open_files << " files");
        options_.threads = threads;
        options_.memory_bytes = memory;
        options_.max_open_files = max_open_files;
        MemorySink sink;
        Run(sink);
        ExpectFiles(sink);
      }
    }
  }
}

TEST_F(SharedReadsTest, MakesWhatTheFileOrderedExecutorMakes) {
  options_.tensor_sha256 = true;
  MemorySink together;
  Run(together);
  MemorySink one_by_one;
  SourceFiles sources(*catalog_);
  ProgressSink progress;
  Execute(plan_, files_, sources, options_, one_by_one, progress, stop_);
  for (const std::size_t i : files_) {
    EXPECT_TRUE(together.files.at(i) == one_by_one.files.at(i)) << plan_.files[i].name;
    const FileRecord& a = together.records.at(i);
    const FileRecord& b = one_by_one.records.at(i);
    EXPECT_EQ(a.file.sha256, b.file.sha256);
    ASSERT_EQ(a.tensors.size(), b.tensors.size());
    for (std::size_t t = 0; t < a.tensors.size(); ++t) {
      EXPECT_EQ(a.tensors[t].output.xxh3, b.tensors[t].output.xxh3)
          << plan_.files[i].tensors[t].entry.name;
      EXPECT_EQ(a.tensors[t].output.sha256, b.tensors[t].output.sha256);
    }
  }
}

TEST_F(SharedReadsTest, DigestsFilesAndTensors) {
  MemorySink sink;
  Run(sink);
  for (const std::size_t i : files_) {
    const FileRecord& record = sink.records.at(i);
    EXPECT_EQ(record.file.sha256, Sha256Of(expected_[i]));
    EXPECT_EQ(record.bytes, expected_[i].size());
    for (std::size_t t = 0; t < record.tensors.size(); ++t) {
      const PlannedFile& file = plan_.files[i];
      const auto& entry = file.tensors[t].entry;
      EXPECT_EQ(record.tensors[t].output.xxh3,
                Xxh3Of(expected_[i].substr(file.data_offset + entry.offset, entry.bytes)))
          << entry.name;
    }
  }
  options_.sha256 = false;
  MemorySink quick;
  Run(quick);
  EXPECT_EQ(quick.records.at(0).file.xxh3, Xxh3Of(expected_[0]));
  EXPECT_EQ(quick.records.at(0).file.sha256, "");
}

TEST_F(SharedReadsTest, ReadsTheSourceOnce) {
  MemorySink sink;
  Run(sink);
  EXPECT_LE(bytes_read_, SourceBytes() * 102 / 100);
}

TEST_F(SharedReadsTest, ReadsOnlyTheRowsThatItsFilesNeed) {
  files_ = {1};
  MemorySink sink;
  Run(sink);
  ExpectFiles(sink);
  std::uint64_t needed = 0;
  for (const PlannedTensor& tensor : plan_.files[1].tensors) {
    const CatalogTensor& source = catalog_->tensors()[catalog_->Find(tensor.entry.name)];
    // Whole rows are read for columns.
    needed +=
        ShareOf(source.name) == Share::kRows ? source.extent.length / kRanks : source.extent.length;
  }
  EXPECT_LE(bytes_read_, needed * 102 / 100);
}

TEST_F(SharedReadsTest, ReadsNothingBetweenTheRowsThatItsFilesNeed) {
  const std::uint32_t tensor = catalog_->Find("rows.long");
  const ExpressionPtr origin = Copy(*catalog_, tensor);
  Plan plan;
  plan.shared_reads = true;
  const std::string& value = checkpoint_.Find("rows.long").bytes;
  expected_.clear();
  for (const std::uint64_t first : {30000U, 1000U, 1500U}) {
    NamedExpressions tensors;
    tensors.emplace_back("a", std::make_shared<SliceExpression>(
                                  Dtype::kBF16, formats::Shape{1000, 64},
                                  std::vector<SlicePart>{{origin, {first, first + 1000, 0, 64}}}));
    plan.files.push_back(PlanFile("f" + std::to_string(first), std::move(tensors)));
    expected_.push_back(FileHeader(plan.files.back()) + value.substr(first * 128, 128000));
  }
  plan_ = std::move(plan);
  files_ = {0, 1, 2};
  MemorySink sink;
  Run(sink);
  ExpectFiles(sink);
  EXPECT_LE(bytes_read_, 2500U * 128 + 4 * formats::kDirectAlignment);
}

// A copy of a U8-wide tensor that can only be cut every `step` bytes.
class CoarseCopy final : public Expression {
 public:
  CoarseCopy(const Catalog& catalog, std::uint32_t tensor, std::uint64_t step)
      : Expression(catalog.tensors()[tensor].dtype, catalog.tensors()[tensor].shape),
        tensor_(tensor),
        step_(step) {}
  std::string_view rule() const override { return "coarse-copy"; }
  std::vector<std::uint32_t> streamed_sources() const override { return {tensor_}; }
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return position - position % step_;
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return std::min(num_bytes(), position - position % step_ + step_);
  }
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    EXPECT_EQ(begin % step_, 0U);
    EXPECT_TRUE(end % step_ == 0 || end == num_bytes());
    reads.push_back({tensor_, begin, end});
  }
  void Evaluate(std::uint64_t, std::uint64_t, std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::copy(inputs[0].begin(), inputs[0].end(), out.value.begin());
  }

 private:
  std::uint32_t tensor_;
  std::uint64_t step_;
};

TEST_F(SharedReadsTest, CutsOriginsWhereTheyMayBeCut) {
  // Steps that are no rows, and rows that are no steps; columns ask for both.
  for (const std::uint64_t step :
       {std::uint64_t{600}, std::uint64_t{1000}, std::uint64_t{7000}, std::uint64_t{1799999}}) {
    const ExpressionPtr origin =
        std::make_shared<CoarseCopy>(*catalog_, catalog_->Find("one.large0"), step);
    const std::string& value = checkpoint_.Find("one.large0").bytes;
    for (const Box& box : {Box{0, 3000, 0, 600}, Box{1001, 1011, 0, 600}, Box{2999, 3000, 0, 600},
                           Box{0, 3000, 10, 20}, Box{1234, 2345, 599, 600}}) {
      SCOPED_TRACE(::testing::Message() << step << " " << box.row_begin << " " << box.col_begin);
      std::string expected;
      for (std::uint64_t row = box.row_begin; row < box.row_end; ++row) {
        expected += value.substr(row * 600 + box.col_begin, box.cols());
      }
      Plan plan;
      plan.shared_reads = true;
      NamedExpressions tensors;
      tensors.emplace_back("a", std::make_shared<SliceExpression>(
                                    Dtype::kF8E4M3, formats::Shape{box.rows(), box.cols()},
                                    std::vector<SlicePart>{{origin, box}}));
      plan.files.push_back(PlanFile("f", std::move(tensors)));
      plan_ = std::move(plan);
      files_ = {0};
      MemorySink sink;
      Run(sink);
      EXPECT_TRUE(sink.files.at(0) == FileHeader(plan_.files[0]) + expected);
    }
  }
}

TEST_F(SharedReadsTest, DigestsTensorsWithoutBytes) {
  Plan plan;
  plan.shared_reads = true;
  NamedExpressions tensors;
  const auto whole = [&](const char* name) {
    const ExpressionPtr origin = Copy(*catalog_, catalog_->Find(name));
    return std::make_shared<SliceExpression>(
        origin->dtype(), origin->shape(),
        std::vector<SlicePart>{{origin, Whole(MatrixOf(origin->shape()))}});
  };
  tensors.emplace_back("a", whole("all.empty"));
  tensors.emplace_back("b", whole("all.tiny3"));
  tensors.emplace_back("c", whole("all.aempty"));
  plan.files.push_back(PlanFile("some", std::move(tensors)));
  tensors.clear();
  tensors.emplace_back("a", whole("all.empty"));
  plan.files.push_back(PlanFile("none", std::move(tensors)));
  plan_ = std::move(plan);
  files_ = {0, 1};
  options_.tensor_sha256 = true;
  MemorySink sink;
  Run(sink);
  const std::string& three = checkpoint_.Find("all.tiny3").bytes;
  const FileRecord& some = sink.records.at(0);
  EXPECT_EQ(some.tensors[0].output.xxh3, Xxh3Of(""));
  EXPECT_EQ(some.tensors[1].output.xxh3, Xxh3Of(three));
  EXPECT_EQ(some.tensors[2].output.xxh3, Xxh3Of(""));
  EXPECT_EQ(some.tensors[2].output.sha256, Sha256Of(""));
  EXPECT_EQ(sink.records.at(1).tensors[0].output.xxh3, Xxh3Of(""));
}

TEST_F(SharedReadsTest, FilesAdvanceTogether) {
  // Each rank's own tensors alternate, although each rank could have all of its own at once.
  Plan plan;
  plan.shared_reads = true;
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    NamedExpressions tensors;
    for (std::uint64_t i = rank; i < 8; i += 4) {
      const ExpressionPtr origin = Copy(*catalog_, catalog_->Find("one.large" + std::to_string(i)));
      tensors.emplace_back(
          "t" + std::to_string(i),
          std::make_shared<SliceExpression>(origin->dtype(), origin->shape(),
                                            std::vector<SlicePart>{{origin, {0, 3000, 0, 600}}}));
    }
    plan.files.push_back(PlanFile("f" + std::to_string(rank), std::move(tensors)));
  }
  const std::vector<std::size_t> files = {0, 1, 2, 3};
  const std::vector<ReadGroup> groups = OrderReads(plan, files);
  ASSERT_EQ(groups.size(), 1U);
  std::vector<std::uint32_t> lanes;
  for (const SharedRead& read : groups[0].reads) lanes.push_back(read.cuts.at(0).lanes.at(0));
  EXPECT_THAT(lanes, ::testing::ElementsAre(0, 1, 2, 3, 0, 1, 2, 3));
}

TEST_F(SharedReadsTest, WritesAlignedBuffersOfSeveralTensors) {
  MemorySink sink;
  Run(sink);
  const SharedReadResources resources = PlanSharedReads(options_, plan_, files_);
  std::size_t writes = 0;
  for (const std::string& content : expected_) {
    writes += (content.size() + resources.append_bytes - 1) / resources.append_bytes;
  }
  EXPECT_EQ(sink.writes.size(), writes);
  for (const MemorySink::Write& write : sink.writes) {
    EXPECT_EQ(write.offset % formats::kDirectAlignment, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(write.address) % formats::kDirectAlignment, 0U);
  }
}

TEST_F(SharedReadsTest, OpensFilesAnewWhereFewMayBeOpen) {
  options_.threads = 1;
  options_.max_open_files = 2;
  MemorySink sink;
  Run(sink);
  ExpectFiles(sink);
  // One for each worker.
  EXPECT_LE(sink.most_open, PlanSharedReads(options_, plan_, files_).workers);
  EXPECT_FALSE(sink.times_reopened.empty());
  options_.max_open_files = 2 * kRanks;
  MemorySink roomy;
  Run(roomy);
  EXPECT_TRUE(roomy.times_reopened.empty());
}

TEST_F(SharedReadsTest, MemoryIsBounded) {
  for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
    options_.memory_bytes = memory;
    const SharedReadResources resources = PlanSharedReads(options_, plan_, files_);
    EXPECT_LE(resources.memory_bytes, memory + 2 * kRanks * resources.append_bytes);
    EXPECT_GE(resources.panels, 2U);
  }
}

TEST_F(SharedReadsTest, RefusesContraryOrders) {
  std::swap(plan_.files[1].tensors.front(), plan_.files[1].tensors.back());
  MemorySink sink;
  try {
    Run(sink);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_THAT(error.what(), HasSubstr("contrary orders"));
  }
  EXPECT_TRUE(sink.records.empty());
}

TEST_F(SharedReadsTest, RefusesWhatIsNoSlice) {
  plan_.files[2].tensors[0].expression = Copy(*catalog_, 0);
  MemorySink sink;
  try {
    Run(sink);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_THAT(error.what(), HasSubstr("this tensor is not a slice"));
  }
}

TEST_F(SharedReadsTest, ChecksTheDigestsOfItsSources) {
  for (std::uint32_t i = 0; i < catalog_->tensors().size(); ++i) {
    plan_.source_digests[i] = Xxh3Of(checkpoint_.Find(catalog_->tensors()[i].name).bytes);
  }
  MemorySink sink;
  Run(sink);
  ExpectFiles(sink);
  // One file alone needs a quarter of this tensor, and all of it is checked.
  files_ = {1};
  MemorySink one;
  Run(one);
  ExpectFiles(one);
  for (const char* const name : {"rows.long", "cols.long", "all.weight", "one.large3",
                                 "all.weight_scale_inv", "padded.odd", "all.scalar"}) {
    SCOPED_TRACE(name);
    files_ = {0, 1, 2, 3, 4, 5, 6, 7};
    std::string& digest = plan_.source_digests[catalog_->Find(name)];
    const std::string right = digest;
    digest[5] = digest[5] == 'a' ? 'b' : 'a';
    MemorySink refused;
    try {
      Run(refused);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_THAT(error.what(), HasSubstr(name));
      EXPECT_THAT(error.what(), HasSubstr(right));
    }
    digest = right;
  }
}

TEST_F(SharedReadsTest, EndsWithTheFirstErrorOfTheDisk) {
  MemorySink sink;
  sink.on_write = [](std::size_t file, std::uint64_t offset) {
    if (file == 2 && offset > 0) throw Error(ErrorCode::kIo, "the disk is full", {"rank2", ""});
  };
  try {
    Run(sink);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
  }
  EXPECT_EQ(sink.records.count(2), 0U);
}

TEST_F(SharedReadsTest, StopsWhenAsked) {
  MemorySink sink;
  sink.on_write = [this](std::size_t, std::uint64_t offset) {
    if (offset > 0) stop_.RequestStop();
  };
  try {
    Run(sink);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
  }
  EXPECT_LT(sink.records.size(), files_.size());
}

TEST_F(SharedReadsTest, ReportsEachByteThatItWrites) {
  testing::CountingSink count;
  MemorySink sink;
  Run(sink, count);
  std::uint64_t all = 0;
  for (const std::string& content : expected_) all += content.size();
  EXPECT_EQ(count.bytes(), all);
}

TEST_F(SharedReadsTest, OneFileMayTakeATensorTwice) {
  const ExpressionPtr origin = Copy(*catalog_, catalog_->Find("all.weight"));
  const auto whole = [&] {
    return std::make_shared<SliceExpression>(
        origin->dtype(), origin->shape(),
        std::vector<SlicePart>{{origin, Whole(MatrixOf(origin->shape()))}});
  };
  Plan plan;
  plan.shared_reads = true;
  NamedExpressions tensors;
  tensors.emplace_back("a", whole());
  tensors.emplace_back("b", whole());
  plan.files.push_back(PlanFile("twice", std::move(tensors)));
  plan_ = std::move(plan);
  files_ = {0};
  MemorySink sink;
  Run(sink);
  const std::string value = checkpoint_.Find("all.weight").bytes;
  EXPECT_TRUE(sink.files.at(0) == FileHeader(plan_.files[0]) + value + value);
}

TEST_F(SharedReadsTest, SeveralOriginsMakeOneTensor) {
  const ExpressionPtr first = Copy(*catalog_, catalog_->Find("one.large0"));
  const ExpressionPtr second = Copy(*catalog_, catalog_->Find("one.large1"));
  Plan plan;
  plan.shared_reads = true;
  std::vector<std::string> expected;
  const std::string& a = checkpoint_.Find("one.large0").bytes;
  const std::string& b = checkpoint_.Find("one.large1").bytes;
  for (std::uint64_t rank = 0; rank < 3; ++rank) {
    const Box box = {rank * 1000, (rank + 1) * 1000, 0, 600};
    NamedExpressions tensors;
    tensors.emplace_back("fused", std::make_shared<SliceExpression>(
                                      Dtype::kF8E4M3, formats::Shape{2001, 600},
                                      std::vector<SlicePart>{{first, box}, {second, box}}));
    plan.files.push_back(PlanFile("f" + std::to_string(rank), std::move(tensors)));
    expected.push_back(FileHeader(plan.files.back()) + a.substr(rank * 600000, 600000) +
                       b.substr(rank * 600000, 600000) + std::string(600, '\0'));
  }
  plan_ = std::move(plan);
  files_ = {0, 1, 2};
  expected_ = expected;
  MemorySink sink;
  Run(sink);
  ExpectFiles(sink);
}

}  // namespace
}  // namespace dsv3::convert
