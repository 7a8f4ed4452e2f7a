#include "convert/stream/made_memory.h"

#include <cstdint>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "convert/stream/chunk.h"
#include "convert/stream/executor.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::uint64_t kRows = 1 << 14;
constexpr std::uint64_t kCols = 2048;

// A BF16 matrix of two halves side by side in two files, and one that lies in a file as it is.
class MadeMemoryTest : public ::testing::Test {
 protected:
  MadeMemoryTest() {
    std::vector<Tile> halves;
    for (const std::uint32_t half : {0U, 1U}) {
      halves.push_back({{0, kRows, half * kCols / 2, (half + 1) * kCols / 2}, half, 0, 0});
    }
    origins_ = {Assemble(stored_, "matrix", Dtype::kBF16, {kRows, kCols}, std::move(halves)),
                Copy(stored_, 0)};
    derived_ = {{&stored_, origins_, 0, nullptr, {}}};
  }

  static CatalogTensor Tensor(const char* name, std::uint64_t cols, std::uint32_t file) {
    return {name, Dtype::kBF16, {kRows, cols}, {file, 0, kRows * cols * 2}};
  }
  static SourceFile File(const char* name) {
    SourceFile file;
    file.name = name;
    return file;
  }

  const Catalog stored_{{File("a"), File("b")},
                        {Tensor("left", kCols / 2, 0), Tensor("right", kCols / 2, 1)}};
  const Catalog model_{{File("model")},
                       {Tensor("matrix", kCols, 0), Tensor("plain", kCols / 2, 0)}};
  std::vector<ExpressionPtr> origins_;
  std::vector<DerivedTensors> derived_;
};

TEST_F(MadeMemoryTest, CountsWhatAnOriginReadsAndMakes) {
  const ExpressionPtr copy = Copy(model_, 0);
  const std::uint64_t bytes = 1 << 20;
  const std::uint64_t row = kCols * 2;
  // As many source bytes as bytes of the value, and the rows that the ends lie in.
  EXPECT_EQ(MadeMemory(*copy, bytes, derived_), 2 * (bytes + 2 * row));
  EXPECT_EQ(MadeMemory(*copy, UINT64_MAX, derived_), 2 * copy->num_bytes());
}

TEST_F(MadeMemoryTest, IsNothingForWhatIsReadAsItIs) {
  EXPECT_EQ(MadeMemory(*Copy(model_, 1), 1 << 20, derived_), 0U);
  EXPECT_EQ(MadeMemory(*Copy(model_, 0), 1 << 20, {}), 0U);
}

TEST_F(MadeMemoryTest, CountsAgainstTheMemoryOfARun) {
  Plan plan;
  NamedExpressions tensors;
  tensors.emplace_back("matrix", Copy(model_, 0));
  plan.files.push_back(PlanFile("model.safetensors", std::move(tensors)));
  const std::vector<std::size_t> files = {0};
  ExecutorOptions options;
  for (const unsigned threads : {1U, 2U, 16U, 64U}) {
    for (const std::uint64_t memory : {kMinMemoryBytes, kDefaultMemoryBytes}) {
      options.threads = threads;
      options.memory_bytes = memory;
      options.derived = derived_;
      const ExecutorResources resources = PlanResources(options, plan, files);
      const ChunkMemory chunk = MostChunkMemory(plan, files, resources.chunk_bytes, derived_);
      EXPECT_GT(chunk.made_bytes, 0U);
      EXPECT_EQ(resources.memory_bytes,
                resources.chunks * chunk.bytes() + resources.workers * chunk.made_bytes);
      EXPECT_LE(resources.memory_bytes, memory) << threads;
      EXPECT_GE(resources.chunks, resources.workers);
      EXPECT_GE(resources.workers, 2U);
    }
  }
}

}  // namespace
}  // namespace dsv3::convert
