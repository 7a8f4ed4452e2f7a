#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/file_range.h"
#include "formats/shape.h"
#include "formats/torch_types.h"

// The .metadata file of a directory that torch.distributed.checkpoint (DCP) wrote;
// docs/torch-files.md describes it.
namespace dsv3::formats {

class InputFile;

inline constexpr std::string_view kDcpMetadataName = ".metadata";
inline constexpr std::uint32_t kNoDcpFile = UINT32_MAX;

// A box of a tensor, and the item that holds it: an archive of torch.save with one tensor.
struct DcpChunk {
  Shape offsets;                    // as many as the tensor has dimensions
  Shape sizes;                      // the same; one may be 0
  std::uint32_t file = kNoDcpFile;  // position in DcpMetadata::files; kNoDcpFile: it was not saved
  FileRange range;                  // of the item in that file
};

struct DcpTensor {
  std::string name;
  const TorchDtype* type = nullptr;
  Shape shape;
  std::vector<DcpChunk> chunks;  // as stored, in any order
};

struct DcpMetadata {
  std::vector<DcpTensor> tensors;    // as stored; no name is there twice
  std::vector<std::string> files;    // plain paths below the directory, each once
  std::uint64_t num_byte_items = 0;  // values that are not tensors; they are never opened
  std::string version;               // "1.0.0"; empty before PyTorch 2.3
};

// Parses the content of .metadata. What it says of each tensor is checked by itself; whether the
// chunks of a tensor tile it, and whether their items exist, is the caller's to check for those
// that it wants. Refuses: pickles as ParsePickle does, with the globals that DCP and Megatron need;
// what is not a Metadata; a tensor or an item twice; dtypes, sizes, offsets and places that are
// none; chunks of other dimensions than their tensor; a file that is not a plain path below the
// directory; transformed items. Time is linear. `file` is the name for errors. Throws Error
// (kBadInput).
DcpMetadata ParseDcpMetadata(std::string_view text, const std::string& file);

// The same of a file. Throws Error (kBadInput; kIo when the disk fails).
DcpMetadata ReadDcpMetadata(const InputFile& file);

}  // namespace dsv3::formats
