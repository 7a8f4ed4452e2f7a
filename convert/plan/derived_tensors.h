#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// Checksums of the bytes of tensors, hex, by position.
struct ValueChecksums {
  enum class Kind { kXxh3, kAdler32 };
  Kind kind = Kind::kXxh3;
  std::unordered_map<std::uint32_t, std::string> of;
};

// Neighbouring tensors of a catalog that lie in no file as they are: each is made of stored tensors
// while it is read, as the tensors of a model are of rank shards. A view; it owns nothing.
struct DerivedTensors {
  const Catalog* stored = nullptr;         // what `origins` read
  std::span<const ExpressionPtr> origins;  // by position in the catalog, from `first` on
  std::uint32_t first = 0;
  // The XXH3-128 digests (hex) that stored tensors must have, by position in `stored`; nullptr:
  // none is known.
  const std::unordered_map<std::uint32_t, std::string>* digests = nullptr;
  // Groups of stored tensors that must be equal, by position in `stored`: the one that origins
  // read, then the others.
  std::span<const std::vector<std::uint32_t>> copies = {};
  // The checksums that derived tensors must have themselves, by position in the catalog from
  // `first` on; nullptr: none is known.
  const ValueChecksums* checksums = nullptr;

  bool Holds(std::uint32_t tensor) const {
    return tensor >= first && tensor - first < origins.size();
  }
  const Expression& OriginOf(std::uint32_t tensor) const { return *origins[tensor - first]; }
};

}  // namespace dsv3::convert
