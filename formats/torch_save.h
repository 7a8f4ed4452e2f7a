#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/file_range.h"
#include "formats/pickle.h"
#include "formats/shape.h"
#include "formats/torch_types.h"

// Files of torch.save; docs/torch-files.md says which are read.
namespace dsv3::formats {

class InputFile;

// The bytes that one or more tensors are views of.
struct TorchStorage {
  std::string key;        // "0", by which the archive calls it
  FileRange range;        // in the file
  std::uint32_t crc = 0;  // CRC-32 of its bytes; 0 where the archive does not know it
};

// A view of a storage: element [i, j, ...] is element offset + i * strides[0] + j * strides[1] +
// ... of it, which lies in the storage.
struct TorchTensor {
  const TorchDtype* type = nullptr;
  Shape shape;
  Shape strides;              // in elements, as many as dimensions
  std::uint64_t offset = 0;   // in elements
  std::uint32_t storage = 0;  // position in TorchSave::storages
  std::uint32_t path = 0;     // for TorchSave::Path

  // Whether the elements lie one behind the other in row-major order.
  bool IsContiguous() const;
};

struct TorchSave {
  std::vector<TorchTensor> tensors;    // in the order of the pickle
  std::vector<TorchStorage> storages;  // those that tensors use
  Pickle pickle;                       // all values, for those that are not tensors

  // The keys that lead to a tensor: texts of dicts, and positions in lists and tuples ("0"). Empty
  // for a tensor that is saved alone.
  std::vector<std::string> Path(const TorchTensor& tensor) const;
  // The same as one text, joined by points: "model.layers.0.weight". For a tensor alone "".
  std::string Name(const TorchTensor& tensor) const;

  // The step from a value to one within it.
  struct Step {
    std::uint32_t from = 0;      // the step before; itself for the first
    PickleId key = kNoPickle;    // of a dict
    std::uint32_t position = 0;  // in a list, where there is no key
  };
  std::vector<Step> steps;                  // what Path follows; steps[0] is the root
  std::shared_ptr<const std::string> text;  // which the pickle is a view of
};

// Reads what torch.save wrote at `archive` of a file, without the bytes of storages. Every tensor
// is found: in dicts (also of other kinds), lists, tuples, states and arguments. Two tensors may
// share a storage, and one tensor may be found by several paths. Refuses what docs/torch-files.md
// lists: files before PyTorch 1.6, TorchScript, big-endian ones, globals that weights do not need
// (nothing is ever called), a storage that is missing or whose bytes differ from its elements, a
// view that leaves its storage, a dict with a text key twice. Errors name the file, and the tensor
// by its path. Throws Error (kBadInput; kIo when the disk fails).
TorchSave ReadTorchSave(const InputFile& file, FileRange archive);

// The same of an archive that is a whole file.
TorchSave ReadTorchSave(const InputFile& file);

}  // namespace dsv3::formats
