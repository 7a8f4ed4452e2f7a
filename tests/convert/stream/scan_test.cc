#include "convert/stream/scan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/stream/executor.h"
#include "convert/stream/unit_pipeline.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::AsString;
using testing::CatalogOf;
using testing::ErrorOf;

// A checkpoint with a tensor that takes several pieces, and many small ones in two shards.
class ScanTest : public ::testing::Test {
 protected:
  ScanTest() {
    checkpoint_.Add("a.safetensors", "large", Dtype::kBF16, {1200, 1000});
    checkpoint_.Add("a.safetensors", "scale", Dtype::kF32, {1200});
    checkpoint_.Add("b.safetensors", "empty", Dtype::kF32, {0, 7});
    for (int i = 0; i < 300; ++i) {
      checkpoint_.Add(i % 2 == 0 ? "a.safetensors" : "b.safetensors", "small" + std::to_string(i),
                      Dtype::kU8, {static_cast<std::uint64_t>(i)});
    }
    checkpoint_.has_index = false;
    checkpoint_.Write(dir_ / "in");
    catalog_.emplace(CatalogOf(dir_ / "in"));
    all_.resize(catalog_->tensors().size());
    std::iota(all_.begin(), all_.end(), 0U);
  }

  struct Seen {
    std::map<std::uint32_t, std::map<std::uint64_t, std::string>> pieces;  // tensor, begin → bytes
    std::map<std::uint32_t, std::map<std::uint64_t, std::string>> sides;
  };

  Seen Scan(const ScanOptions& options, const ScanCut& cut) {
    SourceFiles sources(*catalog_);
    const StopToken stop;
    Seen seen;
    std::mutex mutex;
    ScanTensors(
        *catalog_, all_, sources, options, cut,
        [&](const ScanPiece& piece) {
          const std::lock_guard lock(mutex);
          EXPECT_TRUE(seen.pieces[piece.tensor].emplace(piece.begin, AsString(piece.bytes)).second);
          if (!piece.side.empty()) seen.sides[piece.tensor][piece.begin] = AsString(piece.side[0]);
        },
        sink_, stop);
    return seen;
  }

  // Whether the pieces of each tensor make up its bytes.
  void ExpectWhole(const Seen& seen) {
    std::size_t empty = 0;
    for (const std::uint32_t tensor : all_) {
      const std::string& name = catalog_->tensors()[tensor].name;
      const auto found = seen.pieces.find(tensor);
      if (found == seen.pieces.end()) {
        ++empty;
        EXPECT_EQ(catalog_->tensors()[tensor].extent.length, 0U) << name;
        continue;
      }
      std::string joined;
      for (const auto& [begin, bytes] : found->second) {
        EXPECT_EQ(begin, joined.size()) << name;
        joined += bytes;
      }
      EXPECT_EQ(joined, checkpoint_.Find(name).bytes) << name;
    }
    EXPECT_EQ(empty, 2U);  // "empty" and "small0"
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_;
  std::optional<Catalog> catalog_;
  std::vector<std::uint32_t> all_;
  testing::CountingSink sink_;
};

TEST_F(ScanTest, VisitsEveryByteOnceWhateverThreadsAndMemory) {
  for (const unsigned threads : {1U, 3U}) {
    for (const std::uint64_t memory : {std::uint64_t{1}, kMinMemoryBytes, std::uint64_t{0}}) {
      SCOPED_TRACE(std::to_string(threads) + " threads, memory " + std::to_string(memory));
      const std::uint64_t before = sink_.bytes();
      ExpectWhole(
          Scan({.threads = threads, .memory_bytes = memory, .phase = "reading", .side = {}}, {}));
      EXPECT_EQ(sink_.phase(), "reading");
      EXPECT_EQ(sink_.bytes() - before, sink_.total_bytes());
    }
  }
}

TEST_F(ScanTest, CutsLargeTensorsAtWholeElementsWhereMemoryIsSmall) {
  const Seen seen = Scan({.threads = 1, .memory_bytes = 1, .phase = {}, .side = {}}, {});
  const auto& pieces = seen.pieces.at(catalog_->Find("large"));
  EXPECT_EQ(pieces.size(), 10U);  // 2.4 MB in pieces of 256 KiB
  for (const auto& [begin, bytes] : pieces) {
    EXPECT_EQ(begin % 2, 0U);
    EXPECT_LE(bytes.size(), std::size_t{256} << 10);
  }
}

TEST_F(ScanTest, CutsWhereItIsAskedToAndMakesLongerPiecesForLongerPanels) {
  for (const std::uint64_t panel : {std::uint64_t{2000}, std::uint64_t{600'000}}) {
    const Seen seen =
        Scan({.threads = 2, .memory_bytes = 1, .phase = {}, .side = {}},
             [&](std::uint32_t, std::uint64_t position) { return position / panel * panel; });
    ExpectWhole(seen);
    const auto& pieces = seen.pieces.at(catalog_->Find("large"));
    for (const auto& [begin, bytes] : pieces) EXPECT_EQ(begin % panel, 0U);
    EXPECT_EQ(pieces.size(), panel == 2000 ? 10U : 4U);
  }
}

TEST_F(ScanTest, ReadsWhatBelongsToAPieceWithIt) {
  const std::uint32_t large = catalog_->Find("large");
  const std::uint32_t scale = catalog_->Find("scale");
  const ScanSide side = [&](std::uint32_t tensor, std::uint64_t begin, std::uint64_t end,
                            std::vector<SourceRange>& reads) {
    if (tensor == large) reads.push_back({scale, begin / 2000 * 4, end / 2000 * 4});
  };
  const Seen seen =
      Scan({.threads = 2, .memory_bytes = 1, .phase = {}, .side = side},
           [&](std::uint32_t, std::uint64_t position) { return position / 2000 * 2000; });
  ExpectWhole(seen);
  ASSERT_EQ(seen.sides.size(), 1U);
  std::string joined;
  for (const auto& [begin, bytes] : seen.sides.at(large)) joined += bytes;
  EXPECT_EQ(joined, checkpoint_.Find("scale").bytes);
}

TEST_F(ScanTest, VisitsThePiecesOfATensorInOrderWhereAsked) {
  SourceFiles sources(*catalog_);
  const StopToken stop;
  ScanOptions options{.threads = 4, .memory_bytes = kMinMemoryBytes / 4, .phase = {}, .side = {}};
  options.in_order = true;
  // Not guarded: each tensor's are touched by one thread at a time.
  std::vector<std::uint64_t> next(all_.size(), 0);
  std::vector<std::string> bytes(all_.size());
  ScanTensors(
      *catalog_, all_, sources, options, {},
      [&](const ScanPiece& piece) {
        EXPECT_EQ(piece.begin, next[piece.tensor]);
        if (piece.begin == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        next[piece.tensor] = piece.begin + piece.bytes.size();
        bytes[piece.tensor] += AsString(piece.bytes);
      },
      sink_, stop);
  for (const std::uint32_t tensor : all_) {
    const std::string& name = catalog_->tensors()[tensor].name;
    EXPECT_EQ(bytes[tensor], checkpoint_.Find(name).bytes) << name;
  }
}

TEST_F(ScanTest, EndsWhenStoppedWhilePiecesWaitForTheirTurn) {
  SourceFiles sources(*catalog_);
  StopToken stop;
  ScanOptions options{.threads = 4, .memory_bytes = 1, .phase = {}, .side = {}};
  options.in_order = true;
  const std::uint32_t large = catalog_->Find("large");
  const Error error = ErrorOf([&] {
    ScanTensors(
        *catalog_, std::span(&large, 1), sources, options, {},
        [&](const ScanPiece&) { stop.RequestStop(); }, sink_, stop);
  });
  EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
}

TEST_F(ScanTest, TellsOfAnErrorWhilePiecesWaitForTheirTurn) {
  SourceFiles sources(*catalog_);
  const StopToken stop;
  ScanOptions options{.threads = 4, .memory_bytes = 1, .phase = {}, .side = {}};
  options.in_order = true;
  const Error error = ErrorOf([&] {
    ScanTensors(
        *catalog_, all_, sources, options, {},
        [](const ScanPiece&) { throw Error(ErrorCode::kBadInput, "bad piece"); }, sink_, stop);
  });
  EXPECT_EQ(error.message(), "bad piece");
}

TEST_F(ScanTest, TellsOfAVisitorsError) {
  SourceFiles sources(*catalog_);
  const StopToken stop;
  const Error error = ErrorOf([&] {
    ScanTensors(
        *catalog_, all_, sources, {.threads = 2, .memory_bytes = 1, .phase = {}, .side = {}}, {},
        [](const ScanPiece&) { throw Error(ErrorCode::kBadInput, "bad piece"); }, sink_, stop);
  });
  EXPECT_EQ(error.message(), "bad piece");
}

TEST_F(ScanTest, EndsWhenStopped) {
  SourceFiles sources(*catalog_);
  StopToken stop;
  std::atomic<int> visits{0};
  const Error error = ErrorOf([&] {
    ScanTensors(
        *catalog_, all_, sources, {.threads = 1, .memory_bytes = 1, .phase = {}, .side = {}}, {},
        [&](const ScanPiece&) {
          ++visits;
          stop.RequestStop();
        },
        sink_, stop);
  });
  EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
  EXPECT_LT(visits, 400);
}

TEST_F(ScanTest, RefusesAFileThatChanged) {
  testing::WriteFile(dir_ / "in" / "b.safetensors", "short");
  const Error error =
      ErrorOf([&] { Scan({.threads = 2, .memory_bytes = 0, .phase = {}, .side = {}}, {}); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), ::testing::HasSubstr("b.safetensors"));
}

TEST_F(ScanTest, VisitsNothingForNoTensors) {
  all_.clear();
  EXPECT_TRUE(Scan({.threads = 2, .memory_bytes = 0, .phase = {}, .side = {}}, {}).pieces.empty());
  EXPECT_EQ(sink_.total_bytes(), 0U);
}

TEST(PlanUnitPipelineTest, KeepsBuffersBelowTheMemory) {
  for (const unsigned threads : {1U, 2U, 64U}) {
    for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
      for (const unsigned buffers : {1U, 2U}) {
        const UnitResources resources = PlanUnitPipeline(threads, memory, buffers);
        EXPECT_GE(resources.workers, 2U);
        EXPECT_LE(resources.workers, threads + 4);
        EXPECT_LE(resources.workers * buffers * resources.unit_bytes, memory);
      }
    }
  }
  EXPECT_EQ(PlanUnitPipeline(2, kDefaultMemoryBytes, 1).unit_bytes, std::size_t{4} << 20);
  EXPECT_EQ(PlanUnitPipeline(2, 1, 1).workers, 2U);
}

}  // namespace
}  // namespace dsv3::convert
