#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The values of a Python pickle, without Python: docs/torch-files.md says which pickles are read.
namespace dsv3::formats {

// Names a value of a Pickle.
using PickleId = std::uint32_t;
inline constexpr PickleId kNoPickle = UINT32_MAX;

enum class PickleType : std::uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kBytes,
  kText,
  kTuple,
  kList,
  kDict,
  kSet,
  kGlobal,      // a class or a function, by its name
  kRecord,      // what the pickle would make by calling a global
  kPersistent,  // a value outside the pickle, by its id
};

// What a pickle says of an object: which global would make it from which arguments, the state and
// the items that it would be given then. Nothing of this is done.
struct PickleRecord {
  std::string_view global;     // "torch._utils._rebuild_tensor_v2"
  PickleId args = kNoPickle;   // a tuple
  PickleId state = kNoPickle;  // kNoPickle when there is none
  PickleId items = kNoPickle;  // a list or a dict; kNoPickle when there is none
};

// All values of a pickle. What several values share is one value with one id. No value contains
// itself, and none is nested deeper than kMaxDepth, so recursion over values ends; but the number
// of ways to a shared value has no bound, and who follows them all must count. Values are views of
// the pickle's text, which must outlive them. Reading serves many threads.
class Pickle {
 public:
  static constexpr int kMaxDepth = 100;

  PickleId root() const { return root_; }
  std::size_t num_values() const { return nodes_.size(); }

  PickleType Type(PickleId id) const;

  // The value; nothing when it is of another type.
  std::optional<bool> Bool(PickleId id) const;
  std::optional<std::int64_t> Int(PickleId id) const;  // nothing also where 64 bits do not hold it
  std::optional<double> Float(PickleId id) const;
  std::optional<std::string_view> Text(PickleId id) const;  // UTF-8
  std::optional<std::string_view> Bytes(PickleId id) const;
  std::optional<std::string_view> Global(PickleId id) const;  // "torch.bfloat16"
  std::optional<PickleRecord> Record(PickleId id) const;
  PickleId Persistent(PickleId id) const;  // the id of the value outside; or kNoPickle

  // The elements of a tuple, list or set; the keys and values of a dict, one key and one value in
  // turn and as stored: a key may appear twice. Empty for other types.
  std::span<const PickleId> Items(PickleId id) const;

  // The value of this text key in a dict, the last one as in Python; kNoPickle when there is none,
  // and for what is not a dict. Searches the whole dict.
  PickleId Get(PickleId dict, std::string_view key) const;

  // For messages: "the text 'cpu'", "a list of 3", "a torch.Size".
  std::string Describe(PickleId id) const;

 private:
  friend class PickleBuilder;

  // `where` and `count` of each kind: an integer's value; the place and length in the text of what
  // lies there; the begin and number of links; an index of globals_ or built_; the ids of a
  // call's global and arguments; the id of a persistent id.
  enum class Kind : std::uint32_t {
    kNone,
    kFalse,
    kTrue,
    kSmallInt,
    kLongInt,
    kFloat,
    kBytes,
    kText,
    kTuple,
    kList,
    kDict,
    kSet,
    kGlobal,
    kCall,
    kBuilt,
    kPersistent,
  };
  struct Node {
    static constexpr unsigned kCountBits = 28;

    Node(Kind kind, std::uint32_t place, std::uint32_t count = 0)
        : where(place), packed(static_cast<std::uint32_t>(kind) << kCountBits | count) {}
    Kind kind() const { return static_cast<Kind>(packed >> kCountBits); }
    std::uint32_t count() const { return packed & ((1U << kCountBits) - 1); }

    std::uint32_t where;
    std::uint32_t packed;
  };
  // A call that was given a state or items.
  struct Built {
    PickleId global;
    PickleId args;
    PickleId state;
    PickleId items;
  };

  std::string_view Slice(const Node& node) const { return text_.substr(node.where, node.count()); }

  std::string_view text_;
  std::vector<Node> nodes_;
  std::vector<PickleId> links_;
  std::vector<Built> built_;
  std::vector<std::string> globals_;
  PickleId root_ = kNoPickle;
};

}  // namespace dsv3::formats
