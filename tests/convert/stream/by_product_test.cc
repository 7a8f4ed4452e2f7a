// Files whose tensors are made two at a time, and in panels: bytes, digests, order of writing.

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/executor.h"
#include "convert/stream/output_digests.h"
#include "formats/error.h"
#include "tests/convert/stream/memory_sink.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/panel_expression.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::Panels;
using testing::Sha256Of;
using testing::TinyCheckpoint;
using testing::Xxh3Of;

// Where the sums stand in the output.
enum class Place { kBehind, kBefore, kGivenHeader };
// What a source says of them.
enum class Expected { kNothing, kRight, kWrong };

struct Weight {
  const char* name;
  std::uint64_t rows;
  std::uint64_t cols;
  std::uint64_t panel_rows;
  std::uint64_t block_cols;
};
// Panels of odd sizes: several to a chunk, one longer than a chunk with so many sums that they fill
// pages, one row each, one for all of a tiny tensor.
constexpr Weight kWeights[] = {
    {"a", 1000, 777, 64, 128}, {"b", 700, 1500, 256, 1}, {"c", 4001, 33, 1, 16}, {"d", 3, 5, 7, 2}};

class ByProductTest : public ::testing::Test {
 protected:
  static std::string SumsName(const std::string& weight) { return weight + "_sums"; }

  // `odd` makes the number of codes one for which sums cannot stand behind.
  void SetUpCheckpoint(Place place, Expected expected) {
    TinyCheckpoint checkpoint;
    for (const Weight& weight : kWeights) {
      checkpoint.Add("w", weight.name, Dtype::kBF16, {weight.rows, weight.cols});
    }
    checkpoint.Add("w", "copied", Dtype::kBF16, {300001});
    for (std::size_t i = 0; i < 300; ++i) {
      checkpoint.Add("w", "tiny" + std::to_string(i), Dtype::kF32, {i % 7});
    }
    std::uint64_t bytes = 2 * 300001;
    for (const Weight& weight : kWeights) bytes += weight.rows * weight.cols;
    const std::uint64_t mask = 100000 + (4 - bytes % 4) % 4 + (place == Place::kBehind ? 0 : 1);
    checkpoint.Add("w", "mask", Dtype::kBool, {mask});
    if (expected != Expected::kNothing) {
      for (const Weight& weight : kWeights) {
        const testing::PanelResult made = MakeExpected(checkpoint, weight);
        testing::TinyTensor& sums =
            checkpoint.Add("sums", SumsName(weight.name), Dtype::kF32,
                           {(weight.rows + weight.panel_rows - 1) / weight.panel_rows,
                            (weight.cols + weight.block_cols - 1) / weight.block_cols});
        sums.bytes = made.sums;
        // One block of one tensor was edited.
        if (expected == Expected::kWrong && std::string(weight.name) == "c") sums.bytes[70] ^= 1;
      }
    }
    checkpoint.Write(dir_ / "in");
    checkpoint_ = std::move(checkpoint);
    catalog_.emplace(testing::CatalogOf(dir_ / "in"));
    for (const CatalogTensor& tensor : catalog_->tensors()) source_bytes_ += tensor.extent.length;
    MakePlan(place, expected);
  }

  static Panels PanelsOf(const Weight& weight) {
    return {0, weight.panel_rows, weight.block_cols, std::nullopt};
  }
  static testing::PanelResult MakeExpected(TinyCheckpoint& checkpoint, const Weight& weight) {
    return testing::ExpectedPanels(checkpoint.Find(weight.name).bytes, weight.rows, weight.cols,
                                   PanelsOf(weight));
  }

  void MakePlan(Place place, Expected expected) {
    NamedExpressions tensors;
    std::map<std::string, std::string> values;
    for (const Weight& weight : kWeights) {
      Panels panels = PanelsOf(weight);
      panels.source = catalog_->Find(weight.name);
      if (expected != Expected::kNothing) {
        panels.expected_sums = catalog_->Find(SumsName(weight.name));
      }
      testing::PanelExpressions made = testing::MakePanels(*catalog_, panels);
      tensors.emplace_back(weight.name, std::move(made.value));
      tensors.emplace_back(SumsName(weight.name), std::move(made.sums));
      const testing::PanelResult result = MakeExpected(checkpoint_, weight);
      values[weight.name] = result.value;
      values[SumsName(weight.name)] = result.sums;
      quality_[weight.name] = result.quality;
    }
    for (std::uint32_t i = 0; i < catalog_->tensors().size(); ++i) {
      const std::string& name = catalog_->tensors()[i].name;
      if (values.count(name) != 0) continue;
      tensors.emplace_back(name, Copy(*catalog_, i));
      values[name] = checkpoint_.Find(name).bytes;
    }
    plan_.files.push_back(PlanFile("out.safetensors", std::move(tensors)));
    if (place == Place::kGivenHeader) GiveHeader();
    const PlannedFile& file = plan_.files[0];
    content_ = FileHeader(file);
    for (const PlannedTensor& tensor : file.tensors) content_ += values.at(tensor.entry.name);
    ASSERT_EQ(content_.size(), file.bytes);
  }

  // Another order, makers before and behind what they make, and a header of an odd length.
  void GiveHeader() {
    PlannedFile laid_out = std::move(plan_.files[0]);
    std::vector<formats::SafetensorsTensor> entries;
    NamedExpressions tensors;
    for (PlannedTensor& tensor : laid_out.tensors) {
      const TensorEntry& entry = tensor.entry;
      entries.push_back({entry.name, entry.dtype, entry.shape, 0, entry.bytes});
      tensors.emplace_back(tensor.entry.name, std::move(tensor.expression));
    }
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    const auto named = [&](std::string_view name) {
      return std::find_if(entries.begin(), entries.end(),
                          [&](const auto& entry) { return entry.name == name; });
    };
    std::iter_swap(named("b"), named("b_sums"));
    std::uint64_t end = 0;
    for (formats::SafetensorsTensor& entry : entries) {
      const std::uint64_t bytes = entry.end - entry.begin;
      entry.begin = end;
      entry.end = end += bytes;
    }
    std::string header = formats::SerializeSafetensorsHeader(entries, {});
    header += "     ";
    const std::uint64_t length = header.size() - 8;
    for (std::size_t i = 0; i < 8; ++i) header[i] = static_cast<char>(length >> (8 * i));
    const formats::SafetensorsHeader parsed =
        formats::ParseSafetensorsHeader(testing::AsBytes(header), header.size() + end, "header");
    plan_.files[0] = PlanFileLike("out.safetensors", header, parsed, std::move(tensors));
  }

  void Run(OutputSink& sink, ProgressSink& progress, const StopToken& stop) {
    SourceFiles sources(*catalog_);
    Execute(plan_, files_, sources, options_, sink, progress, stop);
    bytes_read_ = sources.bytes_read();
  }
  void Run(OutputSink& sink) {
    ProgressSink progress;
    StopToken stop;
    Run(sink, progress, stop);
  }

  void ExpectRecord(const FileRecord& record) {
    const PlannedFile& file = plan_.files[0];
    EXPECT_EQ(record.file.sha256, options_.sha256 ? Sha256Of(content_) : "");
    EXPECT_EQ(record.file.xxh3, options_.sha256 ? "" : Xxh3Of(content_));
    ASSERT_EQ(record.tensors.size(), file.tensors.size());
    for (std::size_t t = 0; t < file.tensors.size(); ++t) {
      const PlannedTensor& tensor = file.tensors[t];
      SCOPED_TRACE(tensor.entry.name);
      const std::string value =
          content_.substr(file.data_offset + tensor.entry.offset, tensor.entry.bytes);
      const std::string& source =
          catalog_->tensors()[tensor.expression->streamed_sources()[0]].name;
      const std::string& streamed = checkpoint_.Find(source).bytes;
      ASSERT_EQ(record.tensors[t].output.xxh3, Xxh3Of(value));
      ASSERT_EQ(record.tensors[t].streamed.xxh3, Xxh3Of(streamed));
      ASSERT_EQ(record.tensors[t].output.sha256, options_.tensor_sha256 ? Sha256Of(value) : "");
      ASSERT_EQ(record.tensors[t].streamed.sha256,
                options_.tensor_sha256 ? Sha256Of(streamed) : "");
      const auto quality = quality_.find(tensor.entry.name);
      ASSERT_EQ(record.tensors[t].quality != nullptr, quality != quality_.end());
      if (quality == quality_.end()) continue;
      EXPECT_EQ(record.tensors[t].quality->elements, quality->second.elements);
      EXPECT_EQ(record.tensors[t].quality->blocks, quality->second.blocks);
      EXPECT_EQ(record.tensors[t].quality->max_abs_error, quality->second.max_abs_error);
      EXPECT_EQ(record.tensors[t].quality->sum_squared_error, quality->second.sum_squared_error);
      EXPECT_EQ(record.tensors[t].quality->sum_squares, quality->second.sum_squares);
    }
  }

  // Where a by-product that is not expected begins first.
  std::uint64_t RestBytes() const { return PlannedRest(plan_.files[0]); }

  testing::TempDir dir_{testing::MemoryDirectory()};
  TinyCheckpoint checkpoint_;
  std::optional<Catalog> catalog_;
  Plan plan_;
  std::vector<std::size_t> files_ = {0};
  std::string content_;
  std::map<std::string, quant::Quality> quality_;
  std::uint64_t source_bytes_ = 0;
  std::uint64_t bytes_read_ = 0;
  ExecutorOptions options_;
};

class Layouts : public ByProductTest,
                public ::testing::WithParamInterface<std::pair<Place, Expected>> {};

INSTANTIATE_TEST_SUITE_P(All, Layouts,
                         ::testing::Values(std::pair(Place::kBehind, Expected::kNothing),
                                           std::pair(Place::kBefore, Expected::kNothing),
                                           std::pair(Place::kGivenHeader, Expected::kNothing),
                                           std::pair(Place::kBefore, Expected::kRight),
                                           std::pair(Place::kBefore, Expected::kWrong),
                                           std::pair(Place::kGivenHeader, Expected::kRight),
                                           std::pair(Place::kGivenHeader, Expected::kWrong)));

TEST_P(Layouts, BytesAndDigestsDependOnNoOption) {
  SetUpCheckpoint(GetParam().first, GetParam().second);
  for (const unsigned threads : {1U, 5U}) {
    for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
      for (const bool sha256 : {true, false}) {
        SCOPED_TRACE(::testing::Message() << threads << " threads, " << memory << " bytes");
        options_.threads = threads;
        options_.memory_bytes = memory;
        options_.sha256 = sha256;
        options_.tensor_sha256 = !sha256;
        MemorySink sink;
        Run(sink);
        EXPECT_TRUE(sink.files.at(0) == content_);
        ExpectRecord(sink.records.at(0));
        // Sums that are expected are read twice: to be digested, and to be compared. What is read
        // with its neighbours adds a little.
        EXPECT_LE(bytes_read_, source_bytes_ + source_bytes_ / 4);
        if (GetParam().second == Expected::kNothing) {
          EXPECT_LE(bytes_read_, source_bytes_ + 1000);
        }
      }
    }
  }
}

TEST_P(Layouts, ReadsBackOnlyWhatCouldNotBeDigestedInOrder) {
  SetUpCheckpoint(GetParam().first, GetParam().second);
  options_.memory_bytes = kMinMemoryBytes;
  options_.threads = 2;
  MemorySink sink;
  Run(sink);
  const std::uint64_t expected = GetParam().second == Expected::kWrong   ? content_.size()
                                 : GetParam().second == Expected::kRight ? 0
                                                                         : RestBytes();
  EXPECT_EQ(sink.bytes_read_back[0], expected);
}

TEST_P(Layouts, WritesEachByteOnceAndInWholePages) {
  SetUpCheckpoint(GetParam().first, GetParam().second);
  options_.memory_bytes = kMinMemoryBytes;
  options_.threads = 5;
  MemorySink sink;
  Run(sink);
  std::uint64_t bytes = 0;
  std::uint64_t small_writes = 0;
  for (const MemorySink::Write& write : sink.writes) {
    bytes += write.bytes;
    EXPECT_EQ(write.offset % PageWriter::kPageBytes, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(write.address) % PageWriter::kPageBytes, 0U);
    EXPECT_TRUE(write.bytes % PageWriter::kPageBytes == 0 ||
                write.offset + write.bytes == content_.size());
    small_writes += write.bytes <= PageWriter::kPageBytes ? 1 : 0;
  }
  EXPECT_EQ(bytes, content_.size());
  // Sums of many panels go to the disk together.
  const PlannedFile& file = plan_.files[0];
  const auto sums =
      std::find_if(file.tensors.begin(), file.tensors.end(),
                   [](const PlannedTensor& tensor) { return tensor.entry.name == "c_sums"; });
  const std::uint64_t begin = file.data_offset + sums->entry.offset;
  const std::uint64_t end = file.data_offset + sums->entry.end();
  EXPECT_TRUE(std::any_of(sink.writes.begin(), sink.writes.end(), [&](const auto& write) {
    return write.offset >= begin && write.offset + write.bytes <= end &&
           write.bytes > PageWriter::kPageBytes;
  }));
  // Two for the ends of each chunk, and the pages of short rows of sums.
  EXPECT_LE(small_writes, 200U);
}

TEST_P(Layouts, ReportsEachByteOnceAndThePlannedRest) {
  SetUpCheckpoint(GetParam().first, GetParam().second);
  testing::CountingSink counter;
  MemorySink sink;
  StopToken stop;
  options_.memory_bytes = kMinMemoryBytes;
  options_.threads = 2;
  Run(sink, counter, stop);
  EXPECT_EQ(counter.bytes(), content_.size() + RestBytes());
}

TEST_P(Layouts, AStopAtAnyWriteOrReadEndsAsInterrupted) {
  SetUpCheckpoint(GetParam().first, GetParam().second);
  options_.memory_bytes = kMinMemoryBytes;
  options_.threads = 2;
  std::size_t calls = 0;
  for (std::size_t at = 0; at == 0 || at < calls; at += 7) {
    MemorySink sink;
    StopToken stop;
    std::atomic<std::size_t> count = 0;
    const auto hook = [&](std::size_t, std::uint64_t) {
      if (count++ == at) stop.RequestStop();
    };
    sink.on_write = hook;
    sink.on_read_back = hook;
    ProgressSink progress;
    try {
      Run(sink, progress, stop);
      EXPECT_EQ(sink.records.size(), 1U);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
      EXPECT_TRUE(sink.records.empty());
    }
    if (at == 0) {
      MemorySink whole;
      Run(whole);
      calls = whole.writes.size() + static_cast<std::size_t>(whole.bytes_read_back[0] >> 18);
    }
  }
}

TEST_F(ByProductTest, AnErrorWhileReadingBackEndsTheJob) {
  SetUpCheckpoint(Place::kBefore, Expected::kNothing);
  options_.memory_bytes = kMinMemoryBytes;
  MemorySink sink;
  sink.on_read_back = [](std::size_t, std::uint64_t offset) {
    if (offset > 1000000) throw Error(ErrorCode::kIo, "planted");
  };
  EXPECT_EQ(testing::ErrorOf([&] { Run(sink); }).message(), "planted");
  EXPECT_TRUE(sink.records.empty());
}

TEST_F(ByProductTest, NoChunkTakesMoreMemoryThanIsPlanned) {
  SetUpCheckpoint(Place::kBefore, Expected::kRight);
  const PlannedFile& file = plan_.files[0];
  for (const std::uint64_t chunk_bytes : {std::uint64_t{256} << 10, std::uint64_t{1} << 20}) {
    const ChunkMemory most = MostChunkMemory(plan_, files_, chunk_bytes);
    SourceFiles sources(*catalog_);
    std::uint64_t offset = 0;
    Chunk chunk;
    while (offset < file.bytes) {
      chunk.offset = offset;
      chunk.end = ChunkEnd(file, offset, chunk_bytes);
      ASSERT_GT(chunk.end, offset);
      ReadChunk(file, 0, sources, chunk);
      EXPECT_LE(chunk.output_buffer.size(), most.output_bytes) << "chunk at " << offset;
      EXPECT_LE(chunk.input_buffer.size(), most.input_bytes) << "chunk at " << offset;
      offset = chunk.end;
    }
    EXPECT_EQ(offset, file.bytes);
  }
}

TEST_F(ByProductTest, LongPanelsLeaveMemoryWithinItsBound) {
  SetUpCheckpoint(Place::kBehind, Expected::kNothing);
  for (const unsigned threads : {1U, 16U, 64U}) {
    options_.threads = threads;
    options_.memory_bytes = kDefaultMemoryBytes;
    const ExecutorResources resources = PlanResources(options_, plan_, files_);
    EXPECT_LE(resources.memory_bytes, kDefaultMemoryBytes);
    EXPECT_GE(resources.chunks, 2U);
    EXPECT_LE(resources.workers, resources.chunks);
  }
  // Two of the longest panels, whatever is asked for.
  options_.memory_bytes = 1;
  EXPECT_EQ(PlanResources(options_, plan_, files_).chunks, 2U);
}

TEST_F(ByProductTest, AMakerThatMakesTooLittleIsABug) {
  SetUpCheckpoint(Place::kBehind, Expected::kNothing);
  // Nobody makes the sums.
  for (PlannedTensor& tensor : plan_.files[0].tensors) tensor.by_product = PlannedTensor::kNone;
  options_.memory_bytes = kMinMemoryBytes;
  MemorySink sink;
  EXPECT_EQ(testing::ErrorOf([&] { Run(sink); }).code(), ErrorCode::kInternal);
  EXPECT_TRUE(sink.records.empty());
}

}  // namespace
}  // namespace dsv3::convert
