#include "convert/stream/source_files.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

TEST(SourceFilesTest, ScatteredRangesTakeNoMoreThanTheirBytesAndAFixedGap) {
  const testing::TempDir dir(testing::MemoryDirectory());
  testing::TinyCheckpoint scattered;
  std::vector<SourceRange> ranges;
  for (std::size_t i = 0; i < 200; ++i) {
    scattered.Add("s.safetensors", "t" + std::to_string(1000 + i), Dtype::kU8, {8192});
  }
  scattered.has_index = false;
  scattered.Write(dir / "scattered");
  const Catalog catalog = testing::CatalogOf(dir / "scattered");
  for (std::uint32_t i = 0; i < 200; ++i) ranges.push_back({i, 100, 164});
  SourceFiles sources(catalog);
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  sources.Read(ranges, buffer, inputs);
  EXPECT_LE(buffer.size(), 200 * 64 + (16 << 10) + 3 * formats::kDirectAlignment);
  for (std::uint32_t i = 0; i < 200; ++i) {
    const std::string& bytes = scattered.Find(catalog.tensors()[i].name).bytes;
    ASSERT_EQ(testing::AsString(inputs[i]), bytes.substr(100, 64)) << i;
  }
}

TEST(SourceFilesTest, MoreFilesThanMayBeOpenAreReadAllTheSame) {
  const testing::TempDir dir(testing::MemoryDirectory());
  testing::TinyCheckpoint many;
  const std::size_t num_files = SourceFiles::kMaxOpen + 5;
  for (std::size_t i = 0; i < num_files; ++i) {
    const std::string number = std::to_string(100 + i);
    many.Add("s" + number + ".safetensors", "t" + number, Dtype::kU8, {16});
  }
  many.Write(dir / "many");
  const Catalog catalog = testing::CatalogOf(dir / "many");
  SourceFiles sources(catalog);
  std::vector<SourceRange> ranges;
  for (std::uint32_t i = 0; i < num_files; ++i) ranges.push_back({i, 0, 16});
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  sources.Read(ranges, buffer, inputs);
  for (std::uint32_t i = 0; i < num_files; ++i) {
    ASSERT_EQ(testing::AsString(inputs[i]), many.Find(catalog.tensors()[i].name).bytes) << i;
  }
}

TEST(SourceFilesTest, AFileThatChangedSinceTheCatalogWasMadeIsAnError) {
  const testing::TempDir dir(testing::MemoryDirectory());
  testing::TinyCheckpoint held;
  held.Add("s.safetensors", "t", Dtype::kU8, {16});
  held.Write(dir / "held");
  const Catalog catalog = testing::CatalogOf(dir / "held");
  testing::WriteFile(dir / "held" / "s.safetensors", "cut off");
  SourceFiles sources(catalog);
  try {
    sources.Get(0);
    FAIL() << "it was opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(error.place().file, "s.safetensors");
    EXPECT_THAT(error.message(), ::testing::HasSubstr("changed while it was being read"));
    EXPECT_THAT(error.message(), ::testing::HasSubstr("7 bytes now"));
  }
}

}  // namespace
}  // namespace dsv3::convert
