// An input is a pickle. What is accepted is written again in the plainest form, without memos, and
// must say the same.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "formats/error.h"
#include "formats/json/utf8.h"
#include "formats/pickle.h"
#include "formats/pickle_parser.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::Pickle;
using dsv3::formats::PickleId;
using dsv3::formats::PickleRecord;
using dsv3::formats::PickleType;

constexpr std::array<std::string_view, 4> kNames = {
    "torch.Size", "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.bfloat16"};
constexpr std::array<std::string_view, 1> kPrefixes = {"megatron."};

Pickle Parse(std::string_view text, std::string_view file) {
  return dsv3::formats::ParsePickle(text, {.names = kNames, .prefixes = kPrefixes},
                                    {.file = file, .part = "the pickle", .advice = "copy it"});
}

// Writes a value as opcodes. A shared value is written for each way to it, so the number of values
// is limited: `left` is 0 where they were too many.
class Writer {
 public:
  explicit Writer(const Pickle& pickle) : pickle_(pickle) {
    text_ = "\x80\x04";
    Value(pickle.root(), 0);
    text_ += '.';
  }

  bool whole() const { return left_ > 0; }
  const std::string& text() const { return text_; }

 private:
  void Length(std::uint64_t length, std::size_t bytes) {
    char raw[sizeof length];
    std::memcpy(raw, &length, sizeof length);
    text_.append(raw, bytes);
  }

  void Text(std::string_view text) {
    DSV3_FUZZ_REQUIRE(dsv3::formats::FindInvalidUtf8(text) == text.size());
    text_ += 'X';
    Length(text.size(), 4);
    text_ += text;
  }

  void Global(std::string_view name) {
    bool allowed = name.starts_with(kPrefixes[0]);
    for (const std::string_view known : kNames) allowed = allowed || known == name;
    DSV3_FUZZ_REQUIRE(allowed);
    const std::size_t dot = name.rfind('.');
    Text(name.substr(0, dot));
    Text(name.substr(dot + 1));
    text_ += '\x93';
  }

  void Values(PickleId id, int depth) {
    text_ += '(';
    for (const PickleId item : pickle_.Items(id)) Value(item, depth + 1);
  }

  void Record(const PickleRecord& record, int depth) {
    Global(record.global);
    Value(record.args, depth + 1);
    text_ += 'R';
    if (record.items != dsv3::formats::kNoPickle) {
      Values(record.items, depth + 1);
      text_ += pickle_.Type(record.items) == PickleType::kList ? 'e' : 'u';
    }
    if (record.state != dsv3::formats::kNoPickle) {
      Value(record.state, depth + 1);
      text_ += 'b';
    }
  }

  void Value(PickleId id, int depth) {
    DSV3_FUZZ_REQUIRE(id < pickle_.num_values());
    DSV3_FUZZ_REQUIRE(depth <= Pickle::kMaxDepth);
    DSV3_FUZZ_REQUIRE(!pickle_.Describe(id).empty());
    if (left_ == 0) return;
    --left_;
    switch (pickle_.Type(id)) {
      case PickleType::kNone:
        text_ += 'N';
        break;
      case PickleType::kBool:
        text_ += *pickle_.Bool(id) ? '\x88' : '\x89';
        break;
      case PickleType::kInt:
        text_ += "\x8A\x08";
        // One beyond 64 bits becomes another number, which a second writing keeps.
        Length(static_cast<std::uint64_t>(pickle_.Int(id).value_or(0)), 8);
        break;
      case PickleType::kFloat: {
        const double value = *pickle_.Float(id);
        std::uint64_t bits = 0;
        std::memcpy(&bits, &value, sizeof bits);
        text_ += 'G';
        Length(__builtin_bswap64(bits), 8);
        break;
      }
      case PickleType::kBytes:
        text_ += 'B';
        Length(pickle_.Bytes(id)->size(), 4);
        text_ += *pickle_.Bytes(id);
        break;
      case PickleType::kText:
        Text(*pickle_.Text(id));
        break;
      case PickleType::kTuple:
        Values(id, depth);
        text_ += 't';
        break;
      case PickleType::kList:
        text_ += ']';
        Values(id, depth);
        text_ += 'e';
        break;
      case PickleType::kDict:
        DSV3_FUZZ_REQUIRE(pickle_.Items(id).size() % 2 == 0);
        text_ += '}';
        Values(id, depth);
        text_ += 'u';
        break;
      case PickleType::kSet:
        text_ += '\x8F';
        Values(id, depth);
        text_ += '\x90';
        break;
      case PickleType::kGlobal:
        Global(*pickle_.Global(id));
        break;
      case PickleType::kRecord:
        Record(*pickle_.Record(id), depth);
        break;
      case PickleType::kPersistent:
        Value(pickle_.Persistent(id), depth + 1);
        text_ += 'Q';
        break;
    }
  }

  const Pickle& pickle_;
  std::string text_;
  std::size_t left_ = 5000;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Pickle pickle = Parse(text, "fuzzed");
    DSV3_FUZZ_REQUIRE(pickle.num_values() <= size + 4);
    const Writer first(pickle);
    if (!first.whole()) return 0;
    const Pickle again = Parse(first.text(), "written");
    DSV3_FUZZ_REQUIRE(Writer(again).text() == first.text());
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
