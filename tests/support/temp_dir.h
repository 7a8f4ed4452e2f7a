#pragma once

#include <filesystem>
#include <string>

namespace dsv3::testing {

// Where files stay in memory, for tests that write a great many small ones; ::testing::TempDir()
// where there is no such place.
std::filesystem::path MemoryDirectory();

// A directory of its own for one test, below ::testing::TempDir() or another directory; removed
// with all that is in it when the instance goes. Its path has no symbolic link in it.
class TempDir {
 public:
  TempDir();
  explicit TempDir(const std::filesystem::path& parent);
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace dsv3::testing
