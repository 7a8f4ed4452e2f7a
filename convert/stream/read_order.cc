#include "convert/stream/read_order.h"

#include <algorithm>
#include <map>
#include <queue>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "convert/plan/slice_expression.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;

[[noreturn]] void Fail(const PlannedFile& file, const std::string& tensor, std::string_view what) {
  throw Error(ErrorCode::kInternal, formats::ShownPath(file.name) + ": " + std::string(what),
              {file.name, tensor});
}

void Take(SharedRead& read, const Box& box, std::uint32_t lane) {
  for (SharedCut& cut : read.cuts) {
    if (cut.box != box) continue;
    cut.lanes.push_back(lane);
    return;
  }
  read.cuts.push_back({box, {lane}});
}

// The reads of one group, and which must come before which.
class Orderer {
 public:
  explicit Orderer(const Plan& plan) : plan_(plan) {}

  void AddFile(std::size_t position) {
    const PlannedFile& file = plan_.files[position];
    lane_ = static_cast<std::uint32_t>(files_.size());
    files_.push_back(position);
    previous_ = kNone;
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      const PlannedTensor& tensor = file.tensors[i];
      const SliceExpression* const slice = tensor.expression->slice();
      if (slice == nullptr) Fail(file, tensor.entry.name, "this tensor is not a slice");
      std::uint64_t place = tensor.entry.offset;
      for (const SlicePart& part : slice->parts()) {
        const std::uint32_t node = NodeFor(*part.origin);
        Take(reads_[node], part.box, lane_);
        place_[node] = std::max(place_[node], place);
        place += part.box.elements() * ElementBytes(*slice);
        previous_ = node;
      }
      // What the tensor ends with, and the gap to the next one.
      const bool is_last = i + 1 == file.tensors.size();
      const std::uint64_t gap = is_last ? 0 : file.tensors[i + 1].entry.offset - tensor.entry.end();
      const std::uint64_t zeros = slice->zero_bytes() + gap;
      if (zeros > 0) reads_[previous_].zeros.push_back({lane_, zeros});
    }
  }

  ReadGroup Finish() {
    // Of those that may come next, the one that lies first in its files.
    using Entry = std::pair<std::uint64_t, std::uint32_t>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
    for (std::uint32_t i = 0; i < reads_.size(); ++i) {
      if (before_[i] == 0) ready.emplace(place_[i], i);
    }
    ReadGroup group;
    group.files = files_;
    group.reads.reserve(reads_.size());
    while (!ready.empty()) {
      const std::uint32_t node = ready.top().second;
      ready.pop();
      group.reads.push_back(std::move(reads_[node]));
      for (const std::uint32_t next : after_[node]) {
        if (--before_[next] == 0) ready.emplace(place_[next], next);
      }
    }
    if (group.reads.size() != reads_.size()) {
      Fail(plan_.files[files_.front()], "",
           "the files that are to be written together hold their tensors in contrary orders");
    }
    return group;
  }

 private:
  static std::uint64_t ElementBytes(const Expression& expression) {
    return formats::DtypeBits(expression.dtype()) / 8;
  }

  // The read that gives the file its next bytes of `origin`; behind the one before.
  std::uint32_t NodeFor(const Expression& origin) {
    std::vector<std::uint32_t>& nodes = nodes_of_[&origin];
    for (const std::uint32_t node : nodes) {
      if (last_lane_[node] == lane_) continue;
      Follow(node);
      return node;
    }
    const auto node = static_cast<std::uint32_t>(reads_.size());
    SharedRead& read = reads_.emplace_back();
    read.origin = &origin;
    read.matrix = MatrixOf(origin.shape());
    read.row_bytes = read.matrix.cols * ElementBytes(origin);
    place_.push_back(0);
    before_.push_back(0);
    after_.emplace_back();
    last_lane_.push_back(kNone);
    nodes.push_back(node);
    Follow(node);
    return node;
  }

  void Follow(std::uint32_t node) {
    last_lane_[node] = lane_;
    if (previous_ == kNone) return;
    std::vector<std::uint32_t>& after = after_[previous_];
    // Replicated tensors follow each other in every file.
    if (std::find(after.begin(), after.end(), node) != after.end()) return;
    after.push_back(node);
    ++before_[node];
  }

  const Plan& plan_;
  std::vector<std::size_t> files_;
  std::vector<SharedRead> reads_;
  std::vector<std::uint64_t> place_;   // the farthest in any file
  std::vector<std::uint32_t> before_;  // how many must come before
  std::vector<std::vector<std::uint32_t>> after_;
  std::vector<std::uint32_t> last_lane_;  // the last file that takes it
  std::unordered_map<const Expression*, std::vector<std::uint32_t>> nodes_of_;
  std::uint32_t lane_ = 0;
  std::uint32_t previous_ = kNone;
};

}  // namespace

bool SharedRead::CutsRows() const {
  return std::any_of(cuts.begin(), cuts.end(), [&](const SharedCut& cut) {
    return !cut.box.empty() && cut.box.cols() != matrix.cols;
  });
}

std::vector<RowRange> SharedRead::NeededRows() const {
  std::vector<RowRange> rows;
  for (const SharedCut& cut : cuts) {
    if (!cut.box.empty()) rows.push_back({cut.box.row_begin, cut.box.row_end});
  }
  std::sort(rows.begin(), rows.end(),
            [](const RowRange& a, const RowRange& b) { return a.begin < b.begin; });
  std::vector<RowRange> merged;
  for (const RowRange& range : rows) {
    if (merged.empty() || range.begin > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  return merged;
}

std::uint64_t SharedRead::GatheredPerByte() const {
  std::uint64_t cols = 0;
  for (const SharedCut& cut : cuts) {
    if (!cut.box.empty() && cut.box.cols() != matrix.cols) cols += cut.box.cols();
  }
  return matrix.cols == 0 ? 0 : (cols + matrix.cols - 1) / matrix.cols;
}

std::vector<ReadGroup> OrderReads(const Plan& plan, std::span<const std::size_t> files) {
  std::map<std::uint32_t, Orderer> groups;
  for (const std::size_t file : files) {
    groups.try_emplace(plan.files[file].group, plan).first->second.AddFile(file);
  }
  std::vector<ReadGroup> ordered;
  ordered.reserve(groups.size());
  for (auto& [number, group] : groups) ordered.push_back(group.Finish());
  return ordered;
}

}  // namespace dsv3::convert
