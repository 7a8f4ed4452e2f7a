#include "formats/pickle.h"

#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::formats {

PickleType Pickle::Type(PickleId id) const {
  switch (nodes_[id].kind()) {
    case Kind::kNone:
      return PickleType::kNone;
    case Kind::kFalse:
    case Kind::kTrue:
      return PickleType::kBool;
    case Kind::kSmallInt:
    case Kind::kLongInt:
      return PickleType::kInt;
    case Kind::kFloat:
      return PickleType::kFloat;
    case Kind::kBytes:
      return PickleType::kBytes;
    case Kind::kText:
      return PickleType::kText;
    case Kind::kTuple:
      return PickleType::kTuple;
    case Kind::kList:
      return PickleType::kList;
    case Kind::kDict:
      return PickleType::kDict;
    case Kind::kSet:
      return PickleType::kSet;
    case Kind::kGlobal:
      return PickleType::kGlobal;
    case Kind::kCall:
    case Kind::kBuilt:
      return PickleType::kRecord;
    case Kind::kPersistent:
      break;
  }
  return PickleType::kPersistent;
}

std::optional<bool> Pickle::Bool(PickleId id) const {
  if (Type(id) != PickleType::kBool) return std::nullopt;
  return nodes_[id].kind() == Kind::kTrue;
}

std::optional<std::int64_t> Pickle::Int(PickleId id) const {
  const Node& node = nodes_[id];
  if (node.kind() == Kind::kSmallInt) return static_cast<std::int32_t>(node.where);
  if (node.kind() != Kind::kLongInt || node.count() > sizeof(std::int64_t)) return std::nullopt;
  // Little-endian, in two's complement of as many bytes as it needs.
  const std::string_view bytes = Slice(node);
  const bool negative = !bytes.empty() && (bytes.back() & 0x80) != 0;
  std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  return static_cast<std::int64_t>(value);
}

std::optional<double> Pickle::Float(PickleId id) const {
  const Node& node = nodes_[id];
  if (node.kind() != Kind::kFloat) return std::nullopt;
  std::uint64_t bits = 0;
  std::memcpy(&bits, Slice(node).data(), sizeof bits);
  return std::bit_cast<double>(__builtin_bswap64(bits));
}

std::optional<std::string_view> Pickle::Text(PickleId id) const {
  if (nodes_[id].kind() != Kind::kText) return std::nullopt;
  return Slice(nodes_[id]);
}

std::optional<std::string_view> Pickle::Bytes(PickleId id) const {
  if (nodes_[id].kind() != Kind::kBytes) return std::nullopt;
  return Slice(nodes_[id]);
}

std::optional<std::string_view> Pickle::Global(PickleId id) const {
  if (nodes_[id].kind() != Kind::kGlobal) return std::nullopt;
  return globals_[nodes_[id].where];
}

std::optional<PickleRecord> Pickle::Record(PickleId id) const {
  const Node& node = nodes_[id];
  if (node.kind() == Kind::kCall) {
    return PickleRecord{.global = *Global(node.where), .args = node.count()};
  }
  if (node.kind() != Kind::kBuilt) return std::nullopt;
  const Built& built = built_[node.where];
  return PickleRecord{.global = *Global(built.global),
                      .args = built.args,
                      .state = built.state,
                      .items = built.items};
}

PickleId Pickle::Persistent(PickleId id) const {
  return nodes_[id].kind() == Kind::kPersistent ? nodes_[id].where : kNoPickle;
}

std::span<const PickleId> Pickle::Items(PickleId id) const {
  const Node& node = nodes_[id];
  switch (node.kind()) {
    case Kind::kTuple:
    case Kind::kList:
    case Kind::kDict:
    case Kind::kSet:
      return std::span(links_).subspan(node.where, node.count());
    default:
      return {};
  }
}

PickleId Pickle::Get(PickleId dict, std::string_view key) const {
  if (nodes_[dict].kind() != Kind::kDict) return kNoPickle;
  const std::span<const PickleId> items = Items(dict);
  for (std::size_t i = items.size(); i >= 2; i -= 2) {
    if (Text(items[i - 2]) == key) return items[i - 1];
  }
  return kNoPickle;
}

std::string Pickle::Describe(PickleId id) const {
  switch (Type(id)) {
    case PickleType::kNone:
      return "None";
    case PickleType::kBool:
      return *Bool(id) ? "True" : "False";
    case PickleType::kInt:
      if (const std::optional<std::int64_t> value = Int(id)) return fmt::format("{}", *value);
      return "an integer beyond 64 bits";
    case PickleType::kFloat:
      return fmt::format("{}", *Float(id));
    case PickleType::kBytes:
      return fmt::format("{} bytes", Bytes(id)->size());
    case PickleType::kText:
      return "the text " + QuoteForMessage(*Text(id));
    case PickleType::kTuple:
      return fmt::format("a tuple of {}", nodes_[id].count());
    case PickleType::kList:
      return fmt::format("a list of {}", nodes_[id].count());
    case PickleType::kDict:
      return fmt::format("a dict of {}", nodes_[id].count() / 2);
    case PickleType::kSet:
      return fmt::format("a set of {}", nodes_[id].count());
    case PickleType::kGlobal:
      return "the global " + QuoteForMessage(*Global(id));
    case PickleType::kRecord:
      return "a value made by " + QuoteForMessage(Record(id)->global);
    case PickleType::kPersistent:
      break;
  }
  return "a persistent id";
}

}  // namespace dsv3::formats
