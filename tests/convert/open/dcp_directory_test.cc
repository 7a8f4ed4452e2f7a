// What .metadata of a distributed checkpoint and its files must agree on.

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/training_files.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DcpDirectoryTest : public TrainToInferTest {
 protected:
  // The first tensor, which has two chunks in two files.
  using Edit = std::function<void(DcpTensorText& halved, DcpTensorText& next)>;

  Error Refused(const Edit& edit) {
    fs::remove_all(dir_ / "in");
    WriteDcp(model_, dir_ / "in",
             [&](std::vector<DcpTensorText>& tensors) { edit(tensors[0], tensors[1]); });
    return Refused();
  }
  Error Refused() {
    const Error error = ErrorOf([&] { Convert(dir_ / "in", dir_ / "out"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    return error;
  }

  const ElementModel model_;
};

TEST_F(DcpDirectoryTest, NeedsEveryItemAndFile) {
  Error error = Refused([](auto& halved, auto&) { halved.chunks[1].item.reset(); });
  EXPECT_EQ(error.place().tensor, model_.tensors[0].name);
  EXPECT_THAT(error.message(), HasSubstr("no file holds its chunk at ["));
  WriteDcp(model_, dir_ / "in");
  fs::remove(dir_ / "in" / "__3_0.distcp");
  error = Refused();
  EXPECT_EQ(error.place().file, "__3_0.distcp");
  EXPECT_THAT(error.message(), HasSubstr("there is no such file"));
}

TEST_F(DcpDirectoryTest, NeedsChunksThatTileTheTensor) {
  EXPECT_THAT(Refused([](auto& halved, auto&) { halved.chunks.pop_back(); }).message(),
              HasSubstr("no file holds rows"));
  EXPECT_THAT(Refused([](auto& halved, auto&) { --halved.chunks[1].offsets[0]; }).message(),
              HasSubstr("come from both"));
  EXPECT_THAT(Refused([](auto& halved, auto&) { halved.chunks[1].offsets[0] = 0; }).message(),
              HasSubstr("its chunk at [0, 0] has two items"));
}

TEST_F(DcpDirectoryTest, NeedsItemsOfTheTensorsDtypeAndShape) {
  EXPECT_THAT(Refused([](auto& halved, auto&) { halved.dtype = "bfloat16"; }).message(),
              HasSubstr("is torch.float32, expected torch.bfloat16"));
  EXPECT_THAT(Refused([](auto& halved, auto&) { --halved.chunks[0].sizes[0]; }).message(),
              HasSubstr("has shape ["));
}

TEST_F(DcpDirectoryTest, NeedsItemsThatLieInTheirFileApart) {
  EXPECT_THAT(
      Refused([](auto& halved, auto&) { halved.chunks[0].item->offset = 1 << 30; }).message(),
      HasSubstr("its chunk at [0, 0] lies at bytes [1073741824, "));
  const auto of_next = [](auto& halved, auto& next) {
    halved.chunks[0].item = next.chunks[0].item;
  };
  EXPECT_THAT(Refused(of_next).message(), HasSubstr("inside that of the chunk at ["));
  const auto too_long = [](auto& halved, auto& next) {
    halved.chunks[0].item->length += next.chunks[0].item->length;
  };
  const Error error = Refused(too_long);
  EXPECT_EQ(error.place().file, "__0_0.distcp");
  EXPECT_EQ(error.place().tensor, model_.tensors[1].name);
  EXPECT_THAT(error.message(), HasSubstr("inside that of the chunk at [0, 0] of '"));
}

// A file of it is the whole of it.
TEST_F(DcpDirectoryTest, MayBeNamedByOneOfItsFiles) {
  WriteDcp(model_, dir_ / "in");
  Convert(dir_ / "in", dir_ / "out");
  for (const std::string name : {".metadata", "__1_0.distcp"}) {
    Convert(dir_ / "in" / name, dir_ / ("out-of" + name));
    EXPECT_TRUE(ReadTree(dir_ / ("out-of" + name)) == ReadTree(dir_ / "out")) << name;
  }
}

}  // namespace
}  // namespace dsv3::testing
