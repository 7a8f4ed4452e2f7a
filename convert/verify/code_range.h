#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "convert/model/scaled_weights.h"
#include "quant/codes.h"

// Codes that a form's makers never write; an internal part of numeric.h.
namespace dsv3::convert {

struct CodesOutOfRange {
  std::uint64_t count = 0;
  std::uint64_t first = UINT64_MAX;  // element, row-major
  int first_value = 0;

  // Adds consecutive codes; `element` is the first. Codes of four bits are whole bytes.
  void Add(quant::CodeFormat format, const CodeRange& range, std::uint64_t element,
           std::span<const std::byte> codes);
  void Add(const CodesOutOfRange& other);
};

// Whether they are a fault of a weight with so many scales: a few are where other tools write
// other codes, any are elsewhere.
bool IsFault(const CodesOutOfRange& codes, const CodeRange& range, std::uint64_t scales);

}  // namespace dsv3::convert
