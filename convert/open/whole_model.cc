#include "convert/open/whole_model.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/open/rank_directory.h"
#include "convert/open/rank_model.h"
#include "convert/open/unfinished.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;

constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{256} << 20;

// The bytes before the data of a shard that is on the disk, without the length.
std::string ReadHeader(const SourceFile& file) {
  const formats::InputFile input(file.path, file.name);
  std::uint64_t length = 0;
  input.ReadAt(0, std::as_writable_bytes(std::span(&length, 1)));
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  if (length <= formats::kMaxSafetensorsHeaderBytes) {
    bytes.resize(sizeof(length) + length);
    input.ReadAt(0, std::as_writable_bytes(std::span(bytes)));
  }
  if (formats::Xxh3Hex(std::as_bytes(std::span(bytes))) != file.header_digest) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the header changed while it was read; run the command again when "
                            "nobody writes to the source",
                            file.name),
                {file.name, ""});
  }
  return bytes.substr(sizeof(length));
}

std::vector<std::string> ReadHeaders(const Catalog& catalog) {
  std::vector<std::string> headers(catalog.files().size());
  tbb::parallel_for(std::size_t{0}, headers.size(),
                    [&](std::size_t i) { headers[i] = ReadHeader(catalog.files()[i]); });
  return headers;
}

// A file that was named by itself has no index.
std::optional<std::string> ReadIndex(const fs::path& input, const Source& source) {
  const fs::path path = source.directory / formats::kShardIndexName;
  std::error_code ignored;
  if (formats::LocateCheckpoint(input).file_name || !fs::exists(path, ignored)) return std::nullopt;
  return formats::ReadSmallFile(path, kMaxIndexBytes);
}

WholeModel OpenCheckpoint(const fs::path& input) {
  Source source = OpenSource(input);
  std::vector<std::string> headers = ReadHeaders(source.catalog);
  std::optional<std::string> index = ReadIndex(input, source);
  Catalog catalog = source.catalog;
  std::vector<ExpressionPtr> origins;
  origins.reserve(catalog.tensors().size());
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) origins.push_back(Copy(catalog, i));
  return {.source = std::move(source),
          .catalog = std::move(catalog),
          .origins = std::move(origins),
          .index = std::move(index),
          .headers = std::move(headers)};
}

WholeModel OpenRanks(const fs::path& input) {
  const fs::path directory = fs::absolute(input);
  WholeModel model = PutTogether(OpenRankDirectory(directory));
  for (const formats::LayoutSideFile& side : model.layout->side_files) {
    model.source.side_files.push_back(side.name);
  }
  // Its text is the model's.
  model.source.side_files.emplace_back(kConfigName);
  std::sort(model.source.side_files.begin(), model.source.side_files.end());
  model.source.side_files.erase(
      std::unique(model.source.side_files.begin(), model.source.side_files.end()),
      model.source.side_files.end());
  // What was dropped need not be there.
  if (model.layout->dropped.empty()) {
    RequireModel(model.source.config, model.catalog, model.source.warnings);
  }
  return model;
}

}  // namespace

std::string WithLength(const std::string& header) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header;
}

bool IsRankDirectory(const fs::path& input) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(input / formats::kRankLayoutName, ignored)) &&
         !fs::exists(fs::symlink_status(input / formats::kShardIndexName, ignored));
}

void RefuseRankDirectory(const fs::path& input) {
  if (!IsRankDirectory(input)) return;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: this directory holds rank shards (it has a layout.json), which only "
                          "dsv3-reshard puts together; make a checkpoint of them with "
                          "`dsv3-reshard merge` and give that",
                          input.string()),
              {std::string(formats::kRankLayoutName), ""});
}

WholeModel OpenWholeModel(const fs::path& input) {
  RefuseUnfinishedConversion(input);
  return IsRankDirectory(input) ? OpenRanks(input) : OpenCheckpoint(input);
}

}  // namespace dsv3::convert
