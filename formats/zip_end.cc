#include "formats/zip_end.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kEndSignature = "PK\x05\x06";
constexpr std::string_view kLocatorSignature = "PK\x06\x07";
constexpr std::string_view kEnd64Signature = "PK\x06\x06";
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kLocatorBytes = 20;
constexpr std::size_t kEnd64Bytes = 56;
constexpr std::size_t kLongestComment = 0xFFFF;

class EndReader {
 public:
  EndReader(const InputFile& file, FileRange archive) : file_(file), archive_(archive) {}

  ZipEnd Read() {
    if (archive_.bytes < kEndBytes || !FindEnd(kEndBytes + kLocatorBytes + kEnd64Bytes)) {
      if (archive_.bytes < kEndBytes || !FindEnd(kEndBytes + kLongestComment)) FailNoEnd();
    }
    const std::span<const std::byte> end = std::span(tail_).subspan(end_);
    ZipEnd record{.num_entries = Load16(end, 10),
                  .directory_bytes = Load32(end, 12),
                  .directory = Load32(end, 16),
                  .place = tail_offset_ + end_};
    if (Load16(end, 4) != 0 || Load16(end, 6) != 0 || Load16(end, 8) != record.num_entries) {
      FailVolumes();
    }
    if (end_ >= kLocatorBytes && HasZipSignature(tail_, end_ - kLocatorBytes, kLocatorSignature)) {
      ReadEnd64(record);
    }
    return record;
  }

 private:
  // Looks for the end record in the last `bytes` of the archive.
  bool FindEnd(std::uint64_t bytes) {
    // Room for a locator before an end record at the edge.
    tail_.resize(std::min(bytes + kLocatorBytes, archive_.bytes));
    tail_offset_ = archive_.bytes - tail_.size();
    file_.ReadAt(archive_.offset + tail_offset_, tail_);
    for (std::size_t at = tail_.size() - kEndBytes + 1; at-- > 0;) {
      if (!HasZipSignature(tail_, at, kEndSignature)) continue;
      if (Load16(tail_, at + 20) != tail_.size() - at - kEndBytes) continue;
      end_ = at;
      return true;
    }
    return false;
  }

  void ReadEnd64(ZipEnd& record) {
    const std::span<const std::byte> locator = std::span(tail_).subspan(end_ - kLocatorBytes);
    const std::uint64_t place = Load64(locator, 8);
    const std::uint64_t locator_place = record.place - kLocatorBytes;
    if (Load32(locator, 4) != 0 || Load32(locator, 16) > 1) FailVolumes();
    if (place > locator_place || locator_place - place < kEnd64Bytes) {
      FailZip(
          file_, archive_,
          fmt::format("its zip64 end record would lie at byte {}, but only the {} before byte {} "
                      "can hold it",
                      place, ExactBytes(locator_place), locator_place));
    }
    std::array<std::byte, kEnd64Bytes> end64;
    if (place >= tail_offset_) {
      std::copy_n(tail_.begin() + static_cast<std::ptrdiff_t>(place - tail_offset_), kEnd64Bytes,
                  end64.begin());
    } else {
      file_.ReadAt(archive_.offset + place, end64);
    }
    if (!HasZipSignature(end64, 0, kEnd64Signature)) {
      FailZip(file_, archive_, fmt::format("there is no zip64 end record at byte {}", place));
    }
    if (Load32(end64, 16) != 0 || Load32(end64, 20) != 0 ||
        Load64(end64, 24) != Load64(end64, 32)) {
      FailVolumes();
    }
    const ZipEnd wide{.num_entries = Load64(end64, 32),
                      .directory_bytes = Load64(end64, 40),
                      .directory = Load64(end64, 48),
                      .place = place};
    // A reader that knows no zip64 must not find another directory.
    if (record.num_entries != std::min<std::uint64_t>(wide.num_entries, 0xFFFF) ||
        record.directory_bytes != std::min(wide.directory_bytes, kInZip64) ||
        record.directory != std::min(wide.directory, kInZip64)) {
      FailZip(file_, archive_,
              fmt::format("its two end records contradict each other: the directory lies at byte "
                          "{} or {}, has {} or {}, and {} or {} entries",
                          record.directory, wide.directory, ExactBytes(record.directory_bytes),
                          ExactBytes(wide.directory_bytes), record.num_entries, wide.num_entries));
    }
    record = wide;
  }

  [[noreturn]] void FailVolumes() const {
    FailZip(file_, archive_, "it is one of several volumes of an archive",
            "give an archive of one file, as torch.save writes it");
  }

  [[noreturn]] void FailNoEnd() const {
    if (archive_.bytes == 0) FailZip(file_, archive_, "it is empty");
    std::array<std::byte, 512> start{};
    const std::span<std::byte> known =
        std::span(start).first(std::min<std::uint64_t>(start.size(), archive_.bytes));
    file_.ReadAt(archive_.offset, known);
    if (HasZipSignature(known, 0, kZipLocalSignature)) {
      FailZip(file_, archive_,
              fmt::format("it begins as a zip archive, but has no end record in its {}, so it is "
                          "truncated",
                          ExactBytes(archive_.bytes)));
    }
    const std::string_view foreign = DescribeForeignFile(ZipText(known));
    if (!foreign.empty()) {
      throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", ShownPath(file_.name()), foreign),
                  {.file = file_.name(), .tensor = {}});
    }
    FailZip(file_, archive_, "it is not a zip archive, as torch.save writes it");
  }

  const InputFile& file_;
  FileRange archive_;
  std::vector<std::byte> tail_;
  std::uint64_t tail_offset_ = 0;
  std::size_t end_ = 0;  // of the end record in tail_
};

}  // namespace

void FailZip(const InputFile& file, FileRange archive, std::string_view problem,
             std::string_view advice) {
  const bool whole = archive.offset == 0 && archive.bytes == file.bytes();
  const std::string where = whole ? "" : fmt::format("the archive at byte {}: ", archive.offset);
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}{}; {}", ShownPath(file.name()), where, problem, advice),
              {.file = file.name(), .tensor = {}});
}

ZipEnd ReadZipEnd(const InputFile& file, FileRange archive) {
  return EndReader(file, archive).Read();
}

}  // namespace dsv3::formats
