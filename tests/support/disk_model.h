#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/support/recording_file_system.h"

namespace dsv3::testing {

// A directory tree in memory in two versions: as programs see it, and as the disk is sure to have
// it. Throws std::logic_error for operations that the tree contradicts.
class DiskModel {
 public:
  // `tree` as ReadTree gives it; all of it is durable.
  explicit DiskModel(const std::map<std::string, std::string>& tree);

  void Apply(const Operation& operation);
  // Writes what `crash` leaves into an empty or missing directory.
  void Materialise(Crash crash, const std::filesystem::path& into) const;

 private:
  struct Node {
    bool is_directory = false;
    std::string data = {};  // as seen
    std::string durable_data = {};
    std::map<std::string, std::size_t> names = {};  // as seen: name → index of the node
    std::map<std::string, std::size_t> durable_names = {};
  };

  static constexpr std::size_t kRoot = 0;

  std::size_t Find(const std::filesystem::path& path) const;
  // The names of the directory that holds `path`.
  std::map<std::string, std::size_t>& Siblings(const std::filesystem::path& path);
  std::size_t AddNode(bool is_directory);
  void AddName(const std::filesystem::path& path, std::size_t node);
  void RemoveName(const std::filesystem::path& path);
  void MaterialiseNode(const Node& node, Crash crash, const std::filesystem::path& into) const;

  std::vector<Node> nodes_;
  std::map<std::size_t, std::size_t> handles_;  // handle of an open file → index of its node
};

}  // namespace dsv3::testing
