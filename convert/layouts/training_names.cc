#include "convert/layouts/training_names.h"

#include <algorithm>
#include <string>

#include "convert/layouts/layout_tensors.h"
#include "convert/layouts/stacks.h"
#include "convert/layouts/wrapper_prefixes.h"
#include "formats/error.h"

namespace dsv3::convert {

bool AreNamesOfTraining(const std::vector<std::string_view>& names) {
  if (std::any_of(names.begin(), names.end(), HasWrappedModules)) return true;
  // Stacks are told by their embeddings.
  std::vector<StackTensor> embeddings;
  for (const std::string_view name : names) {
    if (name.find("embed") != std::string_view::npos) {
      embeddings.push_back({std::string(name), {}});
    }
  }
  try {
    const DetectedStack found = DetectStack(embeddings);
    // Releases of V4 have the names of the demo.
    return found.stack != Stack::kDeepseek &&
           (found.stack != Stack::kHuggingFace || !found.prefix.empty());
  } catch (const Error&) {
    return false;  // of no known stack, or of several models
  }
}

}  // namespace dsv3::convert
