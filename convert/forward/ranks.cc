#include "convert/forward/ranks.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

// A tensor of the model made of other copies of the same stored bytes.
class OfCopies final : public Expression {
 public:
  using Choose = std::function<SourceRange(const SourceRange&)>;

  OfCopies(ExpressionPtr origin, Choose choose)
      : Expression(origin->dtype(), origin->shape()),
        origin_(std::move(origin)),
        choose_(std::move(choose)) {}

  std::string_view rule() const override { return origin_->rule(); }
  std::vector<std::uint32_t> streamed_sources() const override {
    return origin_->streamed_sources();
  }
  bool streams_whole_source() const override { return false; }
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return origin_->CutAtOrBefore(position);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return origin_->CutAfter(position);
  }
  std::uint64_t input_bytes_per_output_byte() const override {
    return origin_->input_bytes_per_output_byte();
  }
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    const std::size_t first = reads.size();
    origin_->AppendReads(begin, end, reads);
    for (std::size_t i = first; i < reads.size(); ++i) reads[i] = choose_(reads[i]);
  }
  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    origin_->Evaluate(begin, end, inputs, out);
  }

 private:
  const ExpressionPtr origin_;
  const Choose choose_;
};

}  // namespace

Ranks::Ranks(const OpenedModel& model)
    : shards_(*model.ranks), ranks_of_file_(shards_.layout.files.size()), copies_(shards_.stored) {
  for (const formats::LayoutRank& rank : shards_.layout.ranks) {
    for (const std::uint32_t file : rank.files) {
      ranks_of_file_[file].push_back(static_cast<std::uint32_t>(rank.rank));
    }
  }
}

bool Ranks::Holds(std::uint32_t rank, std::uint32_t stored) const {
  const std::vector<std::uint32_t>& ranks = RanksOf(stored);
  return std::binary_search(ranks.begin(), ranks.end(), rank);
}

std::span<const Ranks::Copy> Ranks::CopiesOf(std::uint32_t stored) const {
  const auto found = shards_.further_copies.find(stored);
  if (found == shards_.further_copies.end()) return {};
  return found->second;
}

std::vector<std::uint32_t> Ranks::RanksOfStage(std::uint32_t tensor) const {
  std::vector<std::uint32_t> found;
  const std::vector<Slice> slices = SlicesOf(tensor);
  if (slices.empty()) return found;
  const std::uint64_t stage = At(slices.front().rank).stage;
  for (std::uint32_t rank = 0; rank < shards_.layout.ranks.size(); ++rank) {
    if (At(rank).stage == stage) found.push_back(rank);
  }
  return found;
}

std::vector<std::uint64_t> Ranks::ColumnEnds(std::uint32_t tensor) const {
  std::set<std::uint64_t> ends;
  for (const RankShards::Slice& slice : shards_.slices[tensor]) ends.insert(slice.box.col_end);
  return {ends.begin(), ends.end()};
}

std::vector<Ranks::Slice> Ranks::SlicesOf(std::uint32_t tensor) const {
  std::vector<Slice> slices;
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    const std::vector<std::uint32_t>& ranks = RanksOf(slice.stored);
    slices.push_back({slice.box, ranks.empty() ? 0 : ranks.front()});
  }
  return slices;
}

std::vector<Box> Ranks::BoxesOf(std::uint32_t rank, std::uint32_t tensor) const {
  std::vector<Box> boxes;
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    const std::span<const Copy> copies = CopiesOf(slice.stored);
    const bool holds = Holds(rank, slice.stored) ||
                       std::any_of(copies.begin(), copies.end(),
                                   [&](const Copy& copy) { return Holds(rank, copy.stored); });
    if (holds) boxes.push_back(slice.box);
  }
  return boxes;
}

std::string Ranks::FileOf(std::uint32_t tensor, std::uint64_t row, std::uint64_t col) const {
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    const Box& box = slice.box;
    // The elements of a vector are rows to the ranks.
    const bool is_vector = box.col_end == 1 && row == 0;
    const Box element = is_vector ? Box{col, col + 1, 0, 1} : Box{row, row + 1, col, col + 1};
    if (!Intersect(box, element).empty()) return NameOfFile(slice.stored);
  }
  return std::string(formats::kRankLayoutName);
}

std::string Ranks::FileOf(std::uint32_t rank, std::uint32_t tensor) const {
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    if (Holds(rank, slice.stored)) return NameOfFile(slice.stored);
    for (const Copy& copy : CopiesOf(slice.stored)) {
      if (Holds(rank, copy.stored)) return NameOfFile(copy.stored);
    }
  }
  return FileOf(tensor, 0, 0);
}

std::size_t Ranks::HoldersOf(std::uint32_t tensor) const {
  std::set<std::uint32_t> holders;
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    const auto add = [&](std::uint32_t stored) {
      holders.insert(RanksOf(stored).begin(), RanksOf(stored).end());
    };
    add(slice.stored);
    for (const Copy& copy : CopiesOf(slice.stored)) add(copy.stored);
  }
  return holders.size();
}

void Ranks::CompareCopies(const SourceRange& stored, std::span<const std::byte> bytes) {
  const std::span<const Copy> copies = CopiesOf(stored.tensor);
  if (copies.empty() || stored.begin >= stored.end) return;
  {
    const std::lock_guard lock(mutex_);
    if (!compared_.emplace(stored.tensor, stored.begin, stored.end).second) return;
  }
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  for (const Copy& copy : copies) {
    const std::uint64_t begin = std::max(stored.begin, copy.begin);
    const std::uint64_t end = std::min(stored.end, copy.end);
    if (begin >= end) continue;
    const SourceRange range{copy.stored, begin - copy.begin + copy.at, end - copy.begin + copy.at};
    copies_.Read(std::span(&range, 1), buffer, inputs);
    const std::byte* const read = bytes.data() + (begin - stored.begin);
    if (std::memcmp(read, inputs[0].data(), inputs[0].size()) == 0) continue;
    const std::lock_guard lock(mutex_);
    differing_[stored.tensor].insert(copy.stored);
    ranks_that_differ_.insert(RanksOf(copy.stored).begin(), RanksOf(copy.stored).end());
  }
}

void Ranks::NoteUse(std::uint32_t tensor) {
  const std::lock_guard lock(mutex_);
  if (differing_.empty()) return;
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    const auto found = differing_.find(slice.stored);
    if (found == differing_.end()) continue;
    for (const std::uint32_t copy : found->second) {
      taken_.insert(RanksOf(copy).begin(), RanksOf(copy).end());
    }
  }
}

std::vector<std::uint32_t> Ranks::DifferingRanks(std::uint32_t tensor) const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint32_t> ranks;
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    const auto found = differing_.find(slice.stored);
    if (found == differing_.end()) continue;
    for (const std::uint32_t copy : found->second) {
      if (!RanksOf(copy).empty()) ranks.insert(RanksOf(copy).front());
    }
  }
  return {ranks.begin(), ranks.end()};
}

std::vector<std::uint32_t> Ranks::TakeDiffering() {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint32_t> ranks(taken_.begin(), taken_.end());
  taken_.clear();
  return ranks;
}

bool Ranks::HasDiffering(std::uint32_t rank) const {
  const std::lock_guard lock(mutex_);
  return ranks_that_differ_.contains(rank);
}

std::string Ranks::DigestOf(std::uint32_t stored) {
  constexpr std::uint64_t kStep = std::uint64_t{4} << 20;
  const std::uint64_t bytes = shards_.stored.tensors()[stored].extent.length;
  formats::Xxh3 hash;
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  for (std::uint64_t begin = 0; begin < bytes; begin += kStep) {
    const SourceRange range{stored, begin, std::min(bytes, begin + kStep)};
    copies_.Read(std::span(&range, 1), buffer, inputs);
    hash.Update(inputs[0]);
  }
  return hash.Hex();
}

bool Ranks::IsRight(std::uint32_t rank, std::uint32_t tensor) {
  for (const RankShards::Slice& slice : shards_.slices[tensor]) {
    std::set<std::uint32_t> differing;
    {
      const std::lock_guard lock(mutex_);
      const auto found = differing_.find(slice.stored);
      if (found != differing_.end()) differing = found->second;
    }
    for (const std::uint32_t copy : differing) {
      if (!Holds(rank, copy)) continue;
      const auto expected_read = shards_.digests.find(slice.stored);
      const auto expected_copy = shards_.digests.find(copy);
      if (expected_read == shards_.digests.end() || expected_copy == shards_.digests.end()) {
        return false;
      }
      return DigestOf(copy) == expected_copy->second &&
             DigestOf(slice.stored) != expected_read->second;
    }
  }
  return false;
}

const Ranks::Copy* Ranks::ChooseFor(std::uint32_t rank, std::uint32_t stored,
                                    std::uint64_t begin) const {
  if (Holds(rank, stored)) return nullptr;
  const formats::LayoutRank& own = At(rank);
  const auto in_group = [&](std::uint32_t tensor) {
    return std::any_of(RanksOf(tensor).begin(), RanksOf(tensor).end(), [&](std::uint32_t other) {
      return At(other).stage == own.stage && At(other).dp_rank == own.dp_rank;
    });
  };
  const Copy* of_group = nullptr;
  for (const Copy& copy : CopiesOf(stored)) {
    if (begin < copy.begin || begin >= copy.end) continue;
    if (Holds(rank, copy.stored)) return &copy;
    if (of_group == nullptr && in_group(copy.stored)) of_group = &copy;
  }
  return in_group(stored) ? nullptr : of_group;
}

std::vector<ExpressionPtr> Ranks::OriginsFor(std::uint32_t rank) const {
  std::vector<ExpressionPtr> origins = shards_.origins;
  for (std::size_t i = 0; i < origins.size(); ++i) {
    const std::vector<RankShards::Slice>& slices = shards_.slices[i];
    const bool has_copies = std::any_of(
        slices.begin(), slices.end(),
        [&](const RankShards::Slice& slice) { return !CopiesOf(slice.stored).empty(); });
    if (!has_copies) continue;
    origins[i] = std::make_shared<OfCopies>(
        origins[i], [this, rank](const SourceRange& range) -> SourceRange {
          const Copy* const copy = ChooseFor(rank, range.tensor, range.begin);
          if (copy == nullptr) return range;
          return {copy->stored, range.begin - copy->begin + copy->at,
                  range.end - copy->begin + copy->at};
        });
  }
  return origins;
}

}  // namespace dsv3::convert
