#include "convert/open/rank_original.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/catalog/tensor_file.h"
#include "convert/open/open_model.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/require_no_errors.h"
#include "formats/shard_index.h"

namespace dsv3::convert {

std::string HeaderWithLength(const std::string& header) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header;
}

void FailLayout(const std::string& tensor, std::string_view problem) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("layout.json: {} {}; restore layout.json, or make the rank shards again "
                          "with dsv3-reshard",
                          QuoteForMessage(tensor), problem),
              {std::string(formats::kRankLayoutName), tensor});
}

namespace {

using formats::RankLayout;
using formats::SafetensorsHeader;

std::vector<SafetensorsHeader> ParseHeaders(const RankLayout& layout) {
  std::vector<SafetensorsHeader> headers(layout.source_files.size());
  tbb::parallel_for(std::size_t{0}, headers.size(), [&](std::size_t i) {
    const formats::LayoutSourceFile& file = layout.source_files[i];
    const std::string bytes = HeaderWithLength(file.header);
    headers[i] = formats::ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), file.bytes,
                                                 "layout.json: the header of " + file.name);
  });
  return headers;
}

// Headers, index and names of files must agree with each other as those of a checkpoint do.
void RequireConsistent(const RankLayout& layout, const std::vector<SafetensorsHeader>& headers) {
  std::vector<formats::ShardToCheck> shards;
  for (std::size_t i = 0; i < headers.size(); ++i) {
    const std::string& name = layout.source_files[i].name;
    const bool is_side_file =
        std::any_of(layout.side_files.begin(), layout.side_files.end(),
                    [&](const formats::LayoutSideFile& side) { return side.name == name; });
    if (IsReservedName(name) || name == formats::kConfigName || is_side_file) {
      FailLayout(name, "cannot be the name of a file of weights");
    }
    shards.push_back({name, &headers[i]});
  }
  for (const formats::LayoutSideFile& side : layout.side_files) {
    if (IsReservedName(side.name)) FailLayout(side.name, "cannot be the name of a side file");
  }
  formats::Findings findings;
  if (layout.source_index) {
    const formats::ShardIndex index =
        formats::ParseShardIndex(*layout.source_index, "layout.json: the index");
    const bool same_files = std::equal(
        index.files.begin(), index.files.end(), layout.source_files.begin(),
        layout.source_files.end(),
        [](const std::string& name, const formats::LayoutSourceFile& f) { return name == f.name; });
    if (!same_files)
      FailLayout(std::string(formats::kShardIndexName), "lists other files than \"source\"");
    findings = formats::CompareWithIndex(index, shards);
  } else {
    findings = formats::CompareShards(shards);
  }
  formats::RequireNoErrors(findings,
                           {"fault of the original's headers", "faults of the original's headers"},
                           "layout.json: ");
}

Catalog CatalogOf(const RankLayout& layout, const std::vector<SafetensorsHeader>& headers) {
  std::vector<TensorFile> files(headers.size());
  for (std::size_t i = 0; i < headers.size(); ++i) {
    const formats::LayoutSourceFile& file = layout.source_files[i];
    files[i] = {{file.name, {}, file.bytes, 0, headers[i].digest}, headers[i]};
  }
  return CatalogOfFiles(std::move(files));
}

}  // namespace

RankOriginal ReadRankOriginal(const RankLayout& layout) {
  std::vector<SafetensorsHeader> headers = ParseHeaders(layout);
  RequireConsistent(layout, headers);
  Catalog catalog = CatalogOf(layout, headers);
  return {std::move(headers), std::move(catalog),
          ParseModelConfig(layout.source_config, "layout.json: the config")};
}

}  // namespace dsv3::convert
