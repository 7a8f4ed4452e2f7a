#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/pickle.h"
#include "formats/pickle_parser.h"

// The making of a pickle's values; an internal part of the parser in pickle_parser.h.
namespace dsv3::formats {

// Throws the errors of a parser: Error (kBadInput) with the file and the place.
class PickleErrors {
 public:
  explicit PickleErrors(const PickleSource& source) : source_(source) {}

  // Where the opcode lies that is being executed.
  void SetPlace(std::size_t place) { place_ = place; }

  [[noreturn]] void Malformed(std::string_view problem) const;
  [[noreturn]] void EndsBefore(std::size_t end, std::size_t begin, std::uint64_t bytes) const;
  [[noreturn]] void TooLarge(std::uint64_t bytes) const;
  [[noreturn]] void TooMany(std::string_view what, std::size_t most) const;
  [[noreturn]] void TooDeep() const;
  [[noreturn]] void ForbiddenGlobal(std::string_view name) const;

 private:
  [[noreturn]] void Throw(std::string_view problem, std::string_view advice) const;

  PickleSource source_;
  std::size_t place_ = 0;
};

// Makes values. The depth of each is known, and grows only while it is filled, which ends once
// another value takes it: so none can contain itself.
class PickleBuilder {
 public:
  using Ids = std::span<const PickleId>;
  static constexpr PickleId kNone = 0;
  static constexpr PickleId kFalse = 1;
  static constexpr PickleId kTrue = 2;
  static constexpr PickleId kEmptyTuple = 3;

  // All must outlive the builder; `text` the pickle, too.
  PickleBuilder(std::string_view text, const PickleGlobals& allowed, const PickleErrors& errors);

  PickleId SmallInt(std::int32_t value);
  // Values that are bytes [begin, begin + bytes) of the text.
  PickleId LongInt(std::size_t begin, std::size_t bytes);
  PickleId Float(std::size_t begin);
  PickleId Bytes(std::size_t begin, std::size_t bytes);
  PickleId Text(std::size_t begin, std::size_t bytes);
  PickleId Global(std::string_view module, std::string_view name);
  PickleId Tuple(Ids items);
  PickleId List();
  PickleId Dict();
  PickleId Set();
  PickleId Call(PickleId global, PickleId args);
  PickleId Persistent(PickleId id);

  // Adds to a list, dict (keys and values in turn) or set; to a record where it takes such items.
  void AddToList(PickleId target, Ids items) { AddItems(target, Kind::kList, items); }
  void AddToDict(PickleId target, Ids items) { AddItems(target, Kind::kDict, items); }
  void AddToSet(PickleId target, Ids items) { AddItems(target, Kind::kSet, items); }
  void SetState(PickleId record, PickleId state);

  // The values made so far, of which lists, dicts and sets cannot show their items yet.
  const Pickle& values() const { return out_; }

  // Ends the building.
  Pickle Take(PickleId root);

 private:
  using Kind = Pickle::Kind;

  PickleId Add(Kind kind, std::size_t where, std::size_t count = 0, unsigned depth = 0);
  PickleId Content(Kind kind, std::size_t begin, std::size_t bytes);
  void AddItems(PickleId target, Kind kind, Ids items);
  void AddSegment(PickleId container, Ids items);
  void Link(Ids items);
  // Make values parts of another one, and return the depth of that.
  unsigned TakeOne(PickleId id);
  unsigned TakeAll(Ids items);
  void RequireOpen(PickleId id) const;
  PickleId RecordItems(PickleId record, Kind kind);
  Pickle::Built& MakeBuilt(PickleId record);
  void JoinSegments();

  PickleGlobals allowed_;
  const PickleErrors& errors_;
  Pickle out_;
  std::vector<std::uint8_t> depths_;  // of each value; the highest bit: another value took it
  std::array<PickleId, 256> small_ints_;
  std::map<std::string, PickleId, std::less<>> globals_;
};

}  // namespace dsv3::formats
