#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "formats/dtype.h"
#include "formats/pickle.h"
#include "formats/shape.h"

// Dtypes, storages and sizes as pickles of PyTorch name them.
namespace dsv3::formats {

struct TorchDtype {
  std::string_view global;     // "torch.bfloat16"
  std::string_view storage;    // "torch.BFloat16Storage"; empty when it has none of its own
  unsigned bytes = 0;          // of an element
  std::optional<Dtype> dtype;  // nothing for those that other formats do not have (complex128)
};

// The dtype of this name; nullptr for an unknown one. The result lives as long as the program.
const TorchDtype* FindTorchDtype(std::string_view global);

// The dtype that a class of storages holds; nullptr for an unknown class.
const TorchDtype* FindTorchStorage(std::string_view global);

// `names`, and those of all dtypes and of all classes of storages, for a pickle's allowed globals.
std::vector<std::string_view> WithTorchDtypes(std::span<const std::string_view> names);

// Dimensions beyond these are of no checkpoint, and would let a small file ask for much memory.
inline constexpr std::size_t kMaxTorchDims = 16;

// A tuple of at most kMaxTorchDims integers from 0 on, bare or as torch.Size; nothing for other
// values.
std::optional<Shape> TorchSize(const Pickle& pickle, PickleId id);

}  // namespace dsv3::formats
