#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

#include "formats/io/input_file.h"
#include "tests/fuzz/require.h"

// A file in memory that holds an input, for readers of files.
class MemoryFile {
 public:
  MemoryFile(const std::uint8_t* data, std::size_t size) : fd_(::memfd_create("fuzzed", 0)) {
    DSV3_FUZZ_REQUIRE(fd_ >= 0);
    DSV3_FUZZ_REQUIRE(::write(fd_, data, size) == static_cast<ssize_t>(size));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // Errors call it "fuzzed".
  dsv3::formats::InputFile Open() const {
    return {"/proc/self/fd/" + std::to_string(fd_), "fuzzed", dsv3::formats::DirectIo::kNever};
  }

 private:
  int fd_;
};
