#pragma once

#include <filesystem>
#include <string>

namespace dsv3::testing {

// A directory of its own for one test, below ::testing::TempDir(); removed with all that is in it
// when the instance goes. Its path has no symbolic link in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace dsv3::testing
