#include <algorithm>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "formats/document_reader.h"
#include "formats/error.h"
#include "formats/rank_layout.h"
#include "formats/rank_layout_check.h"

namespace dsv3::formats {
namespace {

constexpr unsigned kXxh3Digits = 32;
constexpr unsigned kSha256Digits = 64;

class Parser : DocumentReader {
 public:
  Parser(std::string_view text, const std::string& file)
      : DocumentReader(text, file, "the layout",
                       "restore it, or make the rank shards again with dsv3-reshard"),
        name_budget_(kNamesPerText * text.size()) {}

  RankLayout Parse();

 private:
  // Names that the text gives once are copied to every slice and part; the copies may take this
  // many times the text's bytes.
  static constexpr std::uint64_t kNamesPerText = 8;

  std::string Name(const std::string& name);
  std::uint32_t Position();
  std::string OneOf(std::initializer_list<std::string_view> values, std::string_view member);
  std::pair<std::uint64_t, std::uint64_t> Pair(std::string_view what);
  void ReadSize(std::size_t member, RankLayout::Sizes& sizes);
  std::vector<std::uint32_t> ReadPositions();
  void ReadRank(RankLayout& layout);
  LayoutFile ReadFile();
  LayoutPart ReadPart();
  LayoutTensor ReadSlice();
  void ReadTensor(RankLayout& layout);
  LayoutSourceFile ReadSourceFile();
  LayoutSideFile ReadSideFile();
  void ReadSource(RankLayout& layout);

  void ResolveRanks(RankLayout& layout);

  std::uint64_t name_budget_;
  std::vector<std::vector<std::string>> rank_files_;  // as RankLayout::ranks, in the text's order
};

std::string Parser::Name(const std::string& name) {
  if (name.size() > name_budget_) Fail("its names repeat beyond measure");
  name_budget_ -= name.size();
  return name;
}

std::uint32_t Parser::Position() {
  const std::uint64_t position = json().Uint();
  if (position > std::numeric_limits<std::uint32_t>::max()) {
    Fail(fmt::format("{} is too large", position));
  }
  return static_cast<std::uint32_t>(position);
}

std::string Parser::OneOf(std::initializer_list<std::string_view> values, std::string_view member) {
  const std::string_view value = json().String();
  if (std::find(values.begin(), values.end(), value) == values.end()) {
    Fail(fmt::format("its \"{}\" is {}, which this program does not know", member,
                     QuoteForMessage(value)));
  }
  return std::string(value);
}

std::pair<std::uint64_t, std::uint64_t> Parser::Pair(std::string_view what) {
  std::vector<std::uint64_t> values;
  Array([&] {
    values.push_back(json().Uint());
    if (values.size() > 2) Fail(fmt::format("{} holds more than two numbers", what));
  });
  if (values.size() != 2) Fail(fmt::format("{} does not hold two numbers", what));
  return {values[0], values[1]};
}

std::vector<std::uint32_t> Parser::ReadPositions() {
  std::vector<std::uint32_t> positions;
  Array([&] { positions.push_back(Position()); });
  if (positions.empty()) Fail("a slice is in no file");
  const auto disorder =
      std::adjacent_find(positions.begin(), positions.end(), std::greater_equal<>());
  if (disorder != positions.end()) Fail("the files of a slice do not ascend");
  positions.shrink_to_fit();
  return positions;
}

void Parser::ReadRank(RankLayout& layout) {
  constexpr std::string_view kNames[] = {"rank",        "stage", "tp_rank",    "dp_rank", "ep_rank",
                                         "moe_tp_rank", "bytes", "parameters", "files"};
  LayoutRank& rank = layout.ranks.emplace_back();
  std::vector<std::string>& files = rank_files_.emplace_back();
  std::uint64_t* const numbers[] = {&rank.rank,    &rank.stage,     &rank.tp_rank,
                                    &rank.dp_rank, &rank.ep_rank,   &rank.moe_tp_rank,
                                    &rank.bytes,   &rank.parameters};
  const unsigned seen = Object(kNames, "a rank", [&](std::size_t member) {
    if (member < std::size(numbers)) {
      *numbers[member] = json().Uint();
    } else {
      Array([&] { files.push_back(FileName()); });
    }
  });
  Require(seen, 0b111111111, kNames, "a rank");
}

LayoutFile Parser::ReadFile() {
  constexpr std::string_view kNames[] = {"name", "bytes", "sha256", "header_xxh3_128"};
  LayoutFile file;
  const unsigned seen = Object(kNames, "a file", [&](std::size_t member) {
    if (member == 0) file.name = FileName();
    if (member == 1) file.bytes = json().Uint();
    if (member == 2) file.sha256 = Hex(kSha256Digits);
    if (member == 3) file.header_xxh3 = Hex(kXxh3Digits);
  });
  Require(seen, 0b1011, kNames, "a file");
  // So that FILE/TENSOR names a tensor of a rank file.
  if (file.name.find('/') != file.name.npos) {
    Fail(fmt::format("rank file {} is not in the directory itself", QuoteForMessage(file.name)));
  }
  return file;
}

LayoutPart Parser::ReadPart() {
  constexpr std::string_view kNames[] = {"name", "rows", "cols"};
  LayoutPart part;
  const unsigned seen = Object(kNames, "a part", [&](std::size_t member) {
    if (member == 0) part.name = json().String();
    if (member == 1) std::tie(part.row_begin, part.row_end) = Pair("\"rows\"");
    if (member == 2) std::tie(part.col_begin, part.col_end) = Pair("\"cols\"");
  });
  Require(seen, 0b110, kNames, "a part");
  return part;
}

LayoutTensor Parser::ReadSlice() {
  constexpr std::string_view kNames[] = {"files", "shape", "parts", "xxh3_128"};
  LayoutTensor slice;
  const unsigned seen = Object(kNames, "a slice", [&](std::size_t member) {
    if (member == 0) slice.files = ReadPositions();
    if (member == 1) slice.shape = ReadShape();
    if (member == 2) Array([&] { slice.parts.push_back(ReadPart()); });
    if (member == 3) slice.xxh3 = Hex(kXxh3Digits);
  });
  Require(seen, 0b1111, kNames, "a slice");
  slice.parts.shrink_to_fit();
  return slice;
}

void Parser::ReadTensor(RankLayout& layout) {
  constexpr std::string_view kNames[] = {"name", "dtype", "rule", "slices"};
  std::string name;
  std::string rule(kSliceRule);
  Dtype dtype = Dtype::kU8;
  const std::size_t begin = layout.tensors.size();
  const unsigned seen = Object(kNames, "a tensor", [&](std::size_t member) {
    if (member == 0) name = json().String();
    if (member == 1) dtype = ReadDtype();
    if (member == 2) rule = OneOf({kSliceRule, kDequantizeRule, kRecutScalesRule}, "rule");
    if (member == 3) Array([&] { layout.tensors.push_back(ReadSlice()); });
  });
  Require(seen, 0b1011, kNames, "a tensor");
  for (std::size_t i = begin; i < layout.tensors.size(); ++i) {
    LayoutTensor& tensor = layout.tensors[i];
    tensor.name = Name(name);
    tensor.rule = rule;
    tensor.dtype = dtype;
    for (LayoutPart& part : tensor.parts) {
      if (part.name.empty()) part.name = Name(name);
    }
  }
}

LayoutSourceFile Parser::ReadSourceFile() {
  constexpr std::string_view kNames[] = {"name", "bytes", "header"};
  LayoutSourceFile file;
  const unsigned seen = Object(kNames, "a file of \"source\"", [&](std::size_t member) {
    if (member == 0) file.name = FileName();
    if (member == 1) file.bytes = json().Uint();
    if (member == 2) file.header = json().String();
  });
  Require(seen, 0b111, kNames, "a file of \"source\"");
  return file;
}

LayoutSideFile Parser::ReadSideFile() {
  constexpr std::string_view kNames[] = {"name", "bytes", "sha256", "xxh3_128"};
  LayoutSideFile file;
  const unsigned seen = Object(kNames, "a side file", [&](std::size_t member) {
    if (member == 0) file.name = FileName();
    if (member == 1) file.bytes = json().Uint();
    if (member == 2) file.sha256 = Hex(kSha256Digits);
    if (member == 3) file.xxh3 = Hex(kXxh3Digits);
  });
  Require(seen, 0b0011, kNames, "a side file");
  if (file.sha256.empty() && file.xxh3.empty()) {
    Fail(fmt::format("side file {} has no digest", QuoteForMessage(file.name)));
  }
  return file;
}

void Parser::ReadSource(RankLayout& layout) {
  constexpr std::string_view kNames[] = {"config", "index", "files", "side_files"};
  const unsigned seen = Object(kNames, "\"source\"", [&](std::size_t member) {
    if (member == 0) layout.source_config = json().String();
    if (member == 1) layout.source_index = std::string(json().String());
    if (member == 2) Array([&] { layout.source_files.push_back(ReadSourceFile()); });
    if (member == 3) Array([&] { layout.side_files.push_back(ReadSideFile()); });
  });
  Require(seen, 0b1101, kNames, "\"source\"");
}

void Parser::ReadSize(std::size_t member, RankLayout::Sizes& sizes) {
  std::uint64_t* const numbers[] = {&sizes.world_size, &sizes.tp,
                                    &sizes.ep,         &sizes.dp,
                                    &sizes.pp,         &sizes.moe_tp,
                                    &sizes.dense_tp,   &sizes.shared_expert_tp,
                                    &sizes.embed_tp,   &sizes.redundant_experts};
  *numbers[member] = json().Uint();
}

// Gives the ranks the positions of the files that they name.
void Parser::ResolveRanks(RankLayout& layout) {
  std::unordered_map<std::string_view, std::uint32_t> position_of;
  for (std::uint32_t i = 0; i < layout.files.size(); ++i) {
    position_of.emplace(layout.files[i].name, i);
  }
  for (std::size_t i = 0; i < layout.ranks.size(); ++i) {
    LayoutRank& rank = layout.ranks[i];
    for (const std::string& name : rank_files_[i]) {
      const auto found = position_of.find(name);
      if (found == position_of.end()) {
        Fail(fmt::format("rank {} loads {}, which is not among the files", rank.rank,
                         QuoteForMessage(name)));
      }
      rank.files.push_back(found->second);
    }
    std::sort(rank.files.begin(), rank.files.end());
    const auto twice = std::adjacent_find(rank.files.begin(), rank.files.end());
    if (twice != rank.files.end()) {
      Fail(fmt::format("rank {} loads {} twice", rank.rank,
                       QuoteForMessage(layout.files[*twice].name)));
    }
  }
}

RankLayout Parser::Parse() {
  constexpr std::string_view kNames[] = {"world_size",   "tp",
                                         "ep",           "dp",
                                         "pp",           "moe_tp",
                                         "dense_tp",     "shared_expert_tp",
                                         "embed_tp",     "redundant_experts",
                                         "format",       "version",
                                         "layout",       "grouping",
                                         "job",          "on_misaligned",
                                         "bf16_modules", "replicated_modules",
                                         "dropped",      "physical_to_logical_map",
                                         "ranks",        "files",
                                         "tensors",      "source",
                                         "recut_block"};
  constexpr std::size_t kNumSizes = 10;
  constexpr unsigned kRequired = (1U << 24) - 1;  // all but the last
  RankLayout layout;
  const unsigned seen = Object(kNames, "it", [&](std::size_t member) {
    if (member < kNumSizes) ReadSize(member, layout.sizes);
    if (member == 10 && json().String() != "dsv3-rank-layout") {
      Fail("its \"format\" is not \"dsv3-rank-layout\"");
    }
    if (member == 11 && json().Uint() != 1) {
      Fail("its \"version\" is not 1, the only one that this program knows");
    }
    if (member == 12) layout.format = OneOf({"hf-rank", "deepseek", "keys"}, "layout");
    if (member == 13) layout.grouping = OneOf({"rank", "component"}, "grouping");
    if (member == 14) layout.job = Hex(kXxh3Digits);
    if (member == 15) {
      layout.on_misaligned =
          OneOf({"error", "replicate-module", "subblock", "bf16"}, "on_misaligned");
    }
    if (member == 16) layout.bf16_modules = Strings();
    if (member == 17) layout.replicated_modules = Strings();
    if (member == 18) layout.dropped = Strings();
    if (member == 19) {
      Array([&] {
        std::vector<std::uint32_t>& layer = layout.expert_map.emplace_back();
        Array([&] { layer.push_back(Position()); });
      });
    }
    if (member == 20) Array([&] { ReadRank(layout); });
    if (member == 21) Array([&] { layout.files.push_back(ReadFile()); });
    if (member == 22) Array([&] { ReadTensor(layout); });
    if (member == 23) ReadSource(layout);
    if (member == 24) layout.recut_block = Pair("\"recut_block\"");
  });
  json().End();
  Require(seen, kRequired, kNames, "it");
  if (seen >> 24 != 0 && (layout.recut_block.first == 0 || layout.recut_block.second == 0)) {
    Fail("\"recut_block\" is not a block");
  }
  RequireFileNames(layout, *this);
  ResolveRanks(layout);
  std::sort(layout.ranks.begin(), layout.ranks.end(),
            [](const LayoutRank& a, const LayoutRank& b) { return a.rank < b.rank; });
  RequireSound(layout, *this);
  return layout;
}

}  // namespace

RankLayout ParseRankLayout(std::string_view text, const std::string& file) {
  return Parser(text, file).Parse();
}

}  // namespace dsv3::formats
