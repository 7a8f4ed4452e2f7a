#include "convert/stream/changed_bytes.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

std::string All(const ChangedBytes& changed) {
  std::string all;
  changed.ForEach([&](std::span<const std::byte> piece) {
    all.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return all;
}

MakeScratch In(const std::filesystem::path& directory) {
  return [directory] { return formats::PosixFileSystem().CreateScratch(directory); };
}

TEST(ChangedBytesTest, GivesPositionsAndThenBytesHoweverMany) {
  const testing::TempDir directory;
  ChangedBytes changed(In(directory.path()));
  for (const std::size_t count :
       {std::size_t{0}, std::size_t{3}, ChangedBytes::kMostKept, ChangedBytes::kMostKept + 1,
        5 * ChangedBytes::kMostKept / 2, std::size_t{7}}) {
    std::string positions;
    std::string values;
    changed.Clear();
    for (std::size_t i = 0; i < count; ++i) {
      const auto position = static_cast<std::uint32_t>(7 * i + count);
      positions.append(reinterpret_cast<const char*>(&position), sizeof position);
      values += static_cast<char>(i * i);
      changed.Add(position, static_cast<std::byte>(i * i));
    }
    EXPECT_EQ(changed.count(), count);
    EXPECT_TRUE(All(changed) == positions + values) << count;
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(ChangedBytesTest, NeedsNoDiskForFew) {
  ChangedBytes changed(In("/no/such/directory"));
  for (std::uint32_t i = 0; i < ChangedBytes::kMostKept; ++i) changed.Add(i, std::byte{1});
  EXPECT_EQ(All(changed).size(), 5 * ChangedBytes::kMostKept);
}

// Reads one bit of the file otherwise.
class SpoiledFile final : public formats::ScratchFile {
 public:
  explicit SpoiledFile(std::unique_ptr<formats::ScratchFile> file) : file_(std::move(file)) {}

  std::uint64_t bytes() const override { return file_->bytes(); }
  void Append(std::span<const std::byte> data) override { file_->Append(data); }
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    file_->ReadAt(offset, out);
    if (offset == 0) out[1] ^= std::byte{16};
  }
  void Clear() override { file_->Clear(); }

 private:
  const std::unique_ptr<formats::ScratchFile> file_;
};

TEST(ChangedBytesTest, WhatAFileDoesNotGiveAgainIsFound) {
  const testing::TempDir directory;
  for (const int spoiled : {1, 2}) {  // positions, bytes
    int made = 0;
    ChangedBytes changed([&]() -> std::unique_ptr<formats::ScratchFile> {
      auto file = formats::PosixFileSystem().CreateScratch(directory.path());
      if (++made != spoiled) return file;
      return std::make_unique<SpoiledFile>(std::move(file));
    });
    for (std::uint32_t i = 0; i <= ChangedBytes::kMostKept; ++i) changed.Add(i, std::byte{1});
    try {
      All(changed);
      ADD_FAILURE() << "not found";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kVerification);
      EXPECT_THAT(error.message(), ::testing::HasSubstr("read back from a scratch file"));
    }
  }
}

TEST(ChangedBytesTest, AFullDiskIsAnErrorAtEveryStep) {
  const testing::TempDir directory;
  std::size_t failures = 0;
  for (bool failed = true; failed; failures += failed ? 1 : 0) {
    testing::FaultyFileSystem full(formats::PosixFileSystem(), failures, ENOSPC,
                                   testing::FaultyFileSystem::Failing::kFromThenOn);
    ChangedBytes changed([&] { return full.CreateScratch(directory.path()); });
    failed = false;
    try {
      for (std::uint32_t i = 0; i <= ChangedBytes::kMostKept; ++i) changed.Add(i, std::byte{1});
      changed.Clear();
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.message(), ::testing::HasSubstr("free some space"));
    }
  }
  EXPECT_EQ(failures, 6U);  // of two files: made, appended to, cleared
}

}  // namespace
}  // namespace dsv3::convert
