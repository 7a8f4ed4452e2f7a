#include "convert/stream/changed_bytes.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>

#include <gtest/gtest.h>

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

TEST(ChangedBytesTest, GivesPositionsAndThenBytesHoweverMany) {
  const testing::TempDir directory;
  ChangedBytes changed(directory.path());
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
  ChangedBytes changed("/no/such/directory");
  for (std::uint32_t i = 0; i < ChangedBytes::kMostKept; ++i) changed.Add(i, std::byte{1});
  EXPECT_EQ(All(changed).size(), 5 * ChangedBytes::kMostKept);
}

}  // namespace
}  // namespace dsv3::convert
