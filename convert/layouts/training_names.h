#pragma once

#include <string_view>
#include <vector>

namespace dsv3::convert {

// Whether files in the form of a Hugging Face checkpoint hold what a trainer saved under its own
// names: those of another stack, or Hugging Face's with what wrappers add. Thread-safe.
bool AreNamesOfTraining(const std::vector<std::string_view>& names);

}  // namespace dsv3::convert
