#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/formats/support/pickle_text.h"
#include "tests/formats/support/zip_builder.h"

// Composes what torch.save writes.
namespace dsv3::testing {

// What a pickle says of one tensor.
struct TorchTensorText {
  std::string storage = "FloatStorage";  // a class of module torch
  std::string key = "0";
  std::int64_t storage_elements = 0;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
};

inline void PutStorage(PickleText& text, std::string_view module, const TorchTensorText& tensor) {
  text.Op("(").Text("storage").Global(module, tensor.storage).Text(tensor.key).Text("cuda:3");
  text.Int(tensor.storage_elements).Op("tQ");
}

// torch._utils._rebuild_tensor_v2 of these arguments, and what more `metadata` puts there.
inline PickleText& PutTensor(PickleText& text, const TorchTensorText& tensor,
                             std::string_view metadata = "") {
  text.Global("torch._utils", "_rebuild_tensor_v2").Op("(");
  PutStorage(text, "torch", tensor);
  text.Int(tensor.offset).Tuple(tensor.shape).Tuple(tensor.strides).Op("\x89");
  return text.Global("collections", "OrderedDict").Op(")R").Op(metadata).Op("tR");
}

// torch._utils._rebuild_tensor_v3, for dtypes without a class of storages.
inline PickleText& PutTensorV3(PickleText& text, const TorchTensorText& tensor,
                               std::string_view dtype) {
  text.Global("torch._utils", "_rebuild_tensor_v3").Op("(");
  TorchTensorText untyped = tensor;
  untyped.storage = "UntypedStorage";
  PutStorage(text, "torch.storage", untyped);
  text.Int(tensor.offset).Tuple(tensor.shape).Tuple(tensor.strides).Op("\x89");
  text.Global("collections", "OrderedDict").Op(")R");
  return text.Global("torch", dtype).Op("tR");
}

// The entries of an archive with this pickle and these storages (key, bytes).
inline std::vector<ZipItem> TorchItems(
    const std::string& pickle, const std::vector<std::pair<std::string, std::string>>& storages,
    const std::string& folder = "archive") {
  std::vector<ZipItem> items = {{.name = folder + "/data.pkl", .content = pickle},
                                {.name = folder + "/byteorder", .content = "little"}};
  for (const auto& [key, bytes] : storages) {
    items.push_back({.name = folder + "/data/" + key, .content = bytes});
  }
  items.push_back({.name = folder + "/version", .content = "3\n"});
  return items;
}

inline std::string TorchArchive(const std::string& pickle,
                                const std::vector<std::pair<std::string, std::string>>& storages) {
  return MakeZip(TorchItems(pickle, storages));
}

}  // namespace dsv3::testing
