#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "convert/plan/container.h"
#include "convert/plan/expression.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// A tensor of an output file: where its bytes go and how they are made.
struct PlannedTensor {
  static constexpr std::uint32_t kNone = UINT32_MAX;

  TensorEntry entry;
  ExpressionPtr expression;
  // Positions in PlannedFile::tensors, or kNone: of the tensor that evaluating this one makes as
  // well, and of the one whose evaluation makes this one.
  std::uint32_t by_product = kNone;
  std::uint32_t maker = kNone;
  // XXH3-128, hex, that its bytes must have; empty: not known.
  std::string xxh3 = {};
  // Of a file that is packed: a value of the same dtype and shape that it is packed against;
  // nullptr for none.
  ExpressionPtr base = nullptr;
};

// A weight file to be written; its every byte's place is fixed.
struct PlannedFile {
  std::string name;
  const Container* container = &Safetensors();
  std::vector<PlannedTensor> tensors;  // in file order; bytes between them are zero
  std::uint64_t data_offset = 0;       // bytes before the data
  std::uint64_t bytes = 0;
  // XXH3-128 of the first data_offset bytes, hex.
  std::string header_digest;
  // The first data_offset bytes where they are those of another file; empty where they follow from
  // the tensors.
  std::string given_header;
  FileMetadata metadata;
  // A source file that has every byte of this one: its bytes need not be written anew. Empty where
  // there is none.
  std::filesystem::path same_bytes_as;
  // Of plans with shared_reads: files of one group advance together, groups in ascending order.
  std::uint32_t group = 0;
  // Of plans with `packed`: how many bytes the file takes when it is packed, about; all else is of
  // the file before that.
  std::uint64_t packed_bytes = 0;
  // The digest, hex, that the file must have; empty: not known.
  std::string sha256 = {};

  // On the disk; of a packed file about.
  std::uint64_t disk_bytes() const { return packed_bytes != 0 ? packed_bytes : bytes; }
};

// The first PlannedFile::data_offset bytes.
std::string FileHeader(const PlannedFile& file);

// Of all tensors together.
std::uint64_t TensorBytes(const PlannedFile& file);

using NamedExpressions = std::vector<std::pair<std::string, ExpressionPtr>>;

// transformers refuses a PyTorch checkpoint whose files do not say so: {"format": "pt"}.
const FileMetadata& PtMetadata();

// Lays a file out: header and offsets are fixed. Tensors take the order of the container, but
// by-products whose bytes are not expected go behind all others where that leaves them aligned to
// their elements: then the file can be digested while it is written. An expression and its
// by-product must both be among `tensors` (Error kInternal otherwise).
PlannedFile PlanFile(std::string name, NamedExpressions tensors,
                     const FileMetadata& metadata = PtMetadata(),
                     const Container& container = Safetensors());

// The same with the layout of a safetensors file that exists: `header_bytes` are its bytes before
// the data, unchanged, and `header` is their parsed form. Each of its tensors is made by the
// expression of its name. The caller has checked that names, dtypes and shapes agree (Error
// kInternal otherwise).
PlannedFile PlanFileLike(std::string name, std::string header_bytes,
                         const formats::SafetensorsHeader& header, NamedExpressions tensors);

}  // namespace dsv3::convert
