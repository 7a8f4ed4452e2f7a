#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

// Small helpers of tests for whole files as strings. They throw std::runtime_error.
namespace dsv3::testing {

std::span<const std::byte> AsBytes(std::string_view text);
std::string AsString(std::span<const std::byte> bytes);

std::string ReadFile(const std::filesystem::path& path);
// Creates missing directories on the way; replaces a file of that name.
void WriteFile(const std::filesystem::path& path, std::string_view content);

// Relative path → content of every regular file below `directory`; directories appear with a
// trailing slash and no content.
std::map<std::string, std::string> ReadTree(const std::filesystem::path& directory);

// `bytes` bytes that look random and depend on nothing but `seed`.
std::string RandomBytes(std::size_t bytes, std::uint64_t seed);

}  // namespace dsv3::testing
