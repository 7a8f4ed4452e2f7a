#include "tests/support/files.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <stdexcept>

namespace dsv3::testing {

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string AsString(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string ReadFile(const std::filesystem::path& path) {
  // One read: going character by character took half the time of many tests under sanitizers.
  std::ifstream in(path, std::ios::binary);
  std::string content(in ? std::filesystem::file_size(path) : 0, '\0');
  if (!in.read(content.data(), static_cast<std::streamsize>(content.size())))
    throw std::runtime_error("cannot read " + path.string());
  return content;
}

void WriteFile(const std::filesystem::path& path, std::string_view content) {
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

std::map<std::string, std::string> ReadTree(const std::filesystem::path& directory) {
  std::map<std::string, std::string> tree;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    const std::string name = entry.path().lexically_relative(directory).string();
    if (entry.is_directory()) {
      tree[name + "/"] = "";
    } else if (entry.is_regular_file()) {
      tree[name] = ReadFile(entry.path());
    }
  }
  return tree;
}

std::string RandomBytes(std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::string result(bytes, '\0');
  for (std::size_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t drawn = generator();
    std::memcpy(result.data() + at, &drawn, std::min(sizeof(drawn), bytes - at));
  }
  return result;
}

}  // namespace dsv3::testing
