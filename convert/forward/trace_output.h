#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "convert/forward/module_outputs.h"
#include "formats/io/durable_file.h"
#include "formats/io/file_system.h"

// A safetensors file of module outputs; an internal part of forward.h.
namespace dsv3::convert {

// What the header of such a file holds, and that of no other one.
inline constexpr std::string_view kTraceMaker = "dsv3-verify forward --trace";

// Writes outputs as they are made: names and shapes are known before, so each piece has its place
// in the file, and none waits in memory. At every moment there is the old file, or none, or the
// complete new one.
class TraceOutput : public ModuleOutputs {
 public:
  // The outputs of `modules` whose names match the glob `pattern`; empty: all. `fs` must outlive
  // the object. Throws Error: kUsage where none match, or `path` cannot be written; kIo.
  TraceOutput(formats::FileSystem& fs, const std::filesystem::path& path,
              const std::vector<ModuleOutput>& modules, const std::string& pattern);

  // Throws Error: kInternal for a piece that has no place in the file; kIo.
  void Take(const std::string& module, const Piece& piece) override;
  // Names the file. Throws Error: kInternal where a piece is missing; kIo.
  void Commit();

 private:
  struct Place {
    std::uint64_t offset = 0;  // in the file
    std::uint64_t rows = 0;
    std::uint64_t columns = 0;
    std::uint64_t missing = 0;  // elements that were not written
  };

  struct Layout {
    std::unordered_map<std::string, Place> places;
    std::string header;
    std::uint64_t bytes = 0;  // of the file
  };

  static Layout LayOut(const std::vector<ModuleOutput>& modules);
  TraceOutput(formats::FileSystem& fs, const std::filesystem::path& path, Layout layout);
  [[noreturn]] void FailInternal(const std::string& problem) const;

  std::filesystem::path path_;
  std::unordered_map<std::string, Place> places_;
  formats::DurableFile file_;
};

}  // namespace dsv3::convert
