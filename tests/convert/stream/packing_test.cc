// Files that are packed while they are made.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/packing/packed_file.h"
#include "convert/stream/executor.h"
#include "convert/stream/packed_chunk.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/io/input_file.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using ::testing::HasSubstr;

constexpr char kFile[] = "a.safetensors";

// Writes the first file to a path, others to the path and their number. A test spoils what is read
// back of the first file.
class DiskSink final : public OutputSink {
 public:
  explicit DiskSink(fs::path path) : path_(std::move(path)) {}

  std::unique_ptr<formats::OutputFile> Open(std::size_t file) override {
    const std::lock_guard lock(mutex_);
    most_open = std::max(most_open, ++num_open_);
    return formats::PosixFileSystem().Create(PathOf(file), 64 << 20);
  }
  std::unique_ptr<formats::OutputFile> Reopen(std::size_t) override { return nullptr; }
  void Commit(std::size_t file, std::unique_ptr<formats::OutputFile>,
              FileRecord committed) override {
    const std::lock_guard lock(mutex_);
    --num_open_;
    records[file] = std::move(committed);
  }
  std::span<const std::byte> ReadBack(std::size_t file, std::uint64_t offset, std::size_t length,
                                      std::span<std::byte> scratch) override {
    const std::span<std::byte> read = scratch.first(length);
    formats::InputFile(PathOf(file), kFile).ReadAt(offset, read);
    if (file == 0 && spoiled >= offset && spoiled < offset + length) {
      read[spoiled - offset] ^= std::byte{1};
    }
    return read;
  }
  fs::path PathOf(std::size_t file) const {
    return file == 0 ? path_ : fs::path(path_.string() + std::to_string(file));
  }

  std::map<std::size_t, FileRecord> records;
  std::uint64_t spoiled = UINT64_MAX;  // a byte that is read back wrongly
  std::size_t most_open = 0;           // files

 private:
  const fs::path path_;
  std::mutex mutex_;
  std::size_t num_open_ = 0;
};

class PackingTest : public ::testing::Test {
 protected:
  // A tensor of several packed chunks, many tiny ones, empty ones at the start and the end.
  void SetUp() override {
    testing::TinyCheckpoint checkpoint;
    checkpoint.config = "{}";
    checkpoint.has_index = false;
    checkpoint.Add(kFile, "a.empty", Dtype::kU64, {0});
    checkpoint.Add(kFile, "long", Dtype::kF32, {2 * kPackedChunkBytes / 4 + 5});
    for (std::size_t i = 0; i < 1500; ++i) {
      checkpoint.Add(kFile, "tiny" + std::to_string(i), Dtype::kBF16, {i % 5});
    }
    checkpoint.Add(kFile, "bytes", Dtype::kU8, {3});
    checkpoint.Add(kFile, "z.empty", Dtype::kBool, {4, 0});
    checkpoint.Write(dir_ / "in");
    catalog_.emplace(testing::CatalogOf(dir_ / "in"));
    original_ = testing::ReadFile(dir_ / "in" / kFile);
    const formats::SafetensorsHeader header =
        formats::ReadSafetensorsHeader(dir_ / "in" / kFile, kFile);
    NamedExpressions tensors;
    for (std::uint32_t i = 0; i < catalog_->tensors().size(); ++i) {
      tensors.emplace_back(catalog_->tensors()[i].name, Copy(*catalog_, i));
    }
    plan_.packed = true;
    plan_.files.push_back(
        PlanFileLike(kFile, original_.substr(0, header.data_offset), header, std::move(tensors)));
    plan_.files[0].packed_bytes = original_.size();
    options_.memory_bytes = kMinMemoryBytes;
  }

  void Run(DiskSink& sink) {
    SourceFiles sources(*catalog_);
    ProgressSink progress;
    Execute(plan_, AllFiles(), sources, options_, sink, progress, stop_);
  }

  std::vector<std::size_t> AllFiles() const {
    std::vector<std::size_t> files(plan_.files.size());
    std::iota(files.begin(), files.end(), std::size_t{0});
    return files;
  }

  // The values of the first chunk, not yet packed.
  Chunk FirstChunk() const {
    const PlannedFile& file = plan_.files[0];
    SourceFiles sources(*catalog_);
    Chunk chunk;
    chunk.offset = file.data_offset;
    chunk.end = PackedChunkEnd(file, chunk.offset, kPackedChunkBytes);
    ReadChunk(file, 4 * kPackedChunkBytes, sources, chunk);
    EvaluateChunk(file, "", chunk);
    return chunk;
  }

  testing::TempDir dir_;
  std::optional<Catalog> catalog_;
  std::string original_;
  Plan plan_;
  ExecutorOptions options_;
  StopToken stop_;
  const fs::path packed_ = dir_ / "packed";
};

TEST_F(PackingTest, MakesWhatAReaderUnpacks) {
  std::string first;
  for (const unsigned threads : {1U, 4U}) {
    for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
      options_.threads = threads;
      options_.memory_bytes = memory;
      DiskSink sink(packed_);
      Run(sink);
      const std::string content = testing::ReadFile(packed_);
      EXPECT_EQ(sink.records[0].bytes, content.size());
      EXPECT_EQ(sink.records[0].file.sha256, testing::Sha256Of(content));
      EXPECT_EQ(sink.records[0].original.sha256, testing::Sha256Of(original_));
      if (first.empty()) first = content;
      EXPECT_TRUE(content == first);
    }
  }
  const formats::InputFile input(packed_, "packed");
  const PackedHead head = ReadPackedHead(input);
  EXPECT_EQ(head.original_head, original_.substr(0, head.original.data_offset));
  std::string unpacked = head.original_head;
  ChunkDecoder decoder;
  for (const PackedStream& stream : head.streams) {
    const PackedChunks chunks = ReadPackedChunks(input, stream);
    for (const PackedChunk& chunk : chunks.chunks) {
      std::vector<std::byte> raw(chunk.raw_bytes);
      const std::string bytes = first.substr(chunk.offset, chunk.bytes);
      decoder.Decode(testing::AsBytes(bytes), chunks.FramesOf(chunk), {}, {}, raw);
      unpacked += testing::AsString(raw);
    }
  }
  EXPECT_TRUE(unpacked == original_);
}

TEST_F(PackingTest, DigestsOfTensorsAreThoseOfTheOriginal) {
  DiskSink sink(packed_);
  Run(sink);
  for (std::size_t i = 0; i < plan_.files[0].tensors.size(); ++i) {
    const TensorEntry& entry = plan_.files[0].tensors[i].entry;
    EXPECT_EQ(
        sink.records[0].tensors[i].output.xxh3,
        testing::Xxh3Of(original_.substr(plan_.files[0].data_offset + entry.offset, entry.bytes)))
        << entry.name;
  }
}

TEST_F(PackingTest, BytesThatAreReadBackOtherwiseAreFound) {
  DiskSink good(packed_);
  Run(good);
  for (const std::uint64_t spoiled :
       {std::uint64_t{9}, good.records[0].bytes / 2, good.records[0].bytes - 1}) {
    DiskSink sink(packed_);
    sink.spoiled = spoiled;
    const Error error = testing::ErrorOf([&] { Run(sink); });
    EXPECT_EQ(error.code(), ErrorCode::kVerification);
    EXPECT_EQ(error.place().file, kFile);
    EXPECT_THAT(error.message(), HasSubstr("read back"));
    EXPECT_TRUE(sink.records.empty());
  }
}

TEST_F(PackingTest, FilesThatAdvanceTogetherAreEachPackedAndReadBack) {
  DiskSink alone(packed_);
  Run(alone);
  const std::string content = testing::ReadFile(packed_);
  while (plan_.files.size() < 5) {
    plan_.files.push_back(plan_.files[0]);
    plan_.files.back().name = "b" + std::to_string(plan_.files.size()) + ".safetensors";
  }
  for (const unsigned max_open_files : {0U, 1U, 2U, 3U}) {
    SCOPED_TRACE(::testing::Message() << max_open_files << " files");
    options_.threads = 2;
    options_.max_open_files = max_open_files;
    DiskSink sink(packed_);
    Run(sink);
    ASSERT_EQ(sink.records.size(), plan_.files.size());
    for (const auto& [file, record] : sink.records) {
      EXPECT_EQ(record.name, plan_.files[file].name);
      EXPECT_EQ(record.file.sha256, testing::Sha256Of(content));
      EXPECT_EQ(record.original.sha256, testing::Sha256Of(original_));
      EXPECT_TRUE(testing::ReadFile(sink.PathOf(file)) == content);
    }
    EXPECT_LE(sink.most_open, max_open_files != 0 ? std::size_t{max_open_files} : 5U);
  }
}

TEST_F(PackingTest, AThirdOfTheOpenFilesIsForReadingBack) {
  while (plan_.files.size() < 30) plan_.files.push_back(plan_.files[0]);
  std::vector<std::size_t> files = AllFiles();
  options_.threads = 2;
  options_.memory_bytes = kDefaultMemoryBytes;
  EXPECT_EQ(PlanResources(options_, plan_, files).open_files, 12U);
  EXPECT_EQ(PlanResources(options_, plan_, files).made_files, 8U);
  options_.max_open_files = 1;
  EXPECT_EQ(PlanResources(options_, plan_, files).open_files, 1U);
  EXPECT_EQ(PlanResources(options_, plan_, files).made_files, 1U);
  options_.max_open_files = 0;
  files.resize(5);  // no other file is left to begin
  EXPECT_EQ(PlanResources(options_, plan_, files).open_files, 5U);
  EXPECT_EQ(PlanResources(options_, plan_, files).made_files, 5U);
}

TEST_F(PackingTest, AChunkThatDoesNotGiveItsBytesAgainIsFound) {
  const PlannedFile& file = plan_.files[0];
  Chunk chunk = FirstChunk();
  ChunkPacker packer(1);
  packer.Pack(file, chunk);
  packer.Check(file, chunk);
  const PackedPiece& piece = chunk.packed.pieces.at(0);
  const auto fails = [&] {
    const Error error = testing::ErrorOf([&] { packer.Check(file, chunk); });
    EXPECT_EQ(error.code(), ErrorCode::kVerification) << error.message();
    EXPECT_EQ(error.place().tensor, file.tensors[piece.tensor].entry.name);
  };
  // What was packed changes, or what it was packed from.
  const auto offset = static_cast<std::size_t>(piece.bytes.data() - chunk.packed.buffer.data());
  std::byte& packed_byte = chunk.packed.buffer.span()[offset + piece.bytes.size() / 2];
  packed_byte ^= std::byte{4};
  fails();
  packed_byte ^= std::byte{4};
  packer.Check(file, chunk);
  chunk.parts.at(0).output[1] ^= std::byte{1};
  fails();
}

// Memory that changes while a chunk is packed: its base lies where the packed bytes go.
TEST_F(PackingTest, WhatWasPackedIsUnpackedAndCompared) {
  const PlannedFile& file = plan_.files[0];
  Chunk chunk = FirstChunk();
  ChunkPacker packer(1);
  packer.Pack(file, chunk);
  ChunkPart& part = chunk.parts.at(0);
  const std::span<std::byte> base = chunk.packed.buffer.span().first(part.output.size());
  std::memcpy(base.data(), part.output.data(), base.size());
  part.base = base;
  const Error error = testing::ErrorOf([&] { packer.Pack(file, chunk); });
  EXPECT_EQ(error.code(), ErrorCode::kVerification) << error.message();
  EXPECT_EQ(error.place().tensor, "long");
  EXPECT_THAT(error.message(), HasSubstr("does not give its bytes again"));
}

TEST_F(PackingTest, ChunksEndWherePackedChunksEnd) {
  const PlannedFile& file = plan_.files[0];
  std::uint64_t end = 0;
  while (end < file.bytes) {
    const std::uint64_t begin = end;
    end = PackedChunkEnd(file, begin, 2 * kPackedChunkBytes);
    ASSERT_GT(end, begin);
    EXPECT_LE(end - begin, 2 * kPackedChunkBytes);
    if (end <= file.data_offset) continue;
    for (const PlannedTensor& tensor : file.tensors) {
      const std::uint64_t tensor_begin = file.data_offset + tensor.entry.offset;
      if (end <= tensor_begin || end >= tensor_begin + tensor.entry.bytes) continue;
      EXPECT_EQ((end - tensor_begin) % kPackedChunkBytes, 0U) << tensor.entry.name;
    }
  }
  EXPECT_EQ(end, file.bytes);
}

}  // namespace
}  // namespace dsv3::convert
