#include "formats/pickle_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "formats/json/utf8.h"
#include "formats/message_text.h"
#include "formats/pickle_builder.h"
#include "formats/pickle_opcodes.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they are stored");

// Executes the opcodes on a stack of ids.
class Machine {
 public:
  Machine(std::string_view text, const PickleGlobals& allowed, const PickleSource& source)
      : text_(text), errors_(source), build_(text, allowed, errors_) {
    constexpr std::size_t kTypicalMemoBytes = 8;
    memo_.reserve(text.size() / kTypicalMemoBytes);
  }

  Pickle Run() {
    constexpr std::uint8_t kOldest = 2;
    constexpr std::uint8_t kNewest = 5;
    if (text_.empty() || Next() != static_cast<std::uint8_t>(PickleOpcode::kProto)) {
      errors_.Malformed("it does not begin as a pickle of protocol 2 to 5");
    }
    if (const std::uint8_t protocol = Next(); protocol < kOldest || protocol > kNewest) {
      errors_.Malformed(fmt::format("its protocol is {}, expected 2 to 5", protocol));
    }
    while (Step()) {
    }
    if (at_ != text_.size()) {
      errors_.Malformed(fmt::format("{} follow its end", ExactBytes(text_.size() - at_)));
    }
    if (stack_.size() != 1 || !marks_.empty()) {
      errors_.Malformed("it does not end with one value");
    }
    return build_.Take(stack_[0]);
  }

 private:
  static constexpr std::size_t kMaxStack = std::size_t{1} << 22;
  static constexpr std::size_t kMaxMarks = 1000;

  // Executes one opcode; false after STOP.
  bool Step() {
    errors_.SetPlace(at_);
    const std::uint8_t opcode = Next();
    switch (static_cast<PickleOpcode>(opcode)) {
      case PickleOpcode::kStop:
        return false;
      case PickleOpcode::kFrame:
        if (Number<std::uint64_t>() > text_.size() - at_) {
          errors_.Malformed("a frame reaches behind its end");
        }
        return true;
      case PickleOpcode::kMark:
        if (marks_.size() == kMaxMarks) errors_.TooDeep();
        marks_.push_back(stack_.size());
        return true;
      case PickleOpcode::kNone:
        return Push(PickleBuilder::kNone);
      case PickleOpcode::kNewTrue:
        return Push(PickleBuilder::kTrue);
      case PickleOpcode::kNewFalse:
        return Push(PickleBuilder::kFalse);
      case PickleOpcode::kBinInt:
        return Push(build_.SmallInt(Number<std::int32_t>()));
      case PickleOpcode::kBinInt1:
        return Push(build_.SmallInt(Next()));
      case PickleOpcode::kBinInt2:
        return Push(build_.SmallInt(Number<std::uint16_t>()));
      case PickleOpcode::kLong1: {
        const std::uint8_t bytes = Next();
        return Push(build_.LongInt(Skip(bytes), bytes));
      }
      case PickleOpcode::kBinFloat:
        return Push(build_.Float(Skip(sizeof(double))));
      case PickleOpcode::kBinUnicode:
        return PushText(Number<std::uint32_t>());
      case PickleOpcode::kShortBinUnicode:
        return PushText(Next());
      case PickleOpcode::kBinBytes:
        return PushBytes(Number<std::uint32_t>());
      case PickleOpcode::kShortBinBytes:
        return PushBytes(Next());
      case PickleOpcode::kByteArray8:
        return PushBytes(Number<std::uint64_t>());
      case PickleOpcode::kEmptyTuple:
        return Push(PickleBuilder::kEmptyTuple);
      case PickleOpcode::kTuple:
        return PushTuple(PopMark());
      case PickleOpcode::kTuple1:
        return PushTuple(Last(1));
      case PickleOpcode::kTuple2:
        return PushTuple(Last(2));
      case PickleOpcode::kTuple3:
        return PushTuple(Last(3));
      case PickleOpcode::kEmptyList:
        return Push(build_.List());
      case PickleOpcode::kAppend:
        return AddItems(&PickleBuilder::AddToList, Last(1));
      case PickleOpcode::kAppends:
        return AddItems(&PickleBuilder::AddToList, PopMark());
      case PickleOpcode::kEmptyDict:
        return Push(build_.Dict());
      case PickleOpcode::kSetItem:
        return AddItems(&PickleBuilder::AddToDict, Last(2));
      case PickleOpcode::kSetItems:
        return AddItems(&PickleBuilder::AddToDict, PopMark());
      case PickleOpcode::kEmptySet:
        return Push(build_.Set());
      case PickleOpcode::kAddItems:
        return AddItems(&PickleBuilder::AddToSet, PopMark());
      case PickleOpcode::kFrozenSet: {
        const std::size_t begin = PopMark();
        const PickleId set = build_.Set();
        build_.AddToSet(set, From(begin));
        stack_.resize(begin);
        return Push(set);
      }
      case PickleOpcode::kGlobal: {
        const std::string_view module = Line();
        return Push(build_.Global(module, Line()));
      }
      case PickleOpcode::kStackGlobal:
        return PushStackGlobal(Last(2));
      case PickleOpcode::kReduce:
      case PickleOpcode::kNewObj: {
        const std::size_t begin = Last(2);
        return Replace(begin, build_.Call(stack_[begin], stack_[begin + 1]));
      }
      case PickleOpcode::kBuild: {
        const std::size_t begin = Last(2);
        build_.SetState(stack_[begin], stack_[begin + 1]);
        return Replace(begin, stack_[begin]);
      }
      case PickleOpcode::kBinPersId: {
        const std::size_t begin = Last(1);
        return Replace(begin, build_.Persistent(stack_[begin]));
      }
      case PickleOpcode::kBinGet:
        return Recall(Next());
      case PickleOpcode::kLongBinGet:
        return Recall(Number<std::uint32_t>());
      case PickleOpcode::kBinPut:
        return Remember(Next());
      case PickleOpcode::kLongBinPut:
        return Remember(Number<std::uint32_t>());
      case PickleOpcode::kMemoize:
        return Remember(memo_.size());
      case PickleOpcode::kProto:
        break;
    }
    errors_.Malformed(fmt::format("the opcode {} is not one that a checkpoint needs there",
                                  PickleOpcodeName(opcode)));
  }

  // Passes over bytes of the text and returns where they begin.
  std::size_t Skip(std::uint64_t bytes) {
    if (bytes > text_.size() - at_) errors_.EndsBefore(text_.size(), at_, bytes);
    const std::size_t begin = at_;
    at_ += bytes;
    return begin;
  }

  template <typename T>
  T Number() {
    T value;
    std::memcpy(&value, text_.data() + Skip(sizeof value), sizeof value);
    return value;
  }

  std::uint8_t Next() { return Number<std::uint8_t>(); }

  std::string_view Line() {
    const std::size_t end = text_.find('\n', at_);
    if (end == std::string_view::npos) errors_.Malformed("the name of a global has no end");
    const std::string_view line = text_.substr(at_, end - at_);
    at_ = end + 1;
    if (FindInvalidUtf8(line) != line.size()) errors_.Malformed("a text is not UTF-8");
    return line;
  }

  PickleBuilder::Ids From(std::size_t begin) const { return std::span(stack_).subspan(begin); }

  // Where the last `count` values of the stack begin; they must lie behind the last mark.
  std::size_t Last(std::size_t count) const {
    const std::size_t mark = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - mark < count) FailStack();
    return stack_.size() - count;
  }

  std::size_t PopMark() {
    if (marks_.empty()) FailStack();
    const std::size_t begin = marks_.back();
    marks_.pop_back();
    return begin;
  }

  bool Push(PickleId id) {
    if (stack_.size() == kMaxStack) errors_.TooMany("values at once", kMaxStack);
    stack_.push_back(id);
    return true;
  }

  // Puts a value in the place of those from `begin` on.
  bool Replace(std::size_t begin, PickleId id) {
    stack_.resize(begin);
    return Push(id);
  }

  bool PushText(std::size_t bytes) { return Push(build_.Text(Skip(bytes), bytes)); }
  bool PushBytes(std::uint64_t bytes) { return Push(build_.Bytes(Skip(bytes), bytes)); }
  bool PushTuple(std::size_t begin) { return Replace(begin, build_.Tuple(From(begin))); }

  bool PushStackGlobal(std::size_t begin) {
    const std::optional<std::string_view> module = build_.values().Text(stack_[begin]);
    const std::optional<std::string_view> name = build_.values().Text(stack_[begin + 1]);
    if (!module || !name) errors_.Malformed("the name of a global is not a text");
    return Replace(begin, build_.Global(*module, *name));
  }

  // Adds the values from `begin` on to the one before them.
  bool AddItems(void (PickleBuilder::*add)(PickleId, PickleBuilder::Ids), std::size_t begin) {
    const std::size_t mark = marks_.empty() ? 0 : marks_.back();
    if (begin <= mark) FailStack();
    (build_.*add)(stack_[begin - 1], From(begin));
    stack_.resize(begin);
    return true;
  }

  bool Recall(std::size_t index) {
    const PickleId id = index < memo_.size() ? memo_[index] : kNoPickle;
    if (id == kNoPickle) {
      errors_.Malformed(fmt::format("it recalls memo {}, which was not made", index));
    }
    return Push(id);
  }

  bool Remember(std::size_t index) {
    const PickleId id = stack_[Last(1)];
    // Each memo took a byte at least; some writers leave out a few.
    constexpr std::size_t kAlways = 256;
    if (index >= std::clamp(at_, kAlways, kMaxPickleValues)) {
      errors_.Malformed(fmt::format("memo {} is beyond what it can have made", index));
    }
    if (index >= memo_.size()) memo_.resize(index + 1, kNoPickle);
    memo_[index] = id;
    return true;
  }

  [[noreturn]] void FailStack() const {
    errors_.Malformed("an opcode needs more values than there are");
  }

  std::string_view text_;
  PickleErrors errors_;
  PickleBuilder build_;
  std::size_t at_ = 0;
  std::vector<PickleId> stack_;
  std::vector<std::size_t> marks_;
  std::vector<PickleId> memo_;
};

}  // namespace

Pickle ParsePickle(std::string_view text, const PickleGlobals& allowed,
                   const PickleSource& source) {
  RequirePickleBytes(text.size(), source);
  return Machine(text, allowed, source).Run();
}

void RequirePickleBytes(std::uint64_t bytes, const PickleSource& source) {
  if (bytes > kMaxPickleBytes) PickleErrors(source).TooLarge(bytes);
}

}  // namespace dsv3::formats
