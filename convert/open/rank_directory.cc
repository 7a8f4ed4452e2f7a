#include "convert/open/rank_directory.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/catalog/box.h"
#include "convert/catalog/tensor_file.h"
#include "convert/open/file_fault.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/freed_shard.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"
#include "formats/io/dead_link.h"
#include "formats/io/input_file.h"
#include "formats/io/stream_file.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::LayoutTensor;
using formats::RankLayout;
using formats::SafetensorsTensor;

constexpr std::string_view kCopyAgain =
    "copy it again from where the rank shards were made, or make them again with dsv3-reshard";
constexpr std::string_view kRestoreLayout =
    "restore layout.json, or make the rank shards again with dsv3-reshard";

// A rank file with its header, whose tensors know their places in the table of layout.json.
struct OpenedFile {
  SourceFile file;
  formats::SafetensorsHeader header;
  std::vector<std::uint32_t> layout_tensors;  // by position in header.tensors
  formats::Findings faults;
};

// An error of the disk keeps its own code.
formats::Finding FaultOf(const std::string& file, const Error& error) {
  return FileFault(error.code() == ErrorCode::kIo ? "shard-io-error" : "unreadable-shard", file,
                   error.message(), error.place().tensor);
}

std::string TypeText(formats::Dtype dtype, const formats::Shape& shape) {
  return fmt::format("{} {}", formats::DtypeName(dtype), formats::ShapeToString(shape));
}

bool IsAsListed(const fs::path& path, const formats::LayoutSideFile& side) {
  const formats::InputFile input(path, side.name);
  if (input.bytes() != side.bytes) return false;
  if (side.sha256.empty()) {
    formats::Xxh3 hash;
    formats::StreamFile(input, [&](std::span<const std::byte> part) { hash.Update(part); });
    return hash.Hex() == side.xxh3;
  }
  formats::Sha256 hash;
  formats::StreamFile(input, [&](std::span<const std::byte> part) { hash.Update(part); });
  return hash.FinishHex() == side.sha256;
}

class Opener {
 public:
  Opener(const fs::path& directory, const std::vector<formats::FreedShard>& freed)
      : directory_(directory), freed_(freed) {
    const fs::path path = directory / formats::kRankLayoutName;
    layout_ = formats::ParseRankLayout(formats::ReadSmallFile(path, formats::kMaxRankLayoutBytes),
                                       path.string());
  }

  RankDirectory Open(formats::Findings& faults) {
    TableByFile();
    std::vector<OpenedFile> files(layout_.files.size());
    tbb::parallel_for(std::size_t{0}, files.size(), [&](std::size_t i) { files[i] = OpenFile(i); });
    for (const OpenedFile& file : files) {
      faults.insert(faults.end(), file.faults.begin(), file.faults.end());
    }
    CheckSideFiles(faults);
    return Take(std::move(files));
  }

 private:
  // The tensors of each file, by name.
  void TableByFile() {
    std::vector<std::uint32_t> counts(layout_.files.size() + 1);
    for (const LayoutTensor& tensor : layout_.tensors) {
      for (const std::uint32_t file : tensor.files) ++counts[file + 1];
    }
    std::partial_sum(counts.begin(), counts.end(), counts.begin());
    table_begins_ = counts;
    table_.resize(counts.back());
    for (std::uint32_t i = 0; i < layout_.tensors.size(); ++i) {
      for (const std::uint32_t file : layout_.tensors[i].files) table_[counts[file]++] = i;
    }
  }

  OpenedFile OpenFile(std::size_t position) const {
    const formats::LayoutFile& listed = layout_.files[position];
    OpenedFile opened;
    opened.file.name = listed.name;
    opened.file.path = directory_ / listed.name;
    try {
      std::error_code ignored;
      if (fs::status(opened.file.path, ignored).type() == fs::file_type::not_found &&
          formats::FindFreed(freed_, listed.name, opened.file.path) == nullptr) {
        const std::string dead = formats::DeadLinkProblem(opened.file.path);
        opened.faults.push_back(FileFault(
            "missing-shard", listed.name,
            fmt::format("{}: layout.json lists this rank file, but {}; {}",
                        formats::ShownPath(listed.name),
                        dead.empty() ? "there is no such file" : "it is " + dead, kCopyAgain)));
        return opened;
      }
      const formats::InputFile input = formats::OpenOrFreed(opened.file.path, listed.name, freed_);
      opened.file.bytes = input.bytes();
      opened.file.mtime_ns = input.mtime_ns();
      if (input.bytes() != listed.bytes) {
        opened.faults.push_back(FileFault(
            "wrong-size", listed.name,
            fmt::format(
                "{}: the file has {}, layout.json records {}: it is {}; {}",
                formats::ShownPath(listed.name), formats::ExactBytes(input.bytes()),
                formats::ExactBytes(listed.bytes),
                input.bytes() < listed.bytes ? "cut off, or of another job" : "of another job",
                kCopyAgain)));
        return opened;
      }
      opened.header = formats::ReadSafetensorsHeader(input);
      opened.file.header_digest = opened.header.digest;
      opened.file.described_by = {{0, opened.header.data_offset}};
      if (opened.header.digest != listed.header_xxh3) {
        opened.faults.push_back(FileFault(
            "foreign-shard", listed.name,
            fmt::format("{}: its header has the XXH3-128 digest {}, layout.json records {}: the "
                        "file is of another job; {}",
                        formats::ShownPath(listed.name), opened.header.digest, listed.header_xxh3,
                        kCopyAgain)));
        return opened;
      }
      MatchTable(position, opened);
    } catch (const Error& error) {
      opened.faults.push_back(FaultOf(listed.name, error));
    }
    return opened;
  }

  // Finds each tensor of the header in the table and each of the table in the header.
  void MatchTable(std::size_t position, OpenedFile& opened) const {
    const std::vector<SafetensorsTensor>& tensors = opened.header.tensors;
    std::vector<std::uint32_t> by_name(tensors.size());
    std::iota(by_name.begin(), by_name.end(), 0U);
    std::sort(by_name.begin(), by_name.end(),
              [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; });
    opened.layout_tensors.resize(tensors.size());
    const auto add = [&](std::string_view kind, const std::string& tensor,
                         const std::string& problem) {
      opened.faults.push_back(
          FileFault(kind, opened.file.name,
                    fmt::format("layout.json: tensor {} {} {}; {}", QuoteForMessage(tensor),
                                problem, opened.file.name, kRestoreLayout),
                    tensor));
    };
    const auto add_missing = [&](const LayoutTensor& listed) {
      add("tensor-not-in-shard", listed.name, "is said to be in a file that does not hold it,");
    };
    std::size_t next = table_begins_[position];
    const std::size_t end = table_begins_[position + 1];
    for (const std::uint32_t i : by_name) {
      const SafetensorsTensor& held = tensors[i];
      while (next < end && layout_.tensors[table_[next]].name < held.name) {
        add_missing(layout_.tensors[table_[next++]]);
      }
      if (next == end || layout_.tensors[table_[next]].name != held.name) {
        add("tensor-not-in-layout", held.name, "is not listed, but is in");
        continue;
      }
      const LayoutTensor& listed = layout_.tensors[table_[next]];
      if (listed.dtype != held.dtype || listed.shape != held.shape) {
        add(listed.dtype != held.dtype ? "wrong-dtype" : "wrong-shape", held.name,
            fmt::format("is said to be {}, but is {} in", TypeText(listed.dtype, listed.shape),
                        TypeText(held.dtype, held.shape)));
      }
      opened.layout_tensors[i] = table_[next++];
    }
    for (; next < end; ++next) add_missing(layout_.tensors[table_[next]]);
  }

  void CheckSideFiles(formats::Findings& faults) const {
    for (const formats::LayoutSideFile& side : layout_.side_files) {
      try {
        if (IsAsListed(directory_ / side.name, side)) continue;
        faults.push_back(
            FileFault("wrong-digest", side.name,
                      fmt::format("{}: the file is not the one of {} that layout.json records; {}",
                                  formats::ShownPath(side.name), formats::ExactBytes(side.bytes),
                                  kCopyAgain)));
      } catch (const Error& error) {
        faults.push_back(FaultOf(side.name, error));
        if (faults.back().kind == "unreadable-shard") faults.back().kind = "missing-file";
      }
    }
  }

  // The shape in which the parts of a tensor lie on whole rows.
  formats::Shape ShapeForParts(const LayoutTensor& tensor) const {
    if (tensor.parts.empty()) return tensor.shape;
    const std::uint64_t cols = tensor.parts[0].col_end - tensor.parts[0].col_begin;
    if (cols == MatrixOf(tensor.shape).cols) return tensor.shape;
    const std::uint64_t elements = *formats::NumElements(tensor.shape);
    const bool agree = std::all_of(
        tensor.parts.begin(), tensor.parts.end(),
        [&](const formats::LayoutPart& part) { return part.col_end - part.col_begin == cols; });
    if (!agree || elements % cols != 0) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("layout.json: the parts of tensor {} do not lie on its rows, for its "
                              "shape is {}; {}",
                              QuoteForMessage(tensor.name), formats::ShapeToString(tensor.shape),
                              kRestoreLayout),
                  {std::string(formats::kRankLayoutName), tensor.name});
    }
    if (cols == 1) return {elements};
    return {elements / cols, cols};
  }

  RankDirectory Take(std::vector<OpenedFile> files) {
    std::vector<TensorFile> held;
    std::vector<std::uint32_t> layout_tensors;
    held.reserve(files.size());
    layout_tensors.reserve(table_.size());
    for (OpenedFile& opened : files) {
      if (!opened.faults.empty()) opened.header.tensors.clear();
      for (std::size_t i = 0; i < opened.header.tensors.size(); ++i) {
        const std::uint32_t listed = opened.layout_tensors[i];
        opened.header.tensors[i].shape = ShapeForParts(layout_.tensors[listed]);
        layout_tensors.push_back(listed);
      }
      opened.file.shares_names = true;
      held.push_back({std::move(opened.file), std::move(opened.header)});
    }
    formats::Findings unlisted = Unlisted();
    return {directory_, std::move(layout_), CatalogOfFiles(std::move(held)),
            std::move(layout_tensors), std::move(unlisted)};
  }

  formats::Findings Unlisted() const {
    formats::Findings warnings;
    for (const std::string& name : formats::ListSafetensors(directory_)) {
      const auto listed = std::lower_bound(
          layout_.files.begin(), layout_.files.end(), name,
          [](const formats::LayoutFile& file, const std::string& n) { return file.name < n; });
      if (listed != layout_.files.end() && listed->name == name) continue;
      warnings.push_back(
          {.severity = formats::Severity::kWarning,
           .kind = "unlisted-shard",
           .file = name,
           .tensor = {},
           .message = fmt::format("{}: layout.json does not list this file, so it is "
                                  "of another job and is left alone",
                                  formats::ShownPath(name)),
           .unreadable = false});
    }
    return warnings;
  }

  const fs::path& directory_;
  const std::vector<formats::FreedShard>& freed_;
  RankLayout layout_;
  // Positions in layout_.tensors for each file, and where the file's begin.
  std::vector<std::uint32_t> table_;
  std::vector<std::uint32_t> table_begins_;
};

}  // namespace

RankDirectory OpenRankDirectory(const fs::path& directory, formats::Findings& faults) {
  return Opener(directory, {}).Open(faults);
}

RankDirectory OpenRankDirectory(const fs::path& directory,
                                const std::vector<formats::FreedShard>& freed) {
  formats::Findings faults;
  RankDirectory ranks = Opener(directory, freed).Open(faults);
  formats::RequireNoErrors(faults, {"file of this directory is not as layout.json records it",
                                    "files of this directory are not as layout.json records them"});
  return ranks;
}

}  // namespace dsv3::convert
