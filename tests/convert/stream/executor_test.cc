#include "convert/stream/executor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/dequantize_expression.h"
#include "formats/error.h"
#include "tests/convert/stream/memory_sink.h"
#include "tests/convert/support/aligned_container.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
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

// Files that are much longer than a chunk, a file of nothing but a header, and thousands of tiny
// tensors beside large ones, with gaps between them.
class ExecutorTest : public ::testing::Test {
 protected:
  static constexpr char kLarge[] = "a-large.safetensors";
  static constexpr char kMixed[] = "b-mixed.safetensors";
  static constexpr char kEmpty[] = "c-empty.safetensors";
  static constexpr char kSmall[] = "d-small.safetensors";
  static constexpr quant::BlockShape kBlock = {128, 128};

  static testing::TinyCheckpoint Checkpoint() {
    testing::TinyCheckpoint checkpoint;
    checkpoint.Add(kLarge, "large.weight", Dtype::kF8E4M3, {1000, 777});
    checkpoint.AddScale(kSmall, "large.weight_scale_inv", Dtype::kF32, {8, 7});
    checkpoint.Add(kLarge, "copied", Dtype::kBF16, {300001});
    checkpoint.Add(kMixed, "middle.weight", Dtype::kF8E4M3, {129, 2048});
    checkpoint.AddScale(kMixed, "middle.weight_scale_inv", Dtype::kBF16, {2, 16});
    for (std::size_t i = 0; i < 2000; ++i) {
      checkpoint.Add(kMixed, "tiny" + std::to_string(i), Dtype::kF32, {i % 7});
    }
    checkpoint.Add(kMixed, "mask", Dtype::kBool, {100003});
    checkpoint.Add(kEmpty, "none", Dtype::kF32, {0, 3});
    checkpoint.Add(kSmall, "scalar", Dtype::kI64, {});
    return checkpoint;
  }

  void SetUp() override {
    checkpoint_ = Checkpoint();
    checkpoint_.Write(dir_ / "in");
    catalog_.emplace(testing::CatalogOf(dir_ / "in"));
    std::map<std::string, std::vector<std::pair<std::string, ExpressionPtr>>> by_file;
    for (std::uint32_t i = 0; i < catalog_->tensors().size(); ++i) {
      const CatalogTensor& tensor = catalog_->tensors()[i];
      if (tensor.name.ends_with("_scale_inv")) continue;
      const std::uint32_t scale = catalog_->Find(tensor.name + "_scale_inv");
      by_file[catalog_->files()[tensor.extent.file].name].emplace_back(
          tensor.name,
          scale == Catalog::kNone
              ? Copy(*catalog_, i)
              : Dequantize(*catalog_, testing::MatrixPair(*catalog_, i, scale, kBlock)));
    }
    const testing::MemorySource memory(checkpoint_, *catalog_);
    for (auto& [name, tensors] : by_file) {
      // One of the files has gaps.
      const Container& container =
          name == kMixed ? testing::AlignedContainer::Get() : Safetensors();
      plan_.files.push_back(PlanFile(name, std::move(tensors), PtMetadata(), container));
      const PlannedFile& file = plan_.files.back();
      std::string& content = expected_.emplace_back(FileHeader(file));
      for (const PlannedTensor& tensor : file.tensors) {
        EvaluationCounts counts;
        testing::FillGap(file, tensor, content);
        content += memory.Evaluate(*tensor.expression, counts);
        nan_codes_[tensor.entry.name] = counts.nan_codes;
      }
    }
    files_.resize(plan_.files.size());
    std::iota(files_.begin(), files_.end(), std::size_t{0});
    options_.memory_bytes = kMinMemoryBytes;
  }

  void Run(OutputSink& sink, ProgressSink& progress) {
    SourceFiles sources(*catalog_);
    Execute(plan_, files_, sources, options_, sink, progress, stop_);
  }
  void Run(OutputSink& sink) {
    ProgressSink progress;
    Run(sink, progress);
  }

  void ExpectAllFiles(const MemorySink& sink) const {
    for (std::size_t i = 0; i < expected_.size(); ++i) {
      EXPECT_TRUE(sink.files.at(i) == expected_[i]) << plan_.files[i].name;
      EXPECT_EQ(sink.records.count(i), 1U) << plan_.files[i].name;
    }
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_;
  std::optional<Catalog> catalog_;
  Plan plan_;
  std::vector<std::size_t> files_;
  std::vector<std::string> expected_;  // by position in plan_.files
  std::map<std::string, std::uint64_t> nan_codes_;
  ExecutorOptions options_;
  StopToken stop_;
};

TEST_F(ExecutorTest, BytesDependOnNoOption) {
  for (const unsigned threads : {1U, 2U, 5U}) {
    for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
      for (const unsigned max_open_files : {0U, 1U, 2U, 3U, 4U}) {
        SCOPED_TRACE(::testing::Message() << threads << " threads, " << memory << " bytes, "
                                          << max_open_files << " files");
        options_.threads = threads;
        options_.memory_bytes = memory;
        options_.max_open_files = max_open_files;
        MemorySink sink;
        Run(sink);
        ExpectAllFiles(sink);
        EXPECT_LE(sink.most_open,
                  max_open_files != 0 ? std::size_t{max_open_files} : files_.size());
      }
    }
  }
}

TEST_F(ExecutorTest, DigestsAreThoseOfFilesAndTensors) {
  for (const unsigned threads : {1U, 5U}) {
    for (const bool sha256 : {true, false}) {
      options_.threads = threads;
      options_.sha256 = sha256;
      options_.tensor_sha256 = sha256;
      MemorySink sink;
      Run(sink);
      for (std::size_t i = 0; i < expected_.size(); ++i) {
        const PlannedFile& file = plan_.files[i];
        const FileRecord& record = sink.records.at(i);
        EXPECT_EQ(record.name, file.name);
        EXPECT_EQ(record.bytes, expected_[i].size());
        EXPECT_EQ(record.file.sha256, sha256 ? Sha256Of(expected_[i]) : "");
        EXPECT_EQ(record.file.xxh3, sha256 ? "" : Xxh3Of(expected_[i]));
        ASSERT_EQ(record.tensors.size(), file.tensors.size());
        for (std::size_t t = 0; t < file.tensors.size(); ++t) {
          const PlannedTensor& tensor = file.tensors[t];
          SCOPED_TRACE(tensor.entry.name);
          const std::string value =
              expected_[i].substr(file.data_offset + tensor.entry.offset, tensor.entry.bytes);
          const std::string& streamed = checkpoint_.Find(tensor.entry.name).bytes;
          ASSERT_EQ(record.tensors[t].output.xxh3, Xxh3Of(value));
          ASSERT_EQ(record.tensors[t].streamed.xxh3, Xxh3Of(streamed));
          ASSERT_EQ(record.tensors[t].output.sha256, sha256 ? Sha256Of(value) : "");
          ASSERT_EQ(record.tensors[t].streamed.sha256, sha256 ? Sha256Of(streamed) : "");
          ASSERT_EQ(record.tensors[t].nan_codes, nan_codes_.at(tensor.entry.name));
        }
      }
    }
  }
}

TEST_F(ExecutorTest, ChunksThatAreWrittenOutOfOrderAreDigestedInOrder) {
  files_ = {0};
  options_.threads = 1;
  MemorySink sink;
  std::mutex mutex;
  std::condition_variable others_wrote;
  std::size_t others = 0;
  bool overtaken = false;
  sink.on_write = [&](std::size_t, std::uint64_t offset) {
    std::unique_lock lock(mutex);
    if (offset != 0) {
      ++others;
      others_wrote.notify_all();
      return;
    }
    // Six writes by four other threads: some of them are through with their chunks. The time limit
    // only keeps a broken executor from waiting for ever.
    overtaken = others_wrote.wait_for(lock, std::chrono::seconds(60), [&] { return others >= 6; });
  };
  Run(sink);
  EXPECT_TRUE(overtaken);
  EXPECT_TRUE(sink.files.at(0) == expected_[0]);
  EXPECT_EQ(sink.records.at(0).file.sha256, Sha256Of(expected_[0]));
}

TEST_F(ExecutorTest, ReportsEachByteOnce) {
  class Counter final : public ProgressSink {
   public:
    void OnBytes(std::uint64_t bytes, std::string_view file) override {
      const std::lock_guard lock(mutex_);
      bytes_[std::string(file)] += bytes;
    }
    std::mutex mutex_;
    std::map<std::string, std::uint64_t> bytes_;
  } counter;
  options_.threads = 5;
  MemorySink sink;
  Run(sink, counter);
  ASSERT_EQ(counter.bytes_.size(), plan_.files.size());
  for (const PlannedFile& file : plan_.files) EXPECT_EQ(counter.bytes_[file.name], file.bytes);
}

TEST_F(ExecutorTest, ReadsEachSourceByteOnce) {
  std::uint64_t streamed = 0;
  for (const testing::TinyTensor& tensor : checkpoint_.tensors) streamed += tensor.bytes.size();
  MemorySink sink;
  ProgressSink progress;
  SourceFiles sources(*catalog_);
  Execute(plan_, files_, sources, options_, sink, progress, stop_);
  EXPECT_GE(sources.bytes_read(), streamed);
  // Beyond them a scale row for each cut of a weight, and gaps between tiny tensors.
  EXPECT_LE(sources.bytes_read(), streamed + streamed / 10);
}

TEST_F(ExecutorTest, ChunkMemoryStaysWithinItsBound) {
  constexpr std::uint64_t kChunk = 256 << 10;  // with the least memory
  options_.threads = 64;
  MemorySink sink;
  sink.on_write = [&](std::size_t, std::uint64_t offset) { EXPECT_EQ(offset % kChunk, 0U); };
  Run(sink);
  // Each buffer has its like for what is read.
  EXPECT_LE(sink.buffers.size() * 2 * kChunk, options_.memory_bytes);
}

TEST_F(ExecutorTest, AnErrorOfTheSinkEndsTheJobAsThatError) {
  for (const unsigned threads : {1U, 2U, 5U}) {
    options_.threads = threads;
    for (std::size_t file = 0; file < files_.size(); ++file) {
      for (const int where : {0, 1, 2}) {
        MemorySink sink;
        const auto fail = [&](std::size_t at) {
          if (at == file) throw Error(ErrorCode::kIo, "planted in " + plan_.files[at].name);
        };
        if (where == 0) sink.on_open = fail;
        if (where == 1) sink.on_write = [&](std::size_t at, std::uint64_t) { fail(at); };
        if (where == 2) sink.on_commit = fail;
        const Error error = testing::ErrorOf([&] { Run(sink); });
        EXPECT_EQ(error.code(), ErrorCode::kIo);
        EXPECT_EQ(error.message(), "planted in " + plan_.files[file].name);
        EXPECT_EQ(sink.records.count(file), 0U);
      }
    }
  }
}

TEST_F(ExecutorTest, ASourceThatShrinksWhileItIsReadIsBadInput) {
  const auto time = std::filesystem::last_write_time(dir_ / "in" / kLarge);
  for (const unsigned threads : {1U, 5U}) {
    options_.threads = threads;
    SourceFiles sources(*catalog_);
    sources.Get(0);  // open
    std::filesystem::resize_file(dir_ / "in" / kLarge, 4096);
    MemorySink sink;
    ProgressSink progress;
    const Error error =
        testing::ErrorOf([&] { Execute(plan_, files_, sources, options_, sink, progress, stop_); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr(kLarge));
    testing::WriteFile(dir_ / "in" / kLarge, checkpoint_.ShardBytes(kLarge));
    std::filesystem::last_write_time(dir_ / "in" / kLarge, time);
  }
}

TEST_F(ExecutorTest, ASourceThatWasReplacedIsBadInput) {
  options_.max_open_files = 1;
  MemorySink sink;
  sink.on_commit = [&](std::size_t file) {
    if (file != 0) return;
    const std::filesystem::path path = dir_ / "in" / kMixed;
    std::filesystem::last_write_time(
        path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
  };
  const Error error = testing::ErrorOf([&] { Run(sink); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(kMixed));
  EXPECT_THAT(error.message(), HasSubstr("changed"));
}

TEST_F(ExecutorTest, AStopAtAnyWriteEndsAsInterrupted) {
  std::size_t writes = 0;
  {
    MemorySink sink;
    std::mutex mutex;
    sink.on_write = [&](std::size_t, std::uint64_t) {
      const std::lock_guard lock(mutex);
      ++writes;
    };
    Run(sink);
  }
  ASSERT_GT(writes, 10U);
  for (const unsigned threads : {1U, 5U}) {
    options_.threads = threads;
    for (std::size_t at = 0; at < writes; ++at) {
      MemorySink sink;
      StopToken stop;
      std::atomic<std::size_t> count = 0;
      sink.on_write = [&](std::size_t, std::uint64_t) {
        if (count++ == at) stop.RequestStop();
      };
      SourceFiles sources(*catalog_);
      ProgressSink progress;
      try {
        Execute(plan_, files_, sources, options_, sink, progress, stop);
        // Others were writing the rest already.
        EXPECT_EQ(sink.records.size(), files_.size()) << "stopped at write " << at;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
        EXPECT_LT(sink.records.size(), files_.size());
      }
    }
  }
}

TEST_F(ExecutorTest, AStopBeforeTheBeginningWritesNothing) {
  stop_.RequestStop();
  MemorySink sink;
  EXPECT_EQ(testing::ErrorOf([&] { Run(sink); }).code(), ErrorCode::kInterrupted);
  EXPECT_TRUE(sink.files.empty());
}

TEST_F(ExecutorTest, MakesOnlyTheFilesAskedFor) {
  files_ = {1};
  MemorySink sink;
  Run(sink);
  ASSERT_EQ(sink.files.size(), 1U);
  EXPECT_TRUE(sink.files.at(1) == expected_[1]);
  files_.clear();
  MemorySink nothing;
  Run(nothing);
  EXPECT_TRUE(nothing.files.empty());
}

}  // namespace
}  // namespace dsv3::convert
