#include "formats/zip_directory.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/io/input_file.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/zip_builder.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::AsString;
using testing::ExpectBadInput;
using testing::MakeZip;
using testing::Put;
using testing::TempDir;
using testing::WriteFile;
using testing::ZipItem;
using testing::ZipShape;

class ZipDirectoryTest : public ::testing::Test {
 protected:
  // The archive as a whole file.
  ZipDirectory Read(const std::string& archive) {
    Write(archive);
    return ReadZipDirectory(*file_);
  }
  // The archive behind `before` bytes of a file, with others after it.
  ZipDirectory ReadWithin(const std::string& archive, std::size_t before) {
    Write(std::string(before, 'x') + archive + "PK\x05\x06 the next item");
    return ReadZipDirectory(*file_, {.offset = before, .bytes = archive.size()});
  }
  void Write(const std::string& content) {
    WriteFile(directory_ / "m.pt", content);
    file_ = std::make_unique<InputFile>(directory_ / "m.pt", "m.pt");
  }
  std::string Content(const ZipDirectory& zip, std::string_view name) {
    const FileRange range = zip.Locate(*file_, zip.entries()[zip.Find(name).value()]);
    std::vector<std::byte> bytes(range.bytes);
    file_->ReadAt(range.offset, bytes);
    return AsString(bytes);
  }

  TempDir directory_{testing::MemoryDirectory()};
  std::unique_ptr<InputFile> file_;
};

const std::vector<ZipItem> kTwo = {{.name = "m/data.pkl", .content = "pickle", .crc = 7},
                                   {.name = "m/data/0", .content = std::string(100, 'w')}};

TEST_F(ZipDirectoryTest, FindsEntriesByTheDirectoryAlone) {
  const ZipDirectory zip = Read(MakeZip(kTwo));
  ASSERT_EQ(zip.entries().size(), 2U);
  EXPECT_EQ(zip.entries()[0].name, "m/data.pkl");
  EXPECT_EQ(zip.entries()[0].crc, 7U);
  EXPECT_EQ(zip.entries()[1].bytes, 100U);
  EXPECT_EQ(zip.Find("m/data/0"), 1U);
  EXPECT_EQ(zip.Find("m/data"), std::nullopt);
  EXPECT_EQ(zip.Locate(*file_, zip.entries()[0]).offset, 64U);
  EXPECT_EQ(Content(zip, "m/data.pkl"), "pickle");
  EXPECT_EQ(Content(zip, "m/data/0"), std::string(100, 'w'));
}

TEST_F(ZipDirectoryTest, AnArchiveMayBeARangeOfAFile) {
  const ZipDirectory zip = ReadWithin(MakeZip(kTwo), 1577);
  EXPECT_EQ(zip.archive(), (FileRange{.offset = 1577, .bytes = MakeZip(kTwo).size()}));
  EXPECT_EQ(zip.Locate(*file_, zip.entries()[0]).offset, 1577U + 64);
  EXPECT_EQ(Content(zip, "m/data/0"), std::string(100, 'w'));
}

TEST_F(ZipDirectoryTest, EndRecordsMayHaveACommentOrNoZip64Form) {
  EXPECT_EQ(Read(MakeZip(kTwo, {.has_zip64_end = false})).entries().size(), 2U);
  EXPECT_EQ(Read(MakeZip(kTwo, {.comment = "made by hand"})).entries().size(), 2U);
  EXPECT_EQ(Read(MakeZip(kTwo, {.comment = std::string(0xFFFF, 'c')})).entries().size(), 2U);
  EXPECT_TRUE(Read(MakeZip({})).entries().empty());
}

TEST_F(ZipDirectoryTest, ReadsZip64Fields) {
  std::vector<ZipItem> items = kTwo;
  Put(items[1].extra, 0x4246, 2);
  Put(items[1].extra, 0, 2);
  Put(items[1].extra, 1, 2);
  Put(items[1].extra, 16, 2);
  Put(items[1].extra, 100, 8);
  Put(items[1].extra, 100, 8);
  items[1].stored_bytes = 0xFFFFFFFF;
  items[1].content_bytes = 0xFFFFFFFF;
  EXPECT_EQ(Content(Read(MakeZip(items)), "m/data/0"), std::string(100, 'w'));

  items[1].extra.resize(4 + 4 + 8);
  items[1].extra[6] = 8;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "'m/data/0' lacks its zip64 sizes");
  items[1].extra = "\x01";
  ExpectBadInput([&] { Read(MakeZip(items)); },
                 "'m/data/0' has an extra field that does not end in its record");
}

TEST_F(ZipDirectoryTest, RejectsSizesThatLeaveTheArchive) {
  for (const std::uint64_t bytes : {std::uint64_t{101 + 16}, ~std::uint64_t{0}}) {
    std::vector<ZipItem> items = kTwo;
    Put(items[1].extra, 1, 2);
    Put(items[1].extra, 16, 2);
    Put(items[1].extra, bytes, 8);
    Put(items[1].extra, bytes, 8);
    items[1].stored_bytes = 0xFFFFFFFF;
    items[1].content_bytes = 0xFFFFFFFF;
    ExpectBadInput([&] { Content(Read(MakeZip(items)), "m/data/0"); }, "m.pt: entry 'm/data/0' has",
                   "copy it again");
  }
}

TEST_F(ZipDirectoryTest, RejectsWhatIsNoArchive) {
  ExpectBadInput([&] { Read(""); }, "m.pt: it is empty");
  ExpectBadInput([&] { Read("hello"); }, "m.pt: it is not a zip archive");
  ExpectBadInput([&] { Read(std::string(70'000, 'x')); }, "m.pt: it is not a zip archive");
  ExpectBadInput([&] { Read("version https://git-lfs.github.com/spec/v1"); }, "git lfs pull");
}

TEST_F(ZipDirectoryTest, EveryPrefixIsAnError) {
  const std::string archive = MakeZip(kTwo);
  for (std::size_t length = 0; length < archive.size(); ++length) {
    ExpectBadInput([&] { Read(archive.substr(0, length)); }, "m.pt: ");
  }
  ExpectBadInput([&] { Read(archive.substr(0, archive.size() - 1)); }, "so it is truncated");
}

TEST_F(ZipDirectoryTest, RejectsARangeOutsideItsFile) {
  Write(MakeZip(kTwo));
  const std::uint64_t bytes = file_->bytes();
  for (const FileRange range :
       {FileRange{.offset = 1, .bytes = bytes}, FileRange{.offset = bytes + 1, .bytes = 0},
        FileRange{.offset = 8, .bytes = ~std::uint64_t{0}}}) {
    ExpectBadInput([&] { ReadZipDirectory(*file_, range); },
                   "m.pt: the archive at byte " + std::to_string(range.offset),
                   "would end behind the file");
  }
}

TEST_F(ZipDirectoryTest, RejectsCompressedAndEncryptedEntries) {
  std::vector<ZipItem> items = kTwo;
  items[1].method = 8;
  items[1].content_bytes = 1000;
  const ZipDirectory zip = Read(MakeZip(items));
  ExpectBadInput([&] { zip.RequireStored(*file_); },
                 "m.pt: entry 'm/data/0' is compressed (method 8)", "without compression");
  EXPECT_NO_THROW(Read(MakeZip(kTwo)).RequireStored(*file_));
  for (const unsigned flags : {0x0001U, 0x0040U, 0x2000U}) {
    items = kTwo;
    items[0].flags = static_cast<std::uint16_t>(flags);
    ExpectBadInput([&] { Read(MakeZip(items)); }, "'m/data.pkl' is encrypted", "decrypt");
  }
}

TEST_F(ZipDirectoryTest, RejectsANameTwice) {
  std::vector<ZipItem> items = kTwo;
  items.push_back(items[0]);
  ExpectBadInput([&] { Read(MakeZip(items)); }, "it holds entry 'm/data.pkl' twice");
}

TEST_F(ZipDirectoryTest, RejectsOverlappingEntries) {
  std::vector<ZipItem> items = kTwo;
  items[1].header = 0;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "'m/data.pkl' and 'm/data/0' overlap");
  items = kTwo;
  items[0].content_bytes = items[0].stored_bytes = 200;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "'m/data.pkl' and 'm/data/0' overlap",
                 "begins at byte");
}

// The extra field of the local header counts, too, which only Locate reads.
TEST_F(ZipDirectoryTest, RejectsContentThatReachesTheNextEntry) {
  std::vector<ZipItem> items = kTwo;
  items[0].local_extra_bytes = 300;
  const std::string archive = MakeZip(items);
  ExpectBadInput([&] { Content(Read(archive), "m/data.pkl"); }, "entry 'm/data.pkl' has 6 bytes",
                 "the next part of the archive begins at byte 86");
  items = kTwo;
  items[1].local_extra_bytes = 0xFFFF;
  ExpectBadInput([&] { Content(Read(MakeZip(items)), "m/data/0"); }, "entry 'm/data/0' has 100");
}

TEST_F(ZipDirectoryTest, RejectsEntriesOutsideTheArchive) {
  std::vector<ZipItem> items = kTwo;
  items[1].header = 1'000'000;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "'m/data/0' has 100 bytes at byte 1000000");
  ExpectBadInput([&] { ReadWithin(MakeZip(items), 2'000'000); },
                 "the archive at byte 2000000: entry 'm/data/0'");
  items = kTwo;
  items[1].content_bytes = items[1].stored_bytes = 1000;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "which do not end before the directory");
}

TEST_F(ZipDirectoryTest, RejectsHeadersOfOtherEntries) {
  std::vector<ZipItem> items = kTwo;
  items[0].local_name = "m/data.pkz";
  ExpectBadInput([&] { Content(Read(MakeZip(items)), "m/data.pkl"); },
                 "entry 'm/data.pkl' has another name in its header at byte 0");
  items = kTwo;
  items[1].header = 1;
  ExpectBadInput([&] { Content(Read(MakeZip({items[1]})), "m/data/0"); },
                 "entry 'm/data/0' has no header at byte 1");
}

TEST_F(ZipDirectoryTest, RejectsContentsOfAnotherSizeThanStored) {
  std::vector<ZipItem> items = kTwo;
  items[1].stored_bytes = 99;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "is stored in 99 bytes, but its content has 100");
}

TEST_F(ZipDirectoryTest, RejectsVolumes) {
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.volume = 1})); }, "one of several volumes");
  std::vector<ZipItem> items = kTwo;
  items[0].volume = 1;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "'m/data.pkl' lies in another volume");
}

TEST_F(ZipDirectoryTest, RejectsFalseEndRecords) {
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.num_entries = 3})); }, "cannot hold 3 entries");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.num_entries = ~std::uint64_t{0}})); },
                 "cannot hold 18,446,744,073,709,551,615 entries");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.num_entries = 1})); },
                 "but the records of its entries (1) have");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.directory_bytes = 100'000})); },
                 "its directory has 100.0 kB (100,000 bytes) at byte", "before its end record");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.directory = ~std::uint64_t{0}})); },
                 "before its end record");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.directory = 0})); }, "is not a record of a directory");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.end64 = 1'000'000})); },
                 "its zip64 end record would lie at byte 1000000");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.end64 = 0})); }, "no zip64 end record at byte 0");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.narrow_entries = 1})); },
                 "its two end records contradict each other", "1 or 2 entries");
  ExpectBadInput([&] { Read(MakeZip(kTwo, {.narrow_directory = 5})); }, "lies at byte 5 or ");
}

TEST_F(ZipDirectoryTest, RejectsARecordThatLeavesTheDirectory) {
  std::string archive = MakeZip(kTwo);
  const std::size_t second = archive.rfind("PK\x01\x02");
  archive[second + 28] = '\x70';  // the length of the name
  ExpectBadInput([&] { Read(archive); }, "entry 1 of its directory does not end in the directory");
}

TEST_F(ZipDirectoryTest, RejectsADirectoryThatIsTooLarge) {
  std::string archive(kMaxZipDirectoryBytes + 1, '\0');
  archive += MakeZip(
      {}, {.directory_bytes = kMaxZipDirectoryBytes + 1, .directory = 0, .end64 = archive.size()});
  ExpectBadInput([&] { Read(archive); }, "its directory has 67.1 MB", "in several files");
}

}  // namespace
}  // namespace dsv3::formats
