#include "tests/support/disk_model.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

// The data of a file as a crash leaves it.
std::string Surviving(const std::string& seen, const std::string& durable, Crash crash) {
  switch (crash) {
    case Crash::kKeepAll:
    case Crash::kKeepDataLoseNames:
      return seen;
    case Crash::kLoseUnsynced:
    case Crash::kLoseDataKeepNames:
      return durable;
    case Crash::kZeroDataKeepNames:
      break;
  }
  std::string torn(seen.size(), '\0');
  for (std::size_t i = 0; i < std::min(seen.size(), durable.size()); ++i) {
    if (seen[i] == durable[i]) torn[i] = seen[i];
  }
  return torn;
}

bool LosesNames(Crash crash) {
  return crash == Crash::kLoseUnsynced || crash == Crash::kKeepDataLoseNames;
}

}  // namespace

DiskModel::DiskModel(const std::map<std::string, std::string>& tree) {
  AddNode(true);
  // In the order of the map a directory ("a/") comes before what is in it ("a/b").
  for (const auto& [name, content] : tree) {
    const bool is_directory = name.back() == '/';
    const std::size_t node = AddNode(is_directory);
    nodes_[node].data = content;
    nodes_[node].durable_data = content;
    AddName(is_directory ? name.substr(0, name.size() - 1) : name, node);
  }
  for (Node& node : nodes_) node.durable_names = node.names;
}

std::size_t DiskModel::AddNode(bool is_directory) {
  nodes_.push_back({.is_directory = is_directory});
  return nodes_.size() - 1;
}

std::size_t DiskModel::Find(const std::filesystem::path& path) const {
  std::size_t node = kRoot;
  for (const std::filesystem::path& part : path) {
    if (part == ".") continue;
    const auto found = nodes_[node].names.find(part.string());
    if (found == nodes_[node].names.end()) {
      throw std::logic_error("the recorded file system has no " + path.string());
    }
    node = found->second;
  }
  return node;
}

std::map<std::string, std::size_t>& DiskModel::Siblings(const std::filesystem::path& path) {
  return nodes_[Find(path.parent_path())].names;
}

void DiskModel::AddName(const std::filesystem::path& path, std::size_t node) {
  Siblings(path)[path.filename().string()] = node;
}

void DiskModel::RemoveName(const std::filesystem::path& path) {
  Find(path);  // must be there
  Siblings(path).erase(path.filename().string());
}

void DiskModel::Apply(const Operation& operation) {
  using Kind = Operation::Kind;
  const std::filesystem::path path = operation.path;
  switch (operation.kind) {
    case Kind::kCreate: {
      const auto& siblings = Siblings(path);
      const auto found = siblings.find(path.filename().string());
      const std::size_t node = found != siblings.end() ? found->second : AddNode(false);
      nodes_[node].data.clear();
      AddName(path, node);
      handles_[operation.handle] = node;
      break;
    }
    case Kind::kOpenExisting:
      handles_[operation.handle] = Find(path);
      break;
    case Kind::kWrite: {
      std::string& data = nodes_[handles_.at(operation.handle)].data;
      const std::size_t offset = static_cast<std::size_t>(operation.offset);
      data.resize(std::max(data.size(), offset + operation.data.size()));
      data.replace(offset, operation.data.size(), operation.data);
      break;
    }
    case Kind::kTruncate:
      nodes_[handles_.at(operation.handle)].data.resize(static_cast<std::size_t>(operation.offset));
      break;
    case Kind::kSync: {
      Node& node = nodes_[handles_.at(operation.handle)];
      node.durable_data = node.data;
      break;
    }
    case Kind::kRename: {
      const std::size_t node = Find(path);
      RemoveName(path);
      AddName(operation.to, node);
      break;
    }
    case Kind::kRemove:
    case Kind::kRemoveDirectory:
      RemoveName(path);
      break;
    case Kind::kCreateDirectory:
      if (Siblings(path).count(path.filename().string()) == 0) AddName(path, AddNode(true));
      break;
    case Kind::kSyncDirectory: {
      Node& node = nodes_[Find(path)];
      node.durable_names = node.names;
      break;
    }
  }
}

void DiskModel::Materialise(Crash crash, const std::filesystem::path& into) const {
  MaterialiseNode(nodes_[kRoot], crash, into);
}

void DiskModel::MaterialiseNode(const Node& node, Crash crash,
                                const std::filesystem::path& into) const {
  if (!node.is_directory) {
    WriteFile(into, Surviving(node.data, node.durable_data, crash));
    return;
  }
  std::filesystem::create_directories(into);
  for (const auto& [name, child] : LosesNames(crash) ? node.durable_names : node.names) {
    MaterialiseNode(nodes_[child], crash, into / name);
  }
}

}  // namespace dsv3::testing
