#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/plan/slice_expression.h"
#include "convert/recipes/reshard_tensors.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

class KeyTensors {
 public:
  KeyTensors(const SharedModel& shared, const std::vector<EngineKey>& keys, const std::string& file)
      : shared_(shared), keys_(keys), file_(file) {
    const std::vector<SlicedTensor>& tensors = shared.slicing.tensors;
    position_of_.reserve(tensors.size());
    for (std::uint32_t i = 0; i < tensors.size(); ++i) position_of_.emplace(tensors[i].tensor, i);
    filling_place_.resize(tensors.size());
    std::uint32_t place = 0;
    for (const std::uint32_t i : FillingOrder(shared)) filling_place_[i] = place++;
    taken_.resize(tensors.size(), false);
  }

  std::vector<RankTensor> Make() {
    std::vector<std::vector<std::uint32_t>> sources;
    sources.reserve(keys_.size());
    for (const EngineKey& key : keys_) sources.push_back(SourcesOf(key));
    // Files are filled in the order in which the model's tensors are.
    std::vector<std::size_t> order(keys_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto place = [&](std::size_t key) {
      std::uint32_t first = UINT32_MAX;
      for (const std::uint32_t i : sources[key]) first = std::min(first, filling_place_[i]);
      return std::pair<std::uint32_t, std::string_view>(first, keys_[key].key);
    };
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return place(a) < place(b); });
    for (const std::size_t key : order) MakeKey(keys_[key], sources[key]);
    return std::move(tensors_);
  }

  std::vector<std::string> Untaken() const {
    std::vector<std::string> names;
    for (std::uint32_t i = 0; i < taken_.size(); ++i) {
      if (!taken_[i]) names.push_back(shared_.NameOf(i));
    }
    return names;
  }

 private:
  [[noreturn]] void Fail(const EngineKey& key, const std::string& problem) const {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: key {}: {}", formats::ShownPath(file_), QuoteForMessage(key.key), problem),
        {file_, key.key});
  }

  std::vector<std::uint32_t> SourcesOf(const EngineKey& key) {
    std::vector<std::uint32_t> sources;
    sources.reserve(key.sources.size());
    for (const std::string& name : key.sources) {
      const std::uint32_t tensor = shared_.model.catalog.Find(name);
      if (tensor == Catalog::kNone) {
        if (key.sources.size() == 1 && name == key.key) {
          Fail(key,
               "it is unknown: no tensor of the model has this name; name the tensors that it is "
               "made of as \"sources\"");
        }
        Fail(key,
             fmt::format("the model has no tensor {}; correct its sources", QuoteForMessage(name)));
      }
      const auto found = position_of_.find(tensor);
      if (found == position_of_.end()) {
        Fail(key, fmt::format("tensor {} is not among what is written, because MTP layers or the "
                              "scales of weights that become BF16 are dropped; keep it with other "
                              "options, or remove the key",
                              QuoteForMessage(name)));
      }
      taken_[found->second] = true;
      sources.push_back(found->second);
    }
    return sources;
  }

  void MakeKey(const EngineKey& key, const std::vector<std::uint32_t>& sources) {
    std::map<std::uint32_t, std::vector<RankPart>> parts_of_rank;
    for (const std::uint32_t i : sources) {
      const SlicedTensor& sliced = shared_.slicing.tensors[i];
      for (std::uint32_t part = 0; part < sliced.ways; ++part) {
        for (const std::uint32_t rank :
             RanksOf(sliced, part, shared_.topology, shared_.placement)) {
          parts_of_rank[rank].push_back({i, part});
        }
      }
    }
    std::map<std::vector<RankPart>, std::vector<std::uint32_t>> ranks_of_parts;
    for (auto& [rank, parts] : parts_of_rank) ranks_of_parts[std::move(parts)].push_back(rank);
    // By their first rank, so that the order does not depend on positions.
    std::vector<RankTensor> made;
    for (auto& [parts, ranks] : ranks_of_parts) {
      count_.Add(ranks.size());
      RankTensor& tensor = made.emplace_back();
      tensor.name = key.key;
      tensor.parts = parts;
      tensor.ranks = std::move(ranks);
      tensor.unit = unit_;
      tensor.expression = Concatenated(key, tensor);
    }
    ++unit_;
    std::sort(made.begin(), made.end(), [](const RankTensor& a, const RankTensor& b) {
      return a.ranks.front() < b.ranks.front();
    });
    std::move(made.begin(), made.end(), std::back_inserter(tensors_));
  }

  // The parts' rows one behind the other.
  ExpressionPtr Concatenated(const EngineKey& key, const RankTensor& tensor) const {
    const Expression& first = *shared_.origins.Of(tensor.parts.front().sliced);
    std::vector<SlicePart> boxes;
    std::uint64_t rows = 0;
    const std::uint64_t cols = BoxOfPart(tensor.parts.front()).cols();
    for (const RankPart& part : tensor.parts) {
      const ExpressionPtr& origin = shared_.origins.Of(part.sliced);
      const Box box = BoxOfPart(part);
      const Box held = HeldBox(shared_, part);
      if (origin->dtype() != first.dtype() || box.cols() != cols) {
        Fail(key, fmt::format("at rank {} its sources cannot stand one behind the other: {} is {} "
                              "with {} columns and {} is {} with {}; correct its sources",
                              tensor.ranks.front(), Name(tensor.parts.front()),
                              formats::DtypeName(first.dtype()), cols, Name(part),
                              formats::DtypeName(origin->dtype()), box.cols()));
      }
      if (held != box && part != tensor.parts.back()) {
        Fail(key,
             fmt::format("{} has rows of padding, which only the last source may have; correct "
                         "its sources",
                         Name(part)));
      }
      rows += box.rows();
      boxes.push_back({origin, held});
    }
    RequireShape(key, tensor, first.dtype(), rows, cols);
    return std::make_shared<SliceExpression>(key.dtype, key.shape, std::move(boxes));
  }

  void RequireShape(const EngineKey& key, const RankTensor& tensor, formats::Dtype dtype,
                    std::uint64_t rows, std::uint64_t cols) const {
    // An engine may see rows as several dimensions, such as stacked experts; columns stay columns.
    const MatrixShape wanted = MatrixOf(key.shape);
    const bool is_vector = cols == 1 && rows == formats::NumElements(key.shape);
    if (key.dtype == dtype && (is_vector || wanted == MatrixShape{rows, cols})) return;
    Fail(key,
         fmt::format(
             "rank {}: expected {} {} as the file says, but its {} source{} there {} {} "
             "[{}, {}]; dump the keys from an engine that runs with these parallel sizes, "
             "or correct its sources",
             tensor.ranks.front(), formats::DtypeName(key.dtype), formats::ShapeToString(key.shape),
             tensor.parts.size(), tensor.parts.size() == 1 ? "" : "s",
             tensor.parts.size() == 1 ? "gives" : "give", formats::DtypeName(dtype), rows, cols));
  }

  Box BoxOfPart(const RankPart& part) const {
    return BoxOf(shared_.slicing.tensors[part.sliced], part.part);
  }
  std::string Name(const RankPart& part) const {
    return QuoteForMessage(shared_.NameOf(part.sliced));
  }

  const SharedModel& shared_;
  const std::vector<EngineKey>& keys_;
  const std::string& file_;
  std::unordered_map<std::uint32_t, std::uint32_t> position_of_;  // catalog → Slicing::tensors
  std::vector<std::uint32_t> filling_place_;                      // by position in Slicing::tensors
  std::vector<bool> taken_;
  RankTensorCount count_;
  std::uint32_t unit_ = 0;
  std::vector<RankTensor> tensors_;
};

}  // namespace

std::vector<RankTensor> TensorsByKey(const SharedModel& shared, const std::vector<EngineKey>& keys,
                                     const std::string& file, std::vector<std::string>& untaken) {
  KeyTensors by_key(shared, keys, file);
  std::vector<RankTensor> tensors = by_key.Make();
  untaken = by_key.Untaken();
  return tensors;
}

}  // namespace dsv3::convert
