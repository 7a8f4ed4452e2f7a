#include "convert/stream/page_writer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/convert/stream/memory_sink.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

constexpr std::size_t kPage = PageWriter::kPageBytes;

// The content in pieces of the given lengths, over and over, each at an address that agrees with
// its offset modulo the page if `in_place`.
struct Piece {
  std::size_t offset;
  formats::AlignedBuffer buffer;
  std::span<const std::byte> data;
};
std::vector<Piece> Cut(const std::string& content, const std::vector<std::size_t>& lengths,
                       bool in_place) {
  std::vector<Piece> pieces;
  std::size_t offset = 0;
  for (std::size_t i = 0; offset < content.size(); ++i) {
    const std::size_t length = std::min(lengths[i % lengths.size()], content.size() - offset);
    formats::AlignedBuffer buffer(length + 2 * kPage);
    const std::span<std::byte> data =
        buffer.span().subspan(in_place ? offset % kPage : (offset + 64) % kPage, length);
    std::memcpy(data.data(), content.data() + offset, length);
    pieces.push_back({offset, std::move(buffer), data});
    offset += length;
  }
  return pieces;
}

class PageWriterTest : public ::testing::TestWithParam<bool> {
 protected:
  void ExpectWholePages(std::size_t file_bytes) const {
    for (const MemorySink::Write& write : sink_.writes) {
      EXPECT_EQ(write.offset % kPage, 0U);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(write.address) % kPage, 0U);
      EXPECT_TRUE(write.bytes % kPage == 0 || write.offset + write.bytes == file_bytes);
    }
  }
  MemorySink sink_;
};

INSTANTIATE_TEST_SUITE_P(InPlace, PageWriterTest, ::testing::Bool());

TEST_P(PageWriterTest, JoinsPiecesInAnyOrder) {
  for (const std::size_t bytes : {std::size_t{1}, kPage - 1, kPage, kPage + 1, 5 * kPage + 77}) {
    for (const std::vector<std::size_t>& lengths : std::vector<std::vector<std::size_t>>{
             {1000}, {kPage}, {3 * kPage + 5, 10}, {kPage - 1, 1, 2 * kPage}, {100 * kPage}}) {
      const std::string content = testing::RandomBytes(bytes, bytes);
      std::vector<Piece> pieces = Cut(content, lengths, GetParam());
      std::reverse(pieces.begin(), pieces.end());
      std::rotate(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(pieces.size() / 2),
                  pieces.end());
      const auto output = sink_.Open(0);
      sink_.files.clear();
      sink_.writes.clear();
      PageWriter writer(*output, bytes);
      for (const Piece& piece : pieces) writer.Write(piece.offset, piece.data);
      EXPECT_EQ(writer.bytes(), bytes);
      EXPECT_TRUE(sink_.files.at(0) == content);
      ExpectWholePages(bytes);
    }
  }
}

TEST_P(PageWriterTest, TakesPiecesFromSeveralThreads) {
  const std::string content = testing::RandomBytes(60 * kPage + 9, 1);
  const std::vector<Piece> pieces = Cut(content, {700, 3 * kPage, 5000}, GetParam());
  const auto output = sink_.Open(0);
  PageWriter writer(*output, content.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < pieces.size(); i += 4) {
        writer.Write(pieces[i].offset, pieces[i].data);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(writer.bytes(), content.size());
  EXPECT_TRUE(sink_.files.at(0) == content);
  ExpectWholePages(content.size());
}

TEST(PageWriter, WholePagesGoInOneWriteFromWhereTheyLie) {
  const std::string content = testing::RandomBytes(8 * kPage + 5, 2);
  const std::vector<Piece> pieces = Cut(content, {content.size()}, true);
  MemorySink sink;
  const auto output = sink.Open(0);
  PageWriter writer(*output, content.size());
  writer.Write(0, pieces[0].data);
  ASSERT_EQ(sink.writes.size(), 1U);
  EXPECT_EQ(sink.writes[0].address, pieces[0].data.data());
}

}  // namespace
}  // namespace dsv3::convert
