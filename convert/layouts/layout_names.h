#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "convert/layouts/layout_table.h"
#include "convert/model/model_config.h"
#include "formats/shape.h"

namespace dsv3::convert {

// A place where a layout may hold a tensor of the model, or a piece of one.
struct LayoutPlace {
  std::string name;         // of the layout's tensor
  formats::Shape axes;      // its first axes, which count layers and experts
  std::uint64_t block = 0;  // which of these the tensor is in
  const NameRule* rule = nullptr;
};

// Places that hold a tensor of the model together.
struct LayoutPlaces {
  std::vector<LayoutPlace> pieces;  // at least one
  std::string_view variant;         // of their rules
  std::string_view prefix_variant;

  bool IsOf(const std::vector<std::string_view>& variants) const;
};

// Finds the places of the model's tensors by the rules of one table. Thread-safe.
class LayoutNames {
 public:
  // Both must live as long as the object.
  LayoutNames(const LayoutTable& table, const ModelConfig& config);

  // Where the layout may hold the tensor with this Hugging Face name, in the table's order; none
  // where it has no name for it.
  std::vector<LayoutPlaces> PlacesOf(std::string_view name) const;

  // The name of the main model's tensor that an MTP layer's is a copy of in this layout.
  std::optional<std::string_view> CopiedFrom(std::string_view name) const;

  bool IsMtp(std::string_view name) const;

  // Whether these places keep the tensor of an expert as it is, though the layout of these variants
  // puts experts together.
  bool KeepsExpertApart(std::string_view name, const LayoutPlaces& places,
                        const std::vector<std::string_view>& variants) const;

 private:
  using Rules = std::unordered_map<std::string_view, std::vector<const NameRule*>>;

  const LayoutTable& table_;
  const ModelConfig& config_;
  Rules outside_;
  Rules layer_;
  Rules mtp_;
  NameRule renamed_;
};

}  // namespace dsv3::convert
