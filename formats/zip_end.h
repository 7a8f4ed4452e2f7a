#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "formats/file_range.h"

// The end of a zip archive and the numbers of its records; an internal part of the reader in
// zip_directory.h.
namespace dsv3::formats {

class InputFile;

static_assert(std::endian::native == std::endian::little, "numbers are read as they are stored");

inline constexpr std::string_view kZipDamaged = "the file is damaged or incomplete, copy it again";
inline constexpr std::string_view kZipLocalSignature = "PK\x03\x04";
inline constexpr std::uint64_t kInZip64 = 0xFFFF'FFFF;  // the zip64 record has the number

template <typename T>
T LoadZip(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
inline std::uint16_t Load16(std::span<const std::byte> b, std::size_t at) {
  return LoadZip<std::uint16_t>(b, at);
}
inline std::uint32_t Load32(std::span<const std::byte> b, std::size_t at) {
  return LoadZip<std::uint32_t>(b, at);
}
inline std::uint64_t Load64(std::span<const std::byte> b, std::size_t at) {
  return LoadZip<std::uint64_t>(b, at);
}

inline std::string_view ZipText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline bool HasZipSignature(std::span<const std::byte> bytes, std::size_t at,
                            std::string_view signature) {
  return at <= bytes.size() && ZipText(bytes).substr(at, signature.size()) == signature;
}

// Throws Error (kBadInput) "FILE: the archive at byte N: PROBLEM; ADVICE".
[[noreturn]] void FailZip(const InputFile& file, FileRange archive, std::string_view problem,
                          std::string_view advice = kZipDamaged);

// What the end of an archive says about its directory. Places count from the archive's beginning.
struct ZipEnd {
  std::uint64_t num_entries = 0;
  std::uint64_t directory_bytes = 0;
  std::uint64_t directory = 0;
  std::uint64_t place = 0;  // of the first end record, before which the directory ends
};

// Finds and reads the end record of an archive, which must lie in the file, with its zip64 form.
// Throws Error (kBadInput; kIo when the disk fails).
ZipEnd ReadZipEnd(const InputFile& file, FileRange archive);

}  // namespace dsv3::formats
