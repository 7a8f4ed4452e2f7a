#include "convert/stream/archive_checks.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/hash/crc32.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Of an entry of which so many pieces lie apart nothing more is remembered than they take.
constexpr std::size_t kMostRanges = 4096;

// Adds [begin, end) to the ranges, and returns the parts of it that are new.
std::vector<std::pair<std::uint64_t, std::uint64_t>> TakeNew(
    std::map<std::uint64_t, std::uint64_t>& ranges, std::uint64_t begin, std::uint64_t end) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> parts;
  std::uint64_t at = begin;
  std::uint64_t joined_begin = begin;
  std::uint64_t joined_end = end;
  auto next = ranges.upper_bound(begin);
  if (next != ranges.begin() && std::prev(next)->second >= begin) --next;
  while (next != ranges.end() && next->first <= end) {
    if (at < next->first) parts.emplace_back(at, next->first);
    at = std::max(at, next->second);
    joined_begin = std::min(joined_begin, next->first);
    joined_end = std::max(joined_end, next->second);
    next = ranges.erase(next);
  }
  if (at < end) parts.emplace_back(at, end);
  ranges.emplace(joined_begin, joined_end);
  return parts;
}

}  // namespace

struct ArchiveChecks::File {
  std::mutex mutex;                                // guards `entries`
  std::unordered_map<std::size_t, Entry> entries;  // that came in part, by position in `checked`
  std::vector<bool> done;                          // compared, or too much in pieces
};

ArchiveChecks::ArchiveChecks(const Catalog& catalog) : catalog_(catalog) {
  files_.reserve(catalog.files().size());
  for (const SourceFile& file : catalog.files()) {
    std::unique_ptr<File>& checks = files_.emplace_back();
    if (file.checked.empty()) continue;
    checks = std::make_unique<File>();
    checks->done.resize(file.checked.size());
  }
}

ArchiveChecks::~ArchiveChecks() = default;

void ArchiveChecks::Add(std::uint32_t file, std::uint64_t offset,
                        std::span<const std::byte> bytes) {
  if (file >= files_.size() || !files_[file]) return;
  const std::vector<CheckedBytes>& checked = catalog_.files()[file].checked;
  const std::uint64_t end = offset + bytes.size();
  auto entry = std::partition_point(checked.begin(), checked.end(), [&](const CheckedBytes& each) {
    return each.offset + each.length <= offset;
  });
  for (; entry != checked.end() && entry->offset < end; ++entry) {
    const std::uint64_t begin = std::max(offset, entry->offset);
    if (entry->offset + entry->length <= begin) continue;
    const std::uint64_t length = std::min(end, entry->offset + entry->length) - begin;
    AddToEntry(
        file, static_cast<std::size_t>(entry - checked.begin()), begin,
        bytes.subspan(static_cast<std::size_t>(begin - offset), static_cast<std::size_t>(length)));
  }
}

void ArchiveChecks::AddToEntry(std::uint32_t file, std::size_t position, std::uint64_t begin,
                               std::span<const std::byte> bytes) {
  File& checks = *files_[file];
  const CheckedBytes& checked = catalog_.files()[file].checked[position];
  std::vector<std::pair<std::uint64_t, std::uint64_t>> parts;
  {
    const std::lock_guard lock(checks.mutex);
    if (checks.done[position]) return;
    Entry& entry = checks.entries[position];
    parts = TakeNew(entry.ranges, begin, begin + bytes.size());
    if (entry.ranges.size() > kMostRanges) {
      checks.done[position] = true;
      checks.entries.erase(position);
      return;
    }
  }
  std::uint32_t crc = 0;
  std::uint64_t counted = 0;
  for (const auto& [from, to] : parts) {
    const auto part =
        bytes.subspan(static_cast<std::size_t>(from - begin), static_cast<std::size_t>(to - from));
    crc ^= formats::Crc32Before(formats::Crc32(part), checked.offset + checked.length - to);
    counted += to - from;
  }
  {
    const std::lock_guard lock(checks.mutex);
    const auto entry = checks.entries.find(position);
    if (entry == checks.entries.end()) return;
    entry->second.crc ^= crc;
    entry->second.counted += counted;
    if (entry->second.counted != checked.length) return;
    crc = entry->second.crc;
    checks.done[position] = true;
    checks.entries.erase(entry);
  }
  Compare(file, checked, crc);
}

void ArchiveChecks::Compare(std::uint32_t file, const CheckedBytes& entry,
                            std::uint32_t found) const {
  if (found == entry.crc) return;
  const std::string name = catalog_.files()[file].DisplayName();
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: entry {} at byte {} has the CRC-32 {:08x}, but the archive's "
                          "directory says {:08x}; the file is damaged: copy it again from where it "
                          "was saved",
                          formats::ShownPath(name), QuoteForMessage(entry.entry), entry.offset,
                          found, entry.crc),
              {name, ""});
}

bool HasCheckedBytes(const Catalog& catalog) {
  return std::any_of(catalog.files().begin(), catalog.files().end(),
                     [](const SourceFile& file) { return !file.checked.empty(); });
}

}  // namespace dsv3::convert
