#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/model/scaled_weights.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_reader.h"

// The reading of values: of numeric, of the checks of scales and of inspect.
namespace dsv3::convert {

// A piece of a tensor: its bytes, and what makes values of them.
struct ValuePiece {
  std::uint32_t tensor = 0;  // position in the catalog
  std::uint64_t begin = 0;   // elements [begin, end)
  std::uint64_t end = 0;
  std::uint64_t first_byte = 0;  // of `bytes` in the tensor
  std::span<const std::byte> bytes;
  const ValueReader& reader;
  const ValueReader::Scales& scales;  // those of the elements; empty where the reader is not scaled
};

// Where pieces of a tensor may end: the largest such element at or before `element`; 0 is always
// one. Called with 0 < element < the number of elements.
using ValueCut = std::function<std::uint64_t(const ValueReader& reader, std::uint64_t element)>;

struct ValueScanOptions {
  unsigned threads = 1;            // that compute, at least 1
  std::uint64_t memory_bytes = 0;  // bound for all pieces, scales on top; 0: the default
  std::string_view phase;          // for ProgressSink::OnPhase
  bool in_order = false;           // whether a tensor's pieces are visited one after the other
};

// Reads the tensors once, in the order of the disk, each FP8 weight together with its scales, and
// calls `visit` for each piece, from several threads at once. An empty tensor has no piece; the
// 6-bit types have pieces without values (ValueForm::kNone). `cut` may be empty. `scales` says
// which tensors are weights with scales and which are scales. Throws as ScanTensors does.
void ScanValues(const Catalog& catalog, std::span<const std::uint32_t> tensors,
                const ScaleMap& scales, SourceFiles& sources, const ValueScanOptions& options,
                const ValueCut& cut, const std::function<void(const ValuePiece&)>& visit,
                ProgressSink& progress, const StopToken& stop);

// The scales among some values that no weight can have: NaN, infinite, zero or negative ones.
struct BadScales {
  std::uint64_t count = 0;
  std::uint64_t first = UINT64_MAX;  // element
  float first_value = 0;

  // Counts those of elements [begin, begin + values.size()).
  void Add(std::uint64_t begin, std::span<const float> values);
  void Add(const BadScales& other);
};

}  // namespace dsv3::convert
