#include "formats/torch_save.h"

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/hash/crc32.h"
#include "formats/io/input_file.h"
#include "formats/pickle_parser.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/torch_archive.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::formats {
namespace {

using testing::AsBytes;
using testing::AsString;
using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::ExpectBadInput;
using ::testing::IsEmpty;
using testing::MakeZip;
using testing::PickleText;
using testing::PutTensor;
using testing::PutTensorV3;
using testing::TempDir;
using testing::TorchArchive;
using testing::TorchItems;
using testing::TorchTensorText;
using testing::WriteFile;
using testing::ZipItem;

using Storages = std::vector<std::pair<std::string, std::string>>;

// A 2 × 3 tensor of floats that is the whole of storage 0.
TorchTensorText Floats() { return {.storage_elements = 6, .shape = {2, 3}, .strides = {3, 1}}; }
const Storages kFloats = {{"0", std::string(24, 'f')}};

class TorchSaveTest : public ::testing::Test {
 protected:
  TorchSave Read(const std::string& archive) {
    Write(archive);
    return ReadTorchSave(*file_);
  }
  // {"w": the tensor}
  TorchSave ReadOne(const TorchTensorText& tensor, const Storages& storages = kFloats) {
    return Read(OneTensor(tensor, storages));
  }
  static std::string OneTensor(const TorchTensorText& tensor, const Storages& storages = kFloats) {
    PickleText text;
    text.Op("}").Text("w");
    return TorchArchive(PutTensor(text, tensor).Op("s").Stop(), storages);
  }
  void Write(const std::string& content) {
    WriteFile(directory_ / "m.pt", content);
    file_ = std::make_unique<InputFile>(directory_ / "m.pt", "m.pt");
  }
  std::string Bytes(FileRange range) {
    std::vector<std::byte> bytes(range.bytes);
    file_->ReadAt(range.offset, bytes);
    return AsString(bytes);
  }
  template <typename... Words>
  void ExpectRefused(const TorchTensorText& tensor, const Words&... words) {
    ExpectBadInput([&] { ReadOne(tensor); }, "m.pt: ", words...);
  }

  TempDir directory_{testing::MemoryDirectory()};
  std::unique_ptr<InputFile> file_;
};

TEST_F(TorchSaveTest, FindsTensorsWithTheirPaths) {
  PickleText text;
  text.Op("}(").Text("model").Global("collections", "OrderedDict").Op(")R(").Text("a.w");
  PutTensor(text, Floats()).Text("b");
  text.Global("torch._utils", "_rebuild_parameter").Op("(");
  PutTensor(text, {.storage = "BFloat16Storage",
                   .key = "k",
                   .storage_elements = 2,
                   .shape = {},
                   .strides = {}});
  text.Op("\x88").Global("collections", "OrderedDict").Op(")RtRu").Text("list").Op("](N");
  PutTensor(text, Floats());
  text.Op("e").Text("step").Op("K\x07").Text("by number").Op("}K\x03");
  PutTensor(text, Floats()).Op("su");
  const Storages storages = {{"0", std::string(24, 'f')}, {"k", "abcd"}, {"unused", "x"}};
  const TorchSave save = Read(TorchArchive(text.Stop(), storages));

  ASSERT_EQ(save.tensors.size(), 4U);
  EXPECT_THAT(save.Path(save.tensors[0]), ElementsAre("model", "a.w"));
  EXPECT_EQ(save.Name(save.tensors[0]), "model.a.w");
  EXPECT_EQ(save.Name(save.tensors[1]), "model.b");
  EXPECT_EQ(save.Name(save.tensors[2]), "list.1");
  EXPECT_EQ(save.Name(save.tensors[3]), "by number.3");
  EXPECT_EQ(save.tensors[0].type->dtype, Dtype::kF32);
  EXPECT_EQ(save.tensors[0].shape, (Shape{2, 3}));
  EXPECT_EQ(save.tensors[1].type->dtype, Dtype::kBF16);
  EXPECT_EQ(save.tensors[1].shape, Shape{});
  ASSERT_EQ(save.storages.size(), 2U) << "one for each that a tensor uses";
  EXPECT_EQ(save.tensors[2].storage, save.tensors[0].storage);
  EXPECT_EQ(Bytes(save.storages[0].range), std::string(24, 'f'));
  EXPECT_EQ(save.storages[1].key, "k");
  EXPECT_EQ(Bytes(save.storages[1].range), "abcd");
  EXPECT_EQ(save.pickle.Int(save.pickle.Get(save.pickle.root(), "step")), 7);
}

TEST_F(TorchSaveTest, AnArchiveMayBeARangeOfAFileWithABareTensor) {
  PickleText text;
  const std::string archive = TorchArchive(PutTensor(text, Floats()).Stop(), kFloats);
  Write("before" + archive + "after");
  const TorchSave save = ReadTorchSave(*file_, {.offset = 6, .bytes = archive.size()});
  ASSERT_EQ(save.tensors.size(), 1U);
  EXPECT_THAT(save.Path(save.tensors[0]), IsEmpty());
  EXPECT_EQ(Bytes(save.storages[0].range), std::string(24, 'f'));
}

TEST_F(TorchSaveTest, KeepsViewsAsTheyAre) {
  TorchTensorText view = Floats();
  view.shape = {3, 2};
  view.strides = {1, 3};
  EXPECT_EQ(ReadOne(view).tensors[0].strides, (Shape{1, 3}));
  EXPECT_FALSE(ReadOne(view).tensors[0].IsContiguous());
  view = {.storage_elements = 6, .offset = 3, .shape = {1, 3}, .strides = {99, 1}};
  EXPECT_EQ(ReadOne(view).tensors[0].offset, 3U);
  EXPECT_TRUE(ReadOne(view).tensors[0].IsContiguous()) << "a stride of one row has no meaning";
  view = {.storage_elements = 6, .offset = 5, .shape = {4}, .strides = {0}};
  EXPECT_FALSE(ReadOne(view).tensors[0].IsContiguous());
  // An empty view may lie anywhere.
  view = {.storage_elements = 6, .offset = 27, .shape = {0, 4}, .strides = {4, 1}};
  EXPECT_TRUE(ReadOne(view).tensors[0].IsContiguous());
}

TEST_F(TorchSaveTest, KnowsAllDtypes) {
  const std::vector<std::pair<std::string, Dtype>> typed = {
      {"DoubleStorage", Dtype::kF64},       {"FloatStorage", Dtype::kF32},
      {"HalfStorage", Dtype::kF16},         {"BFloat16Storage", Dtype::kBF16},
      {"LongStorage", Dtype::kI64},         {"IntStorage", Dtype::kI32},
      {"ShortStorage", Dtype::kI16},        {"CharStorage", Dtype::kI8},
      {"ByteStorage", Dtype::kU8},          {"BoolStorage", Dtype::kBool},
      {"ComplexFloatStorage", Dtype::kC64},
  };
  for (const auto& [storage, dtype] : typed) {
    TorchTensorText tensor = Floats();
    tensor.storage = storage;
    const std::string bytes(6 * DtypeBits(dtype) / 8, 'x');
    EXPECT_EQ(ReadOne(tensor, {{"0", bytes}}).tensors[0].type->dtype, dtype) << storage;
  }
  const std::vector<std::pair<std::string, Dtype>> untyped = {
      {"float8_e4m3fn", Dtype::kF8E4M3},
      {"float8_e5m2", Dtype::kF8E5M2},
      {"float8_e8m0fnu", Dtype::kF8E8M0},
      {"float8_e4m3fnuz", Dtype::kF8E4M3Fnuz},
      {"float8_e5m2fnuz", Dtype::kF8E5M2Fnuz},
      {"uint16", Dtype::kU16},
      {"uint32", Dtype::kU32},
      {"uint64", Dtype::kU64},
  };
  for (const auto& [name, dtype] : untyped) {
    TorchTensorText tensor = Floats();
    tensor.storage_elements = 6 * DtypeBits(dtype) / 8;
    PickleText text;
    const std::string pickle = PutTensorV3(text, tensor, name).Stop();
    const std::string bytes(static_cast<std::size_t>(tensor.storage_elements), 'x');
    EXPECT_EQ(Read(TorchArchive(pickle, {{"0", bytes}})).tensors[0].type->dtype, dtype) << name;
  }
  TorchTensorText complex = Floats();
  complex.storage = "ComplexDoubleStorage";
  const TorchSave save = ReadOne(complex, {{"0", std::string(96, 'x')}});
  EXPECT_EQ(save.tensors[0].type->dtype, std::nullopt);
  EXPECT_EQ(save.tensors[0].type->global, "torch.complex128");
}

TEST_F(TorchSaveTest, RefusesStoragesOfAnotherSize) {
  TorchTensorText tensor = Floats();
  tensor.storage_elements = 7;
  ExpectRefused(tensor,
                "tensor 'w' needs a storage of 7 elements of 4 bytes, but 'archive/data/0' "
                "has 24 bytes");
  tensor.storage_elements = 5;
  ExpectRefused(tensor, "needs a storage of 5 elements");
  tensor.storage_elements = std::int64_t{1} << 62;
  ExpectRefused(tensor, "needs a storage of 4,611,686,018,427,387,904 elements");
  EXPECT_EQ(ErrorOf([&] { ReadOne(tensor); }).place().tensor, "w");
}

TEST_F(TorchSaveTest, RefusesViewsThatLeaveTheirStorage) {
  const std::string words = "which leave its storage of 6 elements";
  TorchTensorText tensor = Floats();
  tensor.offset = 1;
  ExpectRefused(tensor, "tensor 'w' has the shape [2, 3], strides [3, 1] and offset 1", words);
  tensor = {.storage_elements = 6, .shape = {2, 3}, .strides = {4, 1}};
  ExpectRefused(tensor, words);
  tensor = {.storage_elements = 6, .shape = {2}, .strides = {std::int64_t{1} << 62}};
  ExpectRefused(tensor, words);
  tensor = {.storage_elements = 6, .shape = {std::int64_t{1} << 62, 5}, .strides = {8, 8}};
  ExpectRefused(tensor, words);
  tensor = {.storage_elements = 6, .offset = 6, .shape = {}, .strides = {}};
  ExpectRefused(tensor, words);
  // The place of the last element is 2^64.
  constexpr std::int64_t kLargest = INT64_MAX;
  tensor = {.storage_elements = 6, .offset = 2, .shape = {2, 2}, .strides = {kLargest, kLargest}};
  ExpectRefused(tensor, words);
  // Strides of 0 keep all elements within it, but their number has no end.
  tensor = {.storage_elements = 6,
            .shape = {std::int64_t{1} << 40, std::int64_t{1} << 40},
            .strides = {0, 0}};
  ExpectRefused(tensor, words);
}

TEST_F(TorchSaveTest, RefusesBadNumbers) {
  TorchTensorText tensor = Floats();
  tensor.offset = -1;
  ExpectRefused(tensor, "tensor 'w' has as its offset -1, expected a number from 0 on");
  tensor = Floats();
  tensor.shape[1] = -3;
  ExpectRefused(tensor, "has as its shape a tuple of 2, expected");
  tensor = Floats();
  tensor.strides[1] = -1;
  ExpectRefused(tensor, "has as its strides");
  tensor = Floats();
  tensor.strides.push_back(1);
  ExpectRefused(tensor, "has 2 dimensions, but 3 strides");
  tensor = Floats();
  tensor.storage_elements = -1;
  ExpectRefused(tensor, "has as its number of elements of its storage -1");
  tensor = {.storage_elements = 6,
            .shape = std::vector<std::int64_t>(17, 1),
            .strides = std::vector<std::int64_t>(17, 1)};
  ExpectRefused(tensor, "has as its shape a tuple of 17, expected a tuple of at most 16");
}

TEST_F(TorchSaveTest, RefusesTensorsOfAnotherForm) {
  const auto refused = [&](const std::string& pickle, const std::string& words) {
    ExpectBadInput([&] { Read(TorchArchive(pickle, kFloats)); }, "m.pt: its tensor ", words);
  };
  refused(PickleText().Global("torch._utils", "_rebuild_tensor_v2").Op(")R").Stop(),
          "is made of 0 arguments, expected 6 or 7");
  refused(PickleText().Global("torch._utils", "_rebuild_parameter").Op("N\x85R").Stop(),
          "is a parameter without a tensor");
  refused(PickleText().Global("torch._utils", "_rebuild_tensor_v2").Op("(NNNNNNtR").Stop(),
          "has as its storage None, expected a storage of the archive");
  PickleText lazy;
  PutTensor(lazy, Floats(), PickleText().Op("}").Text("neg").Op("\x88s").text().substr(2));
  refused(lazy.Stop(), "is a lazily negated or conjugated view");
  PickleText plain;
  EXPECT_EQ(Read(TorchArchive(PutTensor(plain, Floats(), "}").Stop(), kFloats)).tensors.size(), 1U);
  PickleText untyped;
  PutTensorV3(untyped, Floats(), "float4_e2m1fn_x2");
  refused(untyped.Stop(), "has as its dtype the global 'torch.float4_e2m1fn_x2'");
  TorchTensorText other = Floats();
  other.storage = "Size";
  PickleText classes;
  refused(PutTensor(classes, other).Stop(), "has as its class of its storage the global");
}

TEST_F(TorchSaveTest, RefusesAMissingStorage) {
  TorchTensorText tensor = Floats();
  tensor.key = "1";
  ExpectRefused(tensor, "tensor 'w' lies in 'archive/data/1', which the archive does not hold");
  tensor.key = "../data.pkl";
  ExpectRefused(tensor, "lies in 'archive/data/../data.pkl'");
}

TEST_F(TorchSaveTest, RefusesGlobalsWithoutCallingThem) {
  const std::string pickle =
      PickleText().Op("}").Text("w").Global("posix", "system").Text("x").Op("\x85Rs").Stop();
  ExpectBadInput([&] { Read(TorchArchive(pickle, {})); },
                 "m.pt: data.pkl names the global 'posix.system'");
  Write("12" + TorchArchive(pickle, {}));
  ExpectBadInput([&] { ReadTorchSave(*file_, {.offset = 2, .bytes = file_->bytes() - 2}); },
                 "data.pkl of the archive at byte 2 names the global 'posix.system'");
  const std::string taken =
      PickleText().Global("megatron.core.enums", "Backend").Op("K\x01\x85R").Stop();
  EXPECT_TRUE(Read(TorchArchive(taken, {})).tensors.empty());
}

TEST_F(TorchSaveTest, RefusesAKeyTwice) {
  PickleText text;
  text.Op("}(").Text("model").Op("}(").Text("w");
  PutTensor(text, Floats()).Text("w");
  PutTensor(text, Floats()).Op("uu");
  ExpectBadInput([&] { Read(TorchArchive(text.Stop(), kFloats)); },
                 "m.pt: the dict 'model' has the key 'w' twice");
}

TEST_F(TorchSaveTest, RefusesValuesWithTooManyWaysToThem) {
  PickleText text;
  PutTensor(text, Floats());
  for (std::uint32_t i = 0; i < 60; ++i) text.Put(i).Get(i).Op("\x86");
  ExpectBadInput([&] { Read(TorchArchive(text.Stop(), kFloats)); },
                 "m.pt: its values refer to each other in too many ways");
}

TEST_F(TorchSaveTest, RefusesNamesThatAreTooLong) {
  PickleText text;
  text.Op("}").Text(std::string(5000, 'n'));
  ExpectBadInput([&] { Read(TorchArchive(PutTensor(text, Floats()).Op("s").Stop(), kFloats)); },
                 "m.pt: the name of a tensor has 5.0 kB");
}

TEST_F(TorchSaveTest, RefusesOtherArchives) {
  PickleText text;
  const std::string pickle = PutTensor(text, Floats()).Stop();
  std::vector<ZipItem> items = TorchItems(pickle, kFloats);
  items.push_back({.name = "archive/constants.pkl", .content = "x"});
  items.push_back({.name = "archive/code/x.py", .content = "x", .method = 8});
  ExpectBadInput([&] { Read(MakeZip(items)); }, "m.pt: it is a TorchScript program",
                 "torch.save(model.state_dict(), FILE)");
  items = TorchItems(pickle, kFloats);
  items[1].content = "big";
  ExpectBadInput([&] { Read(MakeZip(items)); }, "its byteorder is 'big', expected 'little'",
                 "on a little-endian machine");
  items[1].content = std::string(100, 'b');
  ExpectBadInput([&] { Read(MakeZip(items)); }, "its byteorder is 100 bytes");
  items = TorchItems(pickle, kFloats);
  items[2].method = 8;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "entry 'archive/data/0' is compressed");
  items = TorchItems(pickle, kFloats);
  items.push_back({.name = "other/data.pkl", .content = pickle});
  ExpectBadInput([&] { Read(MakeZip(items)); }, "it holds two data.pkl");
  ExpectBadInput([&] { Read(MakeZip({{.name = "word/document.xml", .content = "x"}})); },
                 "a zip archive without a data.pkl in its folder");
  ExpectBadInput([&] { Read(MakeZip({{.name = "data.pkl", .content = pickle}})); },
                 "without a data.pkl in its folder");
}

TEST_F(TorchSaveTest, OldArchivesLackSomeEntries) {
  PickleText text;
  std::vector<ZipItem> items = TorchItems(PutTensor(text, Floats()).Stop(), kFloats, "model-7");
  items.erase(items.begin() + 1);
  EXPECT_EQ(Read(MakeZip(items)).tensors.size(), 1U);
}

TEST_F(TorchSaveTest, ComparesTheCrcOfThePickleWhereItIsKnown) {
  PickleText text;
  std::vector<ZipItem> items = TorchItems(PutTensor(text, Floats()).Stop(), kFloats);
  items[0].crc = Crc32(AsBytes(items[0].content));
  items[2].crc = 5;
  EXPECT_EQ(Read(MakeZip(items)).storages[0].crc, 5U);
  ++items[0].crc;
  ExpectBadInput([&] { Read(MakeZip(items)); }, "m.pt: 'archive/data.pkl' has the CRC");
}

TEST_F(TorchSaveTest, RefusesAPickleThatIsTooLarge) {
  const std::vector<ZipItem> items = {
      {.name = "m/data.pkl", .content = std::string(kMaxPickleBytes + 1, 'N')}};
  ExpectBadInput([&] { Read(MakeZip(items)); }, "m.pt: 'm/data.pkl' has 96.0 MB");
}

TEST_F(TorchSaveTest, RefusesOtherFiles) {
  ExpectBadInput(
      [&] {
        Read(std::string("\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19.") + "...");
      },
      "m.pt: it has the form of torch.save before PyTorch 1.6", "save it again");
  ExpectBadInput([&] { Read(PickleText(4).Op("}").Stop()); }, "m.pt: it is a bare pickle");
  ExpectBadInput([&] { Read(""); }, "m.pt: it is empty");
  ExpectBadInput([&] { Read("{\"a\": 1}"); }, "m.pt: it is not a zip archive");
  Write("abc");
  ExpectBadInput([&] { ReadTorchSave(*file_, {.offset = 2, .bytes = 2}); },
                 "m.pt: the archive at byte 2: it has 2 bytes, so it would end behind the file");
}

TEST_F(TorchSaveTest, EveryPrefixIsAnError) {
  const std::string archive = OneTensor(Floats());
  for (std::size_t length = 0; length < archive.size(); ++length) {
    ExpectBadInput([&] { Read(archive.substr(0, length)); }, "m.pt: ");
  }
}

}  // namespace
}  // namespace dsv3::formats
