#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dsv3::convert {

// The module that a tensor belongs to: its name without ".weight".
std::string_view ModuleOf(std::string_view tensor);

// A config's modules_to_not_convert (or ignored_layers). An entry names a module when its dotted
// parts follow each other in the module's name: "mlp.gate" names "model.layers.3.mlp.gate", but not
// "model.layers.3.mlp.gate_proj". So an entry may be a module's whole name, the name of a module
// around it, or an ending that loaders match. Other substrings, which some loaders match by
// mistake, do not count.
class ModuleList {
 public:
  // Duplicates count once.
  explicit ModuleList(const std::vector<std::string>& entries);

  const std::vector<std::string>& entries() const { return entries_; }
  bool Names(std::string_view module) const;
  // Calls `visit` with the position in entries() of each that names the module, at times twice.
  void ForEachNaming(std::string_view module, const std::function<void(std::size_t)>& visit) const;

 private:
  std::vector<std::string> entries_;
  std::unordered_map<std::string, std::size_t> positions_;
  std::size_t longest_ = 0;  // of the entries
};

}  // namespace dsv3::convert
