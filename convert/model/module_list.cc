#include "convert/model/module_list.h"

#include <algorithm>

namespace dsv3::convert {

std::string_view ModuleOf(std::string_view tensor) {
  constexpr std::string_view kSuffix = ".weight";
  if (tensor.ends_with(kSuffix)) tensor.remove_suffix(kSuffix.size());
  return tensor;
}

ModuleList::ModuleList(const std::vector<std::string>& entries) {
  for (const std::string& entry : entries) {
    if (entry.empty() || !positions_.emplace(entry, entries_.size()).second) continue;
    entries_.push_back(entry);
    longest_ = std::max(longest_, entry.size());
  }
}

void ModuleList::ForEachNaming(std::string_view module,
                               const std::function<void(std::size_t)>& visit) const {
  for (std::size_t begin = 0; begin <= module.size();) {
    // Each run of parts that begins here and is not longer than any entry.
    for (std::size_t end = begin;;) {
      end = std::min(module.find('.', end), module.size());
      if (end - begin > longest_) break;
      const auto found = positions_.find(std::string(module.substr(begin, end - begin)));
      if (found != positions_.end()) visit(found->second);
      if (end == module.size()) break;
      ++end;
    }
    const std::size_t dot = module.find('.', begin);
    if (dot == std::string_view::npos) break;
    begin = dot + 1;
  }
}

bool ModuleList::Names(std::string_view module) const {
  bool names = false;
  ForEachNaming(module, [&](std::size_t) { names = true; });
  return names;
}

}  // namespace dsv3::convert
