#include "convert/layouts/wrapper_prefixes.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace dsv3::convert {
namespace {

constexpr std::array<std::string_view, 3> kWrappedModules = {
    "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."};

constexpr std::array<std::string_view, 5> kWrapperSegments = {"module.", "model.", "state_dict.",
                                                              "model_state_dict.", "app."};

// The first segment with its dot; the whole text where it has no dot.
std::string_view FirstSegment(std::string_view text) {
  return text.substr(0, std::min(text.find('.'), text.size() - 1) + 1);
}

template <std::size_t kSize>
bool Contains(const std::array<std::string_view, kSize>& segments, std::string_view segment) {
  return std::find(segments.begin(), segments.end(), segment) != segments.end();
}

}  // namespace

std::string WithoutWrappedModules(std::string_view name) {
  std::string without;
  while (!name.empty()) {
    const std::string_view segment = FirstSegment(name);
    if (!Contains(kWrappedModules, segment)) without += segment;
    name.remove_prefix(segment.size());
  }
  return without;
}

bool HasWrappedModules(std::string_view name) {
  return std::any_of(kWrappedModules.begin(), kWrappedModules.end(), [&](std::string_view segment) {
    const std::size_t at = name.find(segment);
    return at == 0 || (at != std::string_view::npos && name[at - 1] == '.');
  });
}

bool IsWrapperPrefix(std::string_view text) {
  while (!text.empty()) {
    const std::string_view segment = FirstSegment(text);
    if (!Contains(kWrapperSegments, segment)) return false;
    text.remove_prefix(segment.size());
  }
  return true;
}

std::string CanonicalName(std::string_view name, std::string_view prefix) {
  std::string canonical = WithoutWrappedModules(name);
  if (!prefix.empty() && canonical.starts_with(prefix)) canonical.erase(0, prefix.size());
  return canonical;
}

std::string WithoutWrappers(std::string_view name) {
  std::string canonical = WithoutWrappedModules(name);
  while (!canonical.empty() && Contains(kWrapperSegments, FirstSegment(canonical))) {
    canonical.erase(0, FirstSegment(canonical).size());
  }
  return canonical;
}

}  // namespace dsv3::convert
