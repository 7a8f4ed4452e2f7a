#include "convert/forward/read_ahead.h"

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::testing {
namespace {

using convert::ReadAhead;
using convert::RowBytes;
using convert::TensorRows;

std::vector<TensorRows> Panels(std::size_t count) {
  std::vector<TensorRows> panels;
  for (std::size_t i = 0; i < count; ++i) panels.push_back({3, 2 * i, 2 * i + 2, 5});
  return panels;
}

// Writes the number of the first row.
void ReadFirst(const TensorRows& rows, RowBytes& bytes) {
  if (bytes.buffer.size() == 0) bytes.buffer = formats::AlignedBuffer(64);
  bytes.buffer.data()[0] = static_cast<std::byte>(rows.first);
  bytes.inputs = {bytes.buffer.span().first(1)};
}

TEST(ReadAheadTest, GivesTheRowsThatWereAskedForOnceEach) {
  std::mutex mutex;
  std::multiset<std::uint64_t> read;
  ReadAhead ahead(
      [&](const TensorRows& rows, RowBytes& bytes) {
        ReadFirst(rows, bytes);
        const std::lock_guard lock(mutex);
        read.insert(rows.first);
      },
      3);
  const std::vector<TensorRows> panels = Panels(50);
  ahead.Ask(panels);
  ahead.Ask(panels);
  RowBytes bytes;
  std::size_t taken = 0;
  for (const TensorRows& rows : panels) {
    if (!ahead.Take(rows, bytes)) continue;  // the caller was faster
    ++taken;
    ASSERT_EQ(bytes.inputs.at(0)[0], static_cast<std::byte>(rows.first));
    EXPECT_FALSE(ahead.Take(rows, bytes)) << "twice";
  }
  const std::lock_guard lock(mutex);
  EXPECT_EQ(read.size(), taken);
  EXPECT_EQ(std::set<std::uint64_t>(read.begin(), read.end()).size(), taken);
}

TEST(ReadAheadTest, HoldsNoMoreThanItsSlots) {
  std::atomic<unsigned> reads = 0;
  std::condition_variable changed;
  std::mutex mutex;
  ReadAhead ahead(
      [&](const TensorRows& rows, RowBytes& bytes) {
        ReadFirst(rows, bytes);
        const std::lock_guard lock(mutex);
        ++reads;
        changed.notify_all();
      },
      2);
  const std::vector<TensorRows> panels = Panels(9);
  ahead.Ask(panels);
  const auto wait_for = [&](unsigned count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return reads >= count; });
  };
  wait_for(2);
  // The last one was not begun: it needs no slot.
  RowBytes bytes;
  EXPECT_TRUE(ahead.IsAsked(panels[8]));
  EXPECT_FALSE(ahead.Take(panels[8], bytes));
  EXPECT_FALSE(ahead.IsAsked(panels[8]));
  EXPECT_EQ(reads, 2U);
  EXPECT_TRUE(ahead.Take(panels[0], bytes));
  wait_for(3);
}

TEST(ReadAheadTest, ThrowsWhatReadingThrewAndGoesOn) {
  std::atomic<unsigned> reads = 0;
  ReadAhead ahead(
      [&](const TensorRows& rows, RowBytes& bytes) {
        ++reads;
        if (rows.first == 0) throw std::runtime_error("the disk failed");
        ReadFirst(rows, bytes);
      },
      1);
  const std::vector<TensorRows> panels = Panels(2);
  ahead.Ask(panels);
  while (reads == 0) std::this_thread::yield();
  RowBytes bytes;
  EXPECT_THROW(ahead.Take(panels[0], bytes), std::runtime_error);
  while (reads == 1) std::this_thread::yield();
  EXPECT_TRUE(ahead.Take(panels[1], bytes));
}

TEST(ReadAheadTest, EndsWhileRowsWait) {
  ReadAhead ahead(ReadFirst, 1);
  ahead.Ask(Panels(20));
}

}  // namespace
}  // namespace dsv3::testing
