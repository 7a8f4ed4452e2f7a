#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <system_error>

#include <gtest/gtest.h>
#include <unistd.h>

namespace dsv3::testing {

std::filesystem::path MemoryDirectory() {
  const char* const shared_memory = "/dev/shm";
  return ::access(shared_memory, W_OK | X_OK) == 0 ? shared_memory : ::testing::TempDir();
}

TempDir::TempDir() : TempDir(::testing::TempDir()) {}

TempDir::TempDir(const std::filesystem::path& parent) {
  std::string pattern = (std::filesystem::canonical(parent) / "dsv3.XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), "mkdtemp " + pattern);
  }
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code error;
  // A test may have taken away the permission to look into a directory.
  for (std::filesystem::recursive_directory_iterator
           entry(path_, std::filesystem::directory_options::skip_permission_denied, error),
       end;
       !error && entry != end; entry.increment(error)) {
    if (entry->is_directory(error) && !entry->is_symlink(error)) {
      std::filesystem::permissions(entry->path(), std::filesystem::perms::owner_all,
                                   std::filesystem::perm_options::add, error);
    }
  }
  std::filesystem::remove_all(path_, error);
}

}  // namespace dsv3::testing
