#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

// layout.json beside rank shards: which ranks there are, which files each loads, what slice of
// which tensor every file holds, and everything that merging needs to give the original files back;
// docs/layout.md has the schema. It holds nothing that differs between two runs of one job.
namespace dsv3::formats {

inline constexpr std::string_view kRankLayoutName = "layout.json";
inline constexpr std::uint64_t kMaxRankLayoutBytes = std::uint64_t{1} << 30;

// LayoutTensor::rule.
inline constexpr std::string_view kSliceRule = "slice";
inline constexpr std::string_view kDequantizeRule = "dequantize";
inline constexpr std::string_view kRecutScalesRule = "recut-scales";

// A rank and the files that it loads.
struct LayoutRank {
  std::uint64_t rank = 0;
  std::uint64_t stage = 0;
  std::uint64_t tp_rank = 0;
  std::uint64_t dp_rank = 0;
  std::uint64_t ep_rank = 0;
  std::uint64_t moe_tp_rank = 0;
  std::vector<std::uint32_t> files;  // positions in RankLayout::files, ascending
  std::uint64_t bytes = 0;           // tensor bytes that the rank loads
  std::uint64_t parameters = 0;      // elements of all but scales, padding included
};

struct LayoutFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;       // empty without checksums
  std::string header_xxh3;  // of the length prefix and header
};

// Rows [row_begin, row_end) and columns [col_begin, col_end) of a source tensor
// (convert/catalog/box.h defines both).
struct LayoutPart {
  std::string name;  // Hugging Face name
  std::uint64_t row_begin = 0;
  std::uint64_t row_end = 0;
  std::uint64_t col_begin = 0;
  std::uint64_t col_end = 0;
};

// A tensor of rank files: the parts one behind the other, each row by row, then zeros. Parts are
// not empty and lie inside their tensors: padding has none. The same bytes lie under the same name
// in each of `files`.
struct LayoutTensor {
  std::string name;
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::string xxh3;
  std::vector<std::uint32_t> files;  // positions in RankLayout::files, ascending
  // The rule that made the whole value from which the parts are cut: "slice" (it is the source
  // tensor), "dequantize" (BF16 of an FP8 weight) or "recut-scales" (scales for
  // RankLayout::recut_block).
  std::string rule;
  std::vector<LayoutPart> parts;
};

// A weight file of the original checkpoint.
struct LayoutSourceFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string header;  // its bytes before the data without the 8-byte length
};

struct LayoutSideFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;  // empty without checksums
  std::string xxh3;    // empty with checksums
};

struct RankLayout {
  std::string format;    // "hf-rank", "deepseek", "keys"
  std::string grouping;  // "rank", "component"
  std::string job;       // fingerprint of the job that made the files
  // Names and values in the order of the file: world_size, tp, ep, dp, pp, moe_tp, dense_tp,
  // shared_expert_tp, embed_tp, redundant_experts.
  struct Sizes {
    std::uint64_t world_size = 1;
    std::uint64_t tp = 1;
    std::uint64_t ep = 1;
    std::uint64_t dp = 1;
    std::uint64_t pp = 1;
    std::uint64_t moe_tp = 1;
    std::uint64_t dense_tp = 1;
    std::uint64_t shared_expert_tp = 1;
    std::uint64_t embed_tp = 1;
    std::uint64_t redundant_experts = 0;
    friend bool operator==(const Sizes&, const Sizes&) = default;
  } sizes;
  std::string on_misaligned;  // the option's value
  // "recut-scales": rows and columns of the blocks that scales were cut to; {0, 0} otherwise.
  std::pair<std::uint64_t, std::uint64_t> recut_block = {0, 0};
  std::vector<std::string> bf16_modules;
  std::vector<std::string> replicated_modules;
  std::vector<std::string> dropped;                    // source tensors that no rank holds
  std::vector<std::vector<std::uint32_t>> expert_map;  // [layers][physical]; empty without
  std::vector<LayoutRank> ranks;                       // by rank
  std::vector<LayoutFile> files;                       // by name
  std::vector<LayoutTensor> tensors;                   // by name, then first file
  std::string source_config;                           // text of the original config.json
  std::optional<std::string> source_index;             // text of the original index
  std::vector<LayoutSourceFile> source_files;          // by name
  std::vector<LayoutSideFile> side_files;              // by name; copied beside the ranks
};

std::string SerializeRankLayout(const RankLayout& layout);

// Parses layout.json and checks that it agrees with itself: members there and of their type, sizes
// that multiply, ranks 0 … world_size - 1 once each, positions and boxes in range, names inside the
// directory and given once, digests that are hex. Members that it does not know are skipped.
// Bounded memory whatever the text. `file` is the name for errors. Throws Error (kBadInput).
RankLayout ParseRankLayout(std::string_view text, const std::string& file);

}  // namespace dsv3::formats
