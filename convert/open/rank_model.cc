#include "convert/open/rank_model.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/rank_config.h"
#include "convert/open/rank_original.h"
#include "convert/parallel/slicing.h"
#include "convert/plan/assemble_expression.h"
#include "convert/plan/plan.h"
#include "convert/plan/recut_scales_expression.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::kConfigName;
using formats::LayoutTensor;
using formats::Shape;

// A box of a tensor of the original that a tensor of the ranks holds.
struct Piece {
  Tile tile;
  const LayoutTensor* from = nullptr;
};

using Copies = std::unordered_map<std::uint32_t, std::vector<RankShards::Copy>>;

// The pieces of every tensor of the original, by position in its catalog. Of pieces with the same
// box only that of the first file is here.
class Pieces {
 public:
  Pieces(const RankDirectory& ranks, const Catalog& original)
      : of_(original.tensors().size()), stored_of_(ranks.layout.tensors.size()) {
    for (std::uint32_t i = 0; i < ranks.catalog.tensors().size(); ++i) {
      const std::uint32_t position = ranks.layout_tensors[i];
      std::vector<std::uint32_t>& stored = stored_of_[position];
      stored.push_back(i);
      if (stored.size() == 1) Add(ranks, original, i, ranks.layout.tensors[position]);
    }
    for (std::vector<Piece>& pieces : of_) DropCopies(ranks, pieces);
    stored_of_ = {};
  }

  const std::vector<Piece>& Of(std::uint32_t tensor) const { return of_[tensor]; }
  // What further files hold of the pieces.
  Copies TakeCopies() { return std::move(copies_); }

 private:
  void Add(const RankDirectory& ranks, const Catalog& original, std::uint32_t tensor,
           const LayoutTensor& listed) {
    const MatrixShape held = MatrixOf(ranks.catalog.tensors()[tensor].shape);
    std::uint64_t row = 0;
    for (const formats::LayoutPart& part : listed.parts) {
      const std::uint32_t source = original.Find(part.name);
      if (source == Catalog::kNone) {
        FailLayout(listed.name,
                   fmt::format("is said to be cut from {}, which is in no header of the original",
                               QuoteForMessage(part.name)));
      }
      const Box box = {part.row_begin, part.row_end, part.col_begin, part.col_end};
      // All parts have the columns of `held` (OpenRankDirectory).
      of_[source].push_back({{box, tensor, row, 0}, &listed});
      row += box.elements() / held.cols;
    }
  }

  static bool IsCopy(const Piece& a, const Piece& b) {
    if (!(a.tile.target == b.tile.target) || a.from->rule != b.from->rule) return false;
    const bool are_equal = a.from->xxh3 == b.from->xxh3;
    if (!are_equal && a.from->parts.size() == 1 && b.from->parts.size() == 1 &&
        a.from->shape == b.from->shape) {
      FailLayout(b.from->name,
                 fmt::format("has two copies of one slice with the XXH3-128 digests {} and "
                             "{}",
                             a.from->xxh3, b.from->xxh3));
    }
    return true;
  }

  void DropCopies(const RankDirectory& ranks, std::vector<Piece>& pieces) {
    const auto box_of = [](const Piece& piece) {
      const Box& box = piece.tile.target;
      return std::tuple(box.row_begin, box.row_end, box.col_begin, box.col_end);
    };
    std::stable_sort(pieces.begin(), pieces.end(),
                     [&](const Piece& a, const Piece& b) { return box_of(a) < box_of(b); });
    std::vector<Piece> kept;
    for (const Piece& piece : pieces) {
      if (kept.empty() || !IsCopy(kept.back(), piece)) kept.push_back(piece);
      AddCopies(ranks, kept.back().tile, piece);
    }
    pieces = std::move(kept);
    pieces.shrink_to_fit();
  }

  // The files of `piece` but the one that `read` is read from.
  void AddCopies(const RankDirectory& ranks, const Tile& read, const Piece& piece) {
    const auto position = static_cast<std::size_t>(piece.from - ranks.layout.tensors.data());
    const std::uint64_t row_bytes =
        read.target.cols() * formats::DtypeBits(ranks.catalog.tensors()[read.tensor].dtype) / 8;
    const std::uint64_t begin = read.row * row_bytes;
    for (const std::uint32_t stored : stored_of_[position]) {
      if (stored == read.tensor) continue;
      copies_[read.tensor].push_back(
          {begin, begin + read.target.rows() * row_bytes, stored, piece.tile.row * row_bytes});
    }
  }

  std::vector<std::vector<Piece>> of_;
  std::vector<std::vector<std::uint32_t>> stored_of_;  // by position in the layout's tensors
  Copies copies_;
};

class Builder {
 public:
  explicit Builder(RankDirectory& ranks)
      : ranks_(ranks),
        original_(ReadRankOriginal(ranks_.layout)),
        pieces_(ranks_, original_.catalog) {}

  RankModel Build() {
    FindScales();
    MakeOrigins();
    std::vector<std::string> headers;
    std::optional<std::string> index = ranks_.layout.source_index;
    Catalog rewritten = changed_ ? Rewrite(headers, index) : Catalog();
    std::vector<std::vector<RankShards::Slice>> slices =
        SlicesOf(changed_ ? rewritten : original_.catalog);
    Catalog catalog = changed_ ? std::move(rewritten) : std::move(original_.catalog);
    if (!changed_) {
      for (const formats::LayoutSourceFile& file : ranks_.layout.source_files) {
        headers.push_back(HeaderWithLength(file.header));
      }
    }
    std::unordered_map<std::uint32_t, std::string> digests;
    digests.reserve(ranks_.layout_tensors.size());
    for (std::uint32_t i = 0; i < ranks_.layout_tensors.size(); ++i) {
      digests.emplace(i, ranks_.layout.tensors[ranks_.layout_tensors[i]].xxh3);
    }
    ranks_.layout.tensors = {};
    ranks_.layout.source_files = {};
    const bool is_original =
        !changed_ && ranks_.layout.dropped.empty() && ranks_.layout.bf16_modules.empty();
    RankModel model;
    model.config_text = ranks_.layout.source_config;
    model.config = original_.config;
    model.catalog = std::move(catalog);
    model.shards.stored = std::move(ranks_.catalog);
    model.shards.origins = std::move(origins_);
    model.shards.layout = std::move(ranks_.layout);
    model.shards.digests = std::move(digests);
    model.shards.is_original = is_original;
    model.shards.slices = std::move(slices);
    model.shards.further_copies = pieces_.TakeCopies();
    model.shards.index = std::move(index);
    model.shards.headers = std::move(headers);
    if (changed_) ChangeConfig(model);
    return model;
  }

 private:
  // The scales of weights that became BF16 are in no rank; for scales that were cut finer, the
  // weight must be known.
  void FindScales() {
    const bool any =
        std::any_of(ranks_.layout.tensors.begin(), ranks_.layout.tensors.end(),
                    [](const LayoutTensor& tensor) { return tensor.rule != formats::kSliceRule; });
    if (!any) return;
    scaled_ = FindScaledWeights(original_.catalog, original_.config).pairs;
    scales_ = ScaleMap(scaled_, original_.catalog.tensors().size());
    for (const ScaledWeight& pair : scaled_) {
      const std::vector<Piece>& pieces = pieces_.Of(pair.weight);
      if (!pieces.empty() && pieces[0].from->rule == formats::kDequantizeRule) {
        absent_.insert(pair.scale);
      }
    }
  }

  void MakeOrigins() {
    for (const std::string& name : ranks_.layout.dropped) {
      const std::uint32_t tensor = original_.catalog.Find(name);
      if (tensor != Catalog::kNone && pieces_.Of(tensor).empty()) absent_.insert(tensor);
    }
    origins_.resize(original_.catalog.tensors().size());
    for (std::uint32_t i = 0; i < origins_.size(); ++i) {
      if (absent_.count(i) != 0) {
        changed_ = true;
        continue;
      }
      origins_[i] = OriginOf(i);
      if (origins_[i]->dtype() != original_.catalog.tensors()[i].dtype) changed_ = true;
    }
  }

  // Of the tensors of a catalog that has the original's, or some of them.
  std::vector<std::vector<RankShards::Slice>> SlicesOf(const Catalog& catalog) const {
    std::vector<std::vector<RankShards::Slice>> slices;
    slices.reserve(catalog.tensors().size());
    for (const CatalogTensor& tensor : catalog.tensors()) {
      std::vector<RankShards::Slice>& of_tensor = slices.emplace_back();
      for (const Piece& piece : pieces_.Of(original_.catalog.Find(tensor.name))) {
        of_tensor.push_back({piece.tile.target, piece.tile.tensor});
      }
    }
    return slices;
  }

  ExpressionPtr OriginOf(std::uint32_t position) const {
    const CatalogTensor& tensor = original_.catalog.tensors()[position];
    const std::vector<Piece>& pieces = pieces_.Of(position);
    if (pieces.empty() && formats::NumElements(tensor.shape) != 0U) {
      FailLayout(tensor.name, "is in no rank file, and is not said to be dropped");
    }
    std::vector<Tile> tiles;
    tiles.reserve(pieces.size());
    for (const Piece& piece : pieces) {
      if (piece.from->rule != pieces[0].from->rule)
        FailLayout(tensor.name, "was made by two rules");
      tiles.push_back(piece.tile);
    }
    const std::string_view rule =
        pieces.empty() ? formats::kSliceRule : std::string_view(pieces[0].from->rule);
    if (rule == formats::kRecutScalesRule) return Recut(position, std::move(tiles));
    const Dtype dtype = rule == formats::kDequantizeRule ? Dtype::kBF16 : tensor.dtype;
    return Whole(tensor.name, dtype, tensor.shape, std::move(tiles));
  }

  ExpressionPtr Whole(const std::string& name, Dtype dtype, const Shape& shape,
                      std::vector<Tile> tiles) const {
    if (formats::DtypeBits(dtype) < 8) {
      FailLayout(name, "has elements of less than a byte, which ranks cannot share");
    }
    return Assemble(ranks_.catalog, name, dtype, shape, std::move(tiles));
  }

  // The scales for the original's blocks, of those for finer ones.
  ExpressionPtr Recut(std::uint32_t position, std::vector<Tile> tiles) const {
    const CatalogTensor& tensor = original_.catalog.tensors()[position];
    const ScaledWeight* const found = scales_.OfScale(position);
    if (found == nullptr) FailLayout(tensor.name, "was recut and is not a scale of a weight");
    const ScaledWeight& pair = *found;
    const quant::BlockShape fine = {ranks_.layout.recut_block.first,
                                    ranks_.layout.recut_block.second};
    if (fine.rows == 0 || pair.matrices != 1 || pair.block.rows % fine.rows != 0 ||
        pair.block.cols % fine.cols != 0) {
      FailLayout(tensor.name,
                 fmt::format("was recut for blocks of {} x {}, which do not divide its own "
                             "of {} x {}",
                             fine.rows, fine.cols, pair.block.rows, pair.block.cols));
    }
    const Shape shape = {CeilDiv(pair.rows, fine.rows), CeilDiv(pair.cols, fine.cols)};
    if (!formats::NumBytes(tensor.dtype, shape))
      FailLayout(tensor.name, "has too many recut scales");
    ExpressionPtr scales = Whole(tensor.name, tensor.dtype, shape, std::move(tiles));
    return RecutScales(scales, pair.rows, pair.cols, fine, pair.block);
  }

  // The original's files with the tensors that are held, and an index over them if it had one.
  Catalog Rewrite(std::vector<std::string>& headers, std::optional<std::string>& index) {
    const std::vector<CatalogTensor>& tensors = original_.catalog.tensors();
    Plan plan;
    std::uint32_t next = 0;
    for (std::uint32_t file = 0; file < original_.headers.size(); ++file) {
      NamedExpressions held;
      for (; next < tensors.size() && tensors[next].extent.file == file; ++next) {
        if (origins_[next]) held.emplace_back(tensors[next].name, std::move(origins_[next]));
      }
      if (held.empty()) continue;
      plan.files.push_back(PlanFile(ranks_.layout.source_files[file].name, std::move(held),
                                    original_.headers[file].metadata));
    }
    if (index) index = PlanIndex(plan);
    origins_.clear();
    for (const PlannedFile& planned : plan.files) {
      headers.push_back(FileHeader(planned));
      for (const PlannedTensor& tensor : planned.tensors) {
        origins_.push_back(tensor.expression);
      }
    }
    return CatalogOf(plan);
  }

  void ChangeConfig(RankModel& model) const {
    const std::string_view prefix = FindNamePrefix(model.catalog);
    const bool has_mtp = std::any_of(model.catalog.tensors().begin(), model.catalog.tensors().end(),
                                     [&](const CatalogTensor& tensor) {
                                       return PlaceOf(tensor.name, prefix, original_.config).mtp;
                                     });
    Slicing slicing;
    slicing.bf16_modules = model.shards.layout.bf16_modules;
    model.config_text = ConfigForRanks(model.config_text, model.config, slicing, has_mtp);
    model.config = ParseModelConfig(model.config_text, kConfigName);
  }

  RankDirectory& ranks_;
  RankOriginal original_;
  Pieces pieces_;
  std::vector<ScaledWeight> scaled_;
  ScaleMap scales_;                           // refers to scaled_
  std::unordered_set<std::uint32_t> absent_;  // from the ranks, positions in original_.catalog
  std::vector<ExpressionPtr> origins_;        // by position in original_.catalog; null: absent
  bool changed_ = false;                      // something differs from the original
};

}  // namespace

RankModel AssembleRankModel(RankDirectory& ranks) { return Builder(ranks).Build(); }

}  // namespace dsv3::convert
