#include "formats/seek_table.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using testing::AsBytes;
using ::testing::HasSubstr;

constexpr std::uint64_t kFrames = 20 + 300 + 7;  // bytes of the frames of Entries()

std::vector<SeekEntry> Entries() { return {{20, 0}, {300, 1000}, {7, 0xFFFFFFFF}}; }

std::string FaultOf(const std::string& table, std::uint64_t stream_bytes) {
  std::vector<SeekEntry> entries;
  return std::string(ParseSeekTable(AsBytes(table), stream_bytes, entries));
}

std::string WithByte(std::string text, std::size_t at, char byte) {
  text[at] = byte;
  return text;
}

TEST(SeekTableTest, HasTheBytesOfTheFormat) {
  EXPECT_EQ(SerializeSeekTable(Entries()),
            std::string("\x5E\x2A\x4D\x18\x21\0\0\0"     // skippable frame of 3·8 + 9 bytes
                        "\x14\0\0\0\0\0\0\0"             //
                        "\x2C\x01\0\0\xE8\x03\0\0"       //
                        "\x07\0\0\0\xFF\xFF\xFF\xFF"     //
                        "\x03\0\0\0\0\xB1\xEA\x92\x8F",  // count, flags, magic
                        41));
  EXPECT_EQ(SerializeSeekTable({}).size(), SeekTableBytes(0));
}

TEST(SeekTableTest, GivesBackTheFrames) {
  for (const std::vector<SeekEntry>& entries : {Entries(), std::vector<SeekEntry>{}}) {
    const std::string table = SerializeSeekTable(entries);
    std::uint64_t stream_bytes = table.size();
    for (const SeekEntry& entry : entries) stream_bytes += entry.frame_bytes;
    std::uint64_t table_bytes = 0;
    EXPECT_EQ(SeekTableBytesOf(AsBytes(table).last(kSeekFooterBytes), stream_bytes, table_bytes),
              "");
    EXPECT_EQ(table_bytes, table.size());
    std::vector<SeekEntry> read{{1, 1}};
    EXPECT_EQ(ParseSeekTable(AsBytes(table), stream_bytes, read), "");
    EXPECT_EQ(read, entries);
  }
}

TEST(SeekTableTest, RefusesLies) {
  const std::string table = SerializeSeekTable(Entries());
  const std::uint64_t bytes = table.size() + kFrames;
  EXPECT_EQ(FaultOf(table, bytes), "");
  EXPECT_THAT(FaultOf(table, bytes - 1), HasSubstr("more bytes than the stream has"));
  EXPECT_THAT(FaultOf(table, bytes + 1), HasSubstr("fewer bytes than the stream has"));
  EXPECT_THAT(FaultOf(table, table.size() - 1), HasSubstr("longer than the stream"));
  EXPECT_THAT(FaultOf(WithByte(table, 0, 0), bytes), HasSubstr("does not begin"));
  EXPECT_THAT(FaultOf(WithByte(table, 4, 0), bytes), HasSubstr("does not begin"));
  EXPECT_THAT(FaultOf(table + table, bytes + table.size()), HasSubstr("does not begin"));
  EXPECT_THAT(FaultOf(WithByte(table, 40, 0), bytes), HasSubstr("not those of a seek table"));
  EXPECT_THAT(FaultOf(WithByte(table, 36, '\x80'), bytes), HasSubstr("flags or checksums"));
  EXPECT_THAT(FaultOf(WithByte(table, 32, 2), bytes), HasSubstr("does not begin"));
  EXPECT_THAT(FaultOf(WithByte(table, 35, '\x7F'), std::numeric_limits<std::uint64_t>::max()),
              HasSubstr("more frames than the format allows"));
  EXPECT_THAT(FaultOf(SerializeSeekTable(std::vector<SeekEntry>{{0, 0}}), 25),
              HasSubstr("frame without bytes"));
}

TEST(SeekTableTest, EveryPrefixAndSuffixIsAFault) {
  const std::string table = SerializeSeekTable(Entries());
  for (std::size_t cut = 1; cut <= table.size(); ++cut) {
    const std::string suffix = table.substr(cut);
    const std::string prefix = table.substr(0, table.size() - cut);
    EXPECT_NE(FaultOf(suffix, suffix.size() + kFrames), "") << cut;
    EXPECT_NE(FaultOf(prefix, prefix.size() + kFrames), "") << cut;
  }
}

}  // namespace
}  // namespace dsv3::formats
