#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"

namespace dsv3::convert {

// Tensors that are equal but for the numbers in their names: same pattern, dtype and shape.
struct NameGroup {
  static constexpr std::string_view kNumber = "\x01";
  // The word that replaces a component: words that begin like the mark carry it once more.
  static std::string WordOf(std::string_view component) {
    if (component.starts_with(kNumber)) component.remove_prefix(kNumber.size());
    return std::string(component);
  }

  // The name's components, with kNumber for each number.
  std::vector<std::string> components;
  std::size_t num_numbers = 0;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::uint64_t elements = 0;  // of one tensor
  std::uint64_t parameters =
      0;                    // of one tensor: elements, or the values of codes; none beside them
  std::uint64_t bytes = 0;  // of one tensor
  std::uint64_t tensors = 0;
  std::vector<std::uint32_t> numbers;  // num_numbers for each tensor, in the catalog's order
  bool scale = false;                  // holds the quantisation scales of another group

  // Position of the number that follows component `name`, or num_numbers when there is none.
  std::size_t NumberAfter(std::string_view name) const;
};

// The groups of a catalog, in order of first appearance. A component counts as a number when it is
// decimal, without leading zeros and below 10^9. Names with very many components keep the last ones
// in one. `config` may be nullptr.
std::vector<NameGroup> GroupNames(const Catalog& catalog, const ModelConfig* config);

}  // namespace dsv3::convert
