#include "convert/stream/value_checks.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "convert/stream/executor.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_bytes.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 20;

// RFC 1950, 8.2.
class Adler32 {
 public:
  void Update(std::span<const std::byte> data) {
    constexpr std::uint32_t kModulus = 65521;
    constexpr std::size_t kBeforeOverflow = 5552;
    for (std::size_t begin = 0; begin < data.size(); begin += kBeforeOverflow) {
      for (const std::byte each :
           data.subspan(begin, std::min(kBeforeOverflow, data.size() - begin))) {
        low_ += std::to_integer<std::uint32_t>(each);
        high_ += low_;
      }
      low_ %= kModulus;
      high_ %= kModulus;
    }
  }
  std::string Hex() const { return fmt::format("{:08x}", high_ << 16 | low_); }

 private:
  std::uint32_t low_ = 1;
  std::uint32_t high_ = 0;
};

// A tensor to check.
struct Unit {
  const Expression* value = nullptr;
  SourceFiles* stored = nullptr;
  std::string checksum;
};

template <typename Hash>
std::string Checksum(const Unit& unit, ProgressSink& progress, const StopToken& stop) {
  Hash hash;
  const std::uint64_t bytes = unit.value->num_bytes();
  for (std::uint64_t begin = 0; begin < bytes; begin += kPieceBytes) {
    if (stop.stopped()) ThrowInterrupted();
    const ByteRange range{begin, std::min(bytes, begin + kPieceBytes)};
    hash.Update(ReadValue(*unit.value, range, *unit.stored));
    progress.OnBytes(range.size(), "");
  }
  return hash.Hex();
}

void Check(const Unit& unit, ValueChecksums::Kind kind, ProgressSink& progress,
           const StopToken& stop) {
  const std::string found = kind == ValueChecksums::Kind::kXxh3
                                ? Checksum<formats::Xxh3>(unit, progress, stop)
                                : Checksum<Adler32>(unit, progress, stop);
  if (found == unit.checksum) return;
  const Catalog& stored = unit.stored->catalog();
  const std::uint32_t stream = unit.value->streamed_sources().front();
  const std::string& file = stored.files()[stored.tensors()[stream].extent.file].name;
  const std::string tensor(stored.NameInFile(stream));
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: with its differences tensor {} has the checksum {}, expected {}; "
                          "the base is not the version before, or one of the two is damaged",
                          formats::ShownPath(file), QuoteForMessage(tensor), found, unit.checksum),
              {file, tensor});
}

}  // namespace

void CheckValues(const std::vector<DerivedTensors>& derived,
                 const std::optional<std::vector<std::uint32_t>>& tensors, unsigned threads,
                 ProgressSink& progress, const StopToken& stop) {
  for (const DerivedTensors& part : derived) {
    if (part.checksums == nullptr) continue;
    SourceFiles stored(*part.stored);
    std::vector<Unit> units;
    std::uint64_t bytes = 0;
    const auto add = [&](std::uint32_t place) {
      const auto checksum = part.checksums->of.find(place);
      if (checksum == part.checksums->of.end()) return;
      units.push_back({part.origins[place].get(), &stored, checksum->second});
      bytes += units.back().value->num_bytes();
    };
    if (tensors) {
      for (const std::uint32_t tensor : *tensors) {
        if (part.Holds(tensor)) add(tensor - part.first);
      }
    } else {
      for (std::uint32_t place = 0; place < part.origins.size(); ++place) add(place);
    }
    progress.OnPhase("checking tensors that changed", bytes);
    tbb::task_arena arena(static_cast<int>(ResolveThreads(threads)));
    arena.execute([&] {
      tbb::parallel_for(std::size_t{0}, units.size(), [&](std::size_t i) {
        Check(units[i], part.checksums->kind, progress, stop);
      });
    });
  }
}

}  // namespace dsv3::convert
