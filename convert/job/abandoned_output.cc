#include "convert/job/abandoned_output.h"

#include <functional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "convert/job/finished_output.h"
#include "convert/job/output_state.h"

namespace dsv3::convert {

void AbandonOutput(const std::filesystem::path& directory, const JournalHead& head,
                   formats::FileSystem& file_system) {
  // Where a run ended while it renamed files to their final names, some are visible.
  std::vector<std::string> complete;
  for (const auto& [name, record] : ReadJournals(directory).files) complete.push_back(name);
  ClearOutput(directory, head.outputs, complete, file_system);
  // Directories of side files, those in others first.
  std::set<std::filesystem::path, std::greater<>> parents;
  for (const std::string& name : head.outputs) {
    std::filesystem::path parent = std::filesystem::path(name).parent_path();
    for (; !parent.empty(); parent = parent.parent_path()) parents.insert(directory / parent);
  }
  for (const std::filesystem::path& parent : parents) {
    std::error_code error;
    if (std::filesystem::is_empty(parent, error) && !error) file_system.RemoveDirectory(parent);
  }
  RemoveLeftovers(directory, file_system);
}

}  // namespace dsv3::convert
