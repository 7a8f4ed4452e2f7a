#include "formats/pickle_builder.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/utf8.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

constexpr std::uint8_t kTaken = 0x80;  // in PickleBuilder::depths_
constexpr std::uint32_t kNoSegment = UINT32_MAX;
// Links before a segment's items: where the segment before it begins, and the number of its items.
constexpr std::uint32_t kSegmentHead = 2;
constexpr std::size_t kMaxLinks = 20'000'000;
constexpr std::size_t kMaxGlobals = 10'000;
constexpr std::string_view kSaveLess =
    "save the weights alone, in several files where there are many";

// What to save in place of an object of this class, where trainers save such objects.
std::string_view InPlaceOf(std::string_view global) {
  if (global == "torch._tensor._rebuild_from_type_v2" ||
      global == "torch._utils._rebuild_wrapper_subclass" ||
      global.starts_with("torch.distributed.tensor.") ||
      global.starts_with("torch.distributed._tensor.") ||
      global.starts_with("torch.distributed._shard.")) {
    return "it is perhaps of a tensor that is one rank's part (DTensor, ShardedTensor): save with "
           "torch.distributed.checkpoint, or whole tensors "
           "(StateDictOptions(full_state_dict=True))";
  }
  if (global.starts_with("torch._utils._rebuild_meta_tensor")) {
    return "it is of a tensor on the device meta, which has no values: save the weights";
  }
  return "do not load this file with Python unless you trust its maker; if you do, save the "
         "weights alone, as a dict of names and tensors";
}

}  // namespace

void PickleErrors::Throw(std::string_view problem, std::string_view advice) const {
  const std::string file(source_.file);
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {} {}; {}", ShownPath(file), source_.part, problem, advice),
              {.file = file, .tensor = {}});
}

void PickleErrors::Malformed(std::string_view problem) const {
  Throw(fmt::format("is malformed: {} (byte {})", problem, place_), source_.advice);
}

void PickleErrors::EndsBefore(std::size_t end, std::size_t begin, std::uint64_t bytes) const {
  Throw(fmt::format("ends at byte {}, but what begins at byte {} needs {} from byte {} on", end,
                    place_, ExactBytes(bytes), begin),
        source_.advice);
}

void PickleErrors::TooLarge(std::uint64_t bytes) const {
  Throw(fmt::format("has {}; at most {} are read", ExactBytes(bytes), ExactBytes(kMaxPickleBytes)),
        kSaveLess);
}

void PickleErrors::TooMany(std::string_view what, std::size_t most) const {
  Throw(fmt::format("holds more than {} {} (byte {})", ShownCount(most), what, place_), kSaveLess);
}

void PickleErrors::TooDeep() const {
  Throw(fmt::format("nests values deeper than {} levels (byte {})", Pickle::kMaxDepth, place_),
        kSaveLess);
}

void PickleErrors::ForbiddenGlobal(std::string_view name) const {
  Throw(fmt::format("names the global {} (byte {}), which weights do not need; nothing of it was "
                    "run",
                    QuoteForMessage(name), place_),
        InPlaceOf(name));
}

PickleBuilder::PickleBuilder(std::string_view text, const PickleGlobals& allowed,
                             const PickleErrors& errors)
    : allowed_(allowed), errors_(errors) {
  // As large pickles need. Memory that is never written costs nothing; growing would copy all.
  constexpr std::size_t kTypicalValueBytes = 7;
  constexpr std::size_t kTypicalLinkBytes = 3;
  out_.text_ = text;
  out_.nodes_.reserve(text.size() / kTypicalValueBytes);
  depths_.reserve(text.size() / kTypicalValueBytes);
  out_.links_.reserve(text.size() / kTypicalLinkBytes);
  small_ints_.fill(kNoPickle);
  for (const Kind kind : {Kind::kNone, Kind::kFalse, Kind::kTrue, Kind::kTuple}) Add(kind, 0);
}

PickleId PickleBuilder::SmallInt(std::int32_t value) {
  const auto bits = static_cast<std::uint32_t>(value);
  if (bits >= small_ints_.size()) return Add(Kind::kSmallInt, bits);
  PickleId& id = small_ints_[bits];
  if (id == kNoPickle) id = Add(Kind::kSmallInt, bits);
  return id;
}

PickleId PickleBuilder::LongInt(std::size_t begin, std::size_t bytes) {
  if (bytes > kMaxPickleIntegerBytes) {
    errors_.Malformed(
        fmt::format("an integer has {} bytes, expected at most {}", bytes, kMaxPickleIntegerBytes));
  }
  return Content(Kind::kLongInt, begin, bytes);
}

PickleId PickleBuilder::Float(std::size_t begin) {
  return Content(Kind::kFloat, begin, sizeof(double));
}

PickleId PickleBuilder::Bytes(std::size_t begin, std::size_t bytes) {
  return Content(Kind::kBytes, begin, bytes);
}

PickleId PickleBuilder::Text(std::size_t begin, std::size_t bytes) {
  if (FindInvalidUtf8(out_.text_.substr(begin, bytes)) != bytes) {
    errors_.Malformed("a text is not UTF-8");
  }
  return Content(Kind::kText, begin, bytes);
}

PickleId PickleBuilder::Global(std::string_view module, std::string_view name) {
  std::string full = fmt::format("{}.{}", module, name);
  const auto known = globals_.find(full);
  if (known != globals_.end()) return known->second;
  const bool allowed =
      std::find(allowed_.names.begin(), allowed_.names.end(), full) != allowed_.names.end() ||
      std::any_of(allowed_.prefixes.begin(), allowed_.prefixes.end(),
                  [&](std::string_view prefix) { return full.starts_with(prefix); });
  if (!allowed) errors_.ForbiddenGlobal(full);
  if (globals_.size() == kMaxGlobals) errors_.TooMany("globals", kMaxGlobals);
  const PickleId id = Add(Kind::kGlobal, out_.globals_.size());
  out_.globals_.push_back(full);
  globals_.emplace(std::move(full), id);
  return id;
}

PickleId PickleBuilder::Tuple(Ids items) {
  if (items.empty()) return kEmptyTuple;
  const unsigned depth = TakeAll(items);
  const std::size_t begin = out_.links_.size();
  Link(items);
  return Add(Kind::kTuple, begin, items.size(), depth);
}

PickleId PickleBuilder::List() { return Add(Kind::kList, kNoSegment); }
PickleId PickleBuilder::Dict() { return Add(Kind::kDict, kNoSegment); }
PickleId PickleBuilder::Set() { return Add(Kind::kSet, kNoSegment); }

PickleId PickleBuilder::Call(PickleId global, PickleId args) {
  if (out_.Type(global) != PickleType::kGlobal || out_.Type(args) != PickleType::kTuple) {
    errors_.Malformed(fmt::format("it would call {} with {}, expected a global and a tuple",
                                  out_.Describe(global), out_.Describe(args)));
  }
  return Add(Kind::kCall, global, args, TakeOne(args));
}

PickleId PickleBuilder::Persistent(PickleId id) {
  return Add(Kind::kPersistent, id, 0, TakeOne(id));
}

void PickleBuilder::SetState(PickleId record, PickleId state) {
  if (out_.Type(record) != PickleType::kRecord) {
    errors_.Malformed(fmt::format("a state is given to {}", out_.Describe(record)));
  }
  const unsigned depth = TakeOne(state);
  RequireOpen(record);
  PickleId& known = MakeBuilt(record).state;
  if (known != kNoPickle) errors_.Malformed("a value is given its state twice");
  known = state;
  depths_[record] = std::max(depths_[record], static_cast<std::uint8_t>(depth));
}

Pickle PickleBuilder::Take(PickleId root) {
  out_.root_ = root;
  JoinSegments();
  return std::move(out_);
}

PickleId PickleBuilder::Add(Kind kind, std::size_t where, std::size_t count, unsigned depth) {
  const std::size_t id = out_.nodes_.size();
  if (id >= kMaxPickleValues) errors_.TooMany("values", kMaxPickleValues);
  out_.nodes_.emplace_back(kind, static_cast<std::uint32_t>(where),
                           static_cast<std::uint32_t>(count));
  depths_.push_back(static_cast<std::uint8_t>(depth));
  return static_cast<PickleId>(id);
}

PickleId PickleBuilder::Content(Kind kind, std::size_t begin, std::size_t bytes) {
  return Add(kind, begin, bytes);
}

void PickleBuilder::AddItems(PickleId target, Kind kind, Ids items) {
  if (kind == Kind::kDict && items.size() % 2 != 0) errors_.Malformed("a key has no value");
  if (items.empty()) return;
  const bool to_record = out_.Type(target) == PickleType::kRecord && kind != Kind::kSet;
  const PickleId container = to_record ? RecordItems(target, kind) : target;
  if (out_.nodes_[container].kind() != kind) {
    errors_.Malformed(fmt::format("items are added to {}", out_.Describe(container)));
  }
  unsigned depth = TakeAll(items);
  if (to_record && ++depth > Pickle::kMaxDepth) errors_.TooDeep();
  RequireOpen(target);
  AddSegment(container, items);
  depths_[target] = std::max(depths_[target], static_cast<std::uint8_t>(depth));
}

void PickleBuilder::AddSegment(PickleId container, Ids items) {
  const auto segment = static_cast<std::uint32_t>(out_.links_.size());
  Pickle::Node& node = out_.nodes_[container];
  out_.links_.push_back(node.where);
  out_.links_.push_back(static_cast<std::uint32_t>(items.size()));
  Link(items);
  // The limit of links keeps the count within its bits.
  node = {node.kind(), segment, node.count() + static_cast<std::uint32_t>(items.size())};
}

void PickleBuilder::Link(Ids items) {
  if (out_.links_.size() + items.size() > kMaxLinks) errors_.TooMany("items", kMaxLinks);
  out_.links_.insert(out_.links_.end(), items.begin(), items.end());
}

unsigned PickleBuilder::TakeOne(PickleId id) {
  const unsigned depth = depths_[id] & ~unsigned{kTaken};
  if (depth >= Pickle::kMaxDepth) errors_.TooDeep();
  depths_[id] |= kTaken;
  return depth + 1;
}

unsigned PickleBuilder::TakeAll(Ids items) {
  unsigned depth = 0;
  for (const PickleId item : items) depth = std::max(depth, TakeOne(item));
  return depth;
}

void PickleBuilder::RequireOpen(PickleId id) const {
  if ((depths_[id] & kTaken) == 0) return;
  errors_.Malformed("a value contains itself, or changes after another one took it");
}

// The list or dict of a record's items.
PickleId PickleBuilder::RecordItems(PickleId record, Kind kind) {
  if (MakeBuilt(record).items == kNoPickle) {
    const PickleId items = Add(kind, kNoSegment);
    MakeBuilt(record).items = items;
  }
  return MakeBuilt(record).items;
}

Pickle::Built& PickleBuilder::MakeBuilt(PickleId record) {
  Pickle::Node& node = out_.nodes_[record];
  if (node.kind() == Kind::kCall) {
    out_.built_.push_back(
        {.global = node.where, .args = node.count(), .state = kNoPickle, .items = kNoPickle});
    node = {Kind::kBuilt, static_cast<std::uint32_t>(out_.built_.size() - 1)};
  }
  return out_.built_[node.where];
}

// Puts the items of each list, dict and set one behind the other.
void PickleBuilder::JoinSegments() {
  std::vector<PickleId>& links = out_.links_;
  for (Pickle::Node& node : out_.nodes_) {
    if (node.kind() != Kind::kList && node.kind() != Kind::kDict && node.kind() != Kind::kSet) {
      continue;
    }
    if (node.count() == 0) {
      node.where = 0;
    } else if (links[node.where] == kNoSegment) {
      node.where += kSegmentHead;
    } else {
      const std::size_t begin = links.size();
      links.resize(begin + node.count());
      std::size_t end = links.size();
      for (std::uint32_t segment = node.where; segment != kNoSegment; segment = links[segment]) {
        const std::uint32_t count = links[segment + 1];
        end -= count;
        std::copy_n(links.begin() + segment + kSegmentHead, count,
                    links.begin() + static_cast<std::ptrdiff_t>(end));
      }
      node.where = static_cast<std::uint32_t>(begin);
    }
  }
}

}  // namespace dsv3::formats
