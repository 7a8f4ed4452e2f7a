#include "formats/dcp_metadata.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/io/input_file.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/dcp_text.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::DcpChunkText;
using testing::DcpItemText;
using testing::DcpTensorText;
using testing::ExpectBadInput;
using testing::kDcpModule;
using testing::MakeDcpMetadata;
using testing::PickleText;
using testing::PutItem;
using testing::PutObject;
using testing::PutProperties;
using testing::PutTensorMetadata;

DcpMetadata Parse(const std::string& text) { return ParseDcpMetadata(text, ".metadata"); }

// A tensor [3, 4] over four ranks, the last one without rows.
DcpTensorText Uneven() {
  return {
      .name = "model.w",
      .shape = {3, 4},
      .chunks = {{.offsets = {0, 0}, .sizes = {1, 4}},
                 {.offsets = {1, 0}, .sizes = {1, 4}, .item = DcpItemText{.path = "__1_0.distcp"}},
                 {.offsets = {2, 0},
                  .sizes = {1, 4},
                  .item = DcpItemText{.path = "__1_0.distcp", .offset = 1577, .length = 99}},
                 {.offsets = {3, 0}, .sizes = {0, 4}}}};
}

template <typename... Words>
void ExpectRefused(const DcpTensorText& tensor, const Words&... words) {
  ExpectBadInput([&] { Parse(MakeDcpMetadata({tensor})); },
                 ".metadata: tensor 'model.w': ", words...);
}

TEST(DcpMetadataTest, FindsChunksAndTheirItems) {
  const DcpTensorText scalar = {
      .name = "scale", .dtype = "float32", .shape = {}, .chunks = {{.offsets = {}, .sizes = {}}}};
  const DcpMetadata metadata = Parse(MakeDcpMetadata({Uneven(), scalar}, {"step", "lr"}));
  ASSERT_EQ(metadata.tensors.size(), 2U);
  const DcpTensor& tensor = metadata.tensors[0];
  EXPECT_EQ(tensor.name, "model.w");
  EXPECT_EQ(tensor.type->dtype, Dtype::kBF16);
  EXPECT_EQ(tensor.shape, (Shape{3, 4}));
  ASSERT_EQ(tensor.chunks.size(), 4U);
  EXPECT_EQ(tensor.chunks[2].offsets, (Shape{2, 0}));
  EXPECT_EQ(tensor.chunks[2].sizes, (Shape{1, 4}));
  EXPECT_EQ(metadata.files.at(tensor.chunks[2].file), "__1_0.distcp");
  EXPECT_EQ(tensor.chunks[2].range, (FileRange{.offset = 1577, .bytes = 99}));
  EXPECT_EQ(metadata.files.at(tensor.chunks[0].file), "__0_0.distcp");
  EXPECT_EQ(tensor.chunks[3].sizes, (Shape{0, 4}));
  EXPECT_EQ(metadata.files.size(), 2U);
  EXPECT_EQ(metadata.tensors[1].shape, Shape{});
  EXPECT_EQ(metadata.files.at(metadata.tensors[1].chunks[0].file), "__0_0.distcp");
  EXPECT_EQ(metadata.num_byte_items, 2U);
  EXPECT_EQ(metadata.version, "1.0.0");
}

TEST(DcpMetadataTest, SaysWhichChunksWereNotSaved) {
  DcpTensorText tensor = Uneven();
  tensor.chunks[1].item.reset();
  const DcpMetadata metadata = Parse(MakeDcpMetadata({tensor}));
  EXPECT_EQ(metadata.tensors[0].chunks[1].file, kNoDcpFile);
  EXPECT_NE(metadata.tensors[0].chunks[2].file, kNoDcpFile);
}

// They are one to PyTorch, which finds items by name and offsets.
TEST(DcpMetadataTest, ChunksWithTheSameOffsetsShareAnItem) {
  DcpTensorText tensor = Uneven();
  tensor.chunks.push_back({.offsets = {3, 0}, .sizes = {0, 4}, .item = std::nullopt});
  const DcpMetadata metadata = Parse(MakeDcpMetadata({tensor}));
  EXPECT_EQ(metadata.tensors[0].chunks[4].file, metadata.tensors[0].chunks[3].file);
  EXPECT_EQ(metadata.tensors[0].chunks[4].range, metadata.tensors[0].chunks[3].range);
}

TEST(DcpMetadataTest, IgnoresItemsThatNoChunkNames) {
  DcpTensorText other = Uneven();
  other.name = "stale";
  PickleText text(4);
  PutObject(text, "Metadata").Op("}(").Text("state_dict_metadata").Op("}(").Text("model.w");
  PutTensorMetadata(text, Uneven());
  text.Op("u").Text("storage_data").Op("}(");
  PutItem(text, "stale", {0, 0}, {});
  PutItem(text, "model.w", {2, 2}, {});
  PutItem(text, "model.w", {2}, {});
  const DcpMetadata metadata = Parse(text.Op("uub").Stop());
  for (const DcpChunk& chunk : metadata.tensors[0].chunks) EXPECT_EQ(chunk.file, kNoDcpFile);
  EXPECT_EQ(metadata.version, "") << "as before PyTorch 2.3";
}

TEST(DcpMetadataTest, ReadsMegatronsAdditions) {
  constexpr std::string_view kModule = "megatron.core.dist_checkpointing.strategies.torch";
  const std::string text = MakeDcpMetadata({Uneven()}, {}, kModule, "MCoreMetadata");
  EXPECT_EQ(Parse(text).tensors.size(), 1U);
  std::string with_plans = text;
  with_plans.resize(with_plans.size() - 3);  // before SETITEMS, BUILD, STOP
  PickleText plans;
  PutObject(plans.Text("all_local_plans").Op("]"), "MCoreSavePlan", kModule).Op("}ba");
  plans.Text("mcore_data").Op("}");
  with_plans += plans.Op("ub").Stop().substr(2);
  EXPECT_EQ(Parse(with_plans).tensors.size(), 1U);
}

TEST(DcpMetadataTest, ReadsTheOldModuleOfProperties) {
  std::string text = MakeDcpMetadata({Uneven()});
  const std::string now = std::string(kDcpModule) + "\nTensorProperties";
  const std::string old = "torch.distributed._shard.sharded_tensor.metadata\nTensorProperties";
  text.replace(text.find(now), now.size(), old);
  EXPECT_EQ(Parse(text).tensors[0].type->dtype, Dtype::kBF16);
}

TEST(DcpMetadataTest, RefusesOtherGlobals) {
  ExpectBadInput([&] { Parse(PickleText(4).Global("os", "system").Stop()); },
                 ".metadata: the metadata names the global 'os.system'");
  ExpectBadInput([&] { Parse(PickleText(4).Global("torch._utils", "_rebuild_tensor_v2").Stop()); },
                 "names the global 'torch._utils._rebuild_tensor_v2'");
}

TEST(DcpMetadataTest, RefusesOtherPickles) {
  ExpectBadInput([] { Parse(PickleText(4).Op("}").Stop()); },
                 ".metadata: it is a dict of 0, expected the metadata of "
                 "torch.distributed.checkpoint",
                 "give the directory");
  ExpectBadInput([] { Parse(MakeDcpMetadata({}, {}, kDcpModule, "StorageMeta")); },
                 "it is a value made by 'torch.distributed.checkpoint.metadata.StorageMeta'");
  PickleText none(4);
  ExpectBadInput([&] { Parse(PutObject(none, "Metadata").Stop()); },
                 ".metadata: its state_dict_metadata is missing, expected a dict");
  PickleText no_items(4);
  PutObject(no_items, "Metadata").Op("}(").Text("state_dict_metadata").Op("}");
  ExpectBadInput([&] { Parse(no_items.Text("storage_data").Op("Nub").Stop()); },
                 ".metadata: its storage_data is None, expected a dict");
}

TEST(DcpMetadataTest, RefusesATensorOrAnItemTwice) {
  ExpectBadInput(
      [] {
        Parse(MakeDcpMetadata({Uneven(), Uneven()}));
      },
      ".metadata: tensor 'model.w': it is listed twice");
  DcpTensorText tensor = Uneven();
  tensor.chunks[1] = tensor.chunks[0];
  ExpectRefused(tensor, "its chunk at [0, 0] has two items");
}

TEST(DcpMetadataTest, RefusesTensorsOfAnotherForm) {
  DcpTensorText tensor = Uneven();
  tensor.dtype = "Size";
  ExpectRefused(tensor, "its dtype is the global 'torch.Size', expected one of PyTorch");
  tensor = Uneven();
  tensor.shape[0] = -1;
  ExpectRefused(tensor,
                "its size is a value made by 'torch.Size', expected a torch.Size of at most "
                "16 numbers from 0 on");
  tensor = Uneven();
  tensor.chunks[1].offsets = {1};
  ExpectRefused(tensor, "its size is [3, 4], but a chunk has the offsets [1] and the sizes [1, 4]");
  tensor = Uneven();
  tensor.chunks[1].sizes = {-1, 4};
  ExpectRefused(tensor, "the size of a chunk is a value made by");
  const auto one = [](const std::string& metadata) {
    PickleText text(4);
    PutObject(text, "Metadata").Op("}(").Text("state_dict_metadata").Op("}").Text("model.w");
    Parse(text.Op(metadata).Op("s").Text("storage_data").Op("}ub").Stop());
  };
  ExpectBadInput([&] { one("N"); }, "its metadata is None, expected that of a tensor or of bytes");
  PickleText object;
  PutObject(object, "TensorStorageMetadata");
  ExpectBadInput([&] { one(object.text().substr(2)); }, "its dtype is missing");
  PutProperties(object.Op("}").Text("properties"), "float16");
  object.Op("s").Text("size").Size(std::vector<int>{}).Op("s");
  ExpectBadInput([&] { one(object.text().substr(2) + "b"); }, "its list of chunks is missing");
}

TEST(DcpMetadataTest, RefusesItemsOfAnotherForm) {
  DcpTensorText tensor = Uneven();
  tensor.chunks[0].item->offset = -1;
  ExpectRefused(tensor, "the offset in the file is -1, expected a number from 0 on");
  tensor = Uneven();
  tensor.chunks[0].item->length = -1;
  ExpectRefused(tensor, "the length in the file is -1");
  const auto one = [](const std::string& item) {
    PickleText text(4);
    PutObject(text, "Metadata").Op("}(").Text("state_dict_metadata").Op("}").Text("model.w");
    PutTensorMetadata(text, Uneven());
    Parse(text.Op("s").Text("storage_data").Op("}").Op(item).Op("sub").Stop());
  };
  ExpectBadInput([&] { one("NN"); }, "the name of an item's tensor is missing, expected a text");
  PickleText index;
  PutObject(index, "MetadataIndex").Op("}").Text("fqn").Text("model.w").Op("sbN");
  ExpectBadInput([&] { one(index.text().substr(2)); }, "the offset of an item is missing");
}

TEST(DcpMetadataTest, RefusesFilesOutsideTheDirectory) {
  for (const std::string path : {"/etc/passwd", "../x.distcp", "a/../../x", "", "a//b", "a\\b"}) {
    DcpTensorText tensor = Uneven();
    tensor.chunks[2].item->path = path;
    ExpectRefused(tensor, "an item lies in the file '", "which ");
  }
  DcpTensorText tensor = Uneven();
  tensor.chunks[0].item->path = "shards/__0_0.distcp";
  EXPECT_EQ(Parse(MakeDcpMetadata({tensor})).files.size(), 3U);
}

TEST(DcpMetadataTest, RefusesTransformedItems) {
  DcpTensorText tensor = Uneven();
  tensor.chunks[0].item->transforms = PickleText().Op("](").Text("zstd").Op("e").text().substr(2);
  ExpectRefused(tensor, "its items were transformed", "without transforms");
  tensor.chunks[0].item->transforms = "]";
  EXPECT_EQ(Parse(MakeDcpMetadata({tensor})).tensors.size(), 1U);
  tensor.chunks[0].item->transforms = "N";
  EXPECT_EQ(Parse(MakeDcpMetadata({tensor})).tensors.size(), 1U);
}

TEST(DcpMetadataTest, EveryPrefixIsAnError) {
  const std::string text = MakeDcpMetadata({Uneven()}, {"step"});
  for (std::size_t length = 0; length < text.size(); ++length) {
    ExpectBadInput([&] { Parse(text.substr(0, length)); }, ".metadata: ");
  }
}

TEST(DcpMetadataTest, ReadsAFileOfLimitedSize) {
  const testing::TempDir directory(testing::MemoryDirectory());
  testing::WriteFile(directory / ".metadata", MakeDcpMetadata({Uneven()}));
  EXPECT_EQ(ReadDcpMetadata(InputFile(directory / ".metadata", ".metadata")).tensors.size(), 1U);
  std::filesystem::resize_file(directory / ".metadata", std::uint64_t{1} << 40);
  ExpectBadInput([&] { ReadDcpMetadata(InputFile(directory / ".metadata", ".metadata")); },
                 ".metadata: the metadata has 1.1 TB", "at most 96.0 MB");
}

// The time for four times as many chunks of one tensor is not sixteen times as long.
TEST(DcpMetadataTest, TimeIsLinear) {
  const auto seconds = [](std::int64_t chunks) {
    DcpTensorText tensor = {.name = "w", .shape = {chunks}, .chunks = {}};
    for (std::int64_t i = 0; i < chunks; ++i) {
      tensor.chunks.push_back({.offsets = {i}, .sizes = {1}});
    }
    const std::string text = MakeDcpMetadata({tensor});
    double best = 1e9;
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto start = std::chrono::steady_clock::now();
      EXPECT_EQ(Parse(text).tensors[0].chunks.size(), static_cast<std::size_t>(chunks));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      best = std::min(best, took.count());
    }
    return best;
  };
  EXPECT_LT(seconds(40'000), 10 * seconds(10'000));
}

}  // namespace
}  // namespace dsv3::formats
