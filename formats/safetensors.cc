#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/name_table.h"
#include "formats/safetensors_entries.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kDamaged = "the file is damaged, download it again";
constexpr std::uint64_t kLengthBytes = 8;
// Typical bytes of header for one tensor, to reserve memory once.
constexpr std::size_t kTypicalEntryBytes = 120;

[[noreturn]] void Fail(const std::string& file, const std::string& tensor, std::string message) {
  throw Error(ErrorCode::kBadInput, ShownPath(file) + ": " + std::move(message),
              {.file = file, .tensor = tensor});
}

void RejectDuplicateNames(const std::vector<SafetensorsTensor>& tensors, const std::string& file) {
  NameTable names(tensors.size());
  const auto name_at = [&](std::uint32_t i) -> std::string_view { return tensors[i].name; };
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    if (names.Add(i, HashName(name_at(i)), name_at) == NameTable::kNone) continue;
    Fail(file, tensors[i].name,
         fmt::format(
             "tensor {} appears twice in the header, so it is not clear which one is meant; {}",
             QuoteForMessage(tensors[i].name), kDamaged));
  }
}

void CheckBytes(const SafetensorsTensor& tensor, const std::string& file) {
  const std::optional<std::uint64_t> elements = NumElements(tensor.shape);
  const auto subject = [&] {
    return fmt::format("tensor {} is {} {}", QuoteForMessage(tensor.name), DtypeName(tensor.dtype),
                       ShapeToString(tensor.shape));
  };
  std::uint64_t bits = 0;
  if (!elements || __builtin_mul_overflow(*elements, DtypeBits(tensor.dtype), &bits)) {
    Fail(file, tensor.name,
         fmt::format("{}, whose size overflows 64 bits; {}", subject(), kDamaged));
  }
  if (bits % 8 != 0) {
    Fail(file, tensor.name,
         fmt::format("{}, whose {} bits do not fill whole bytes; {}", subject(), bits, kDamaged));
  }
  if (bits / 8 != tensor.end - tensor.begin) {
    Fail(file, tensor.name,
         fmt::format("{}, which needs {}, but the header gives it bytes [{}, {}), which are "
                     "{}; {}",
                     subject(), ExactBytes(bits / 8), tensor.begin, tensor.end,
                     ExactBytes(tensor.end - tensor.begin), kDamaged));
  }
}

// Offsets must cover the data without hole and overlap, in the order of the sorted tensors.
void CheckLayout(const std::vector<SafetensorsTensor>& tensors, const std::string& file) {
  const SafetensorsTensor* previous = nullptr;
  for (const SafetensorsTensor& tensor : tensors) {
    const std::uint64_t expected = previous == nullptr ? 0 : previous->end;
    const auto fail = [&](std::string_view problem) {
      Fail(file, tensor.name,
           fmt::format("the header gives tensor {} the bytes [{}, {}), {}; {}",
                       QuoteForMessage(tensor.name), tensor.begin, tensor.end, problem, kDamaged));
    };
    if (tensor.end < tensor.begin) fail("which end before they begin");
    if (tensor.begin < expected) {
      fail(fmt::format("which overlap the bytes [{}, {}) of tensor {}", previous->begin,
                       previous->end, QuoteForMessage(previous->name)));
    }
    if (tensor.begin > expected) {
      fail(fmt::format("which leaves a hole: the bytes [{}, {}) before it belong to no tensor",
                       expected, tensor.begin));
    }
    // A message is made only for a tensor with a fault.
    if (NumBytes(tensor.dtype, tensor.shape) != tensor.end - tensor.begin) CheckBytes(tensor, file);
    previous = &tensor;
  }
}

void NoteMisalignment(const SafetensorsHeader& header, HeaderNotes& notes) {
  if (header.data_offset % kLengthBytes != 0) {
    notes.Add("unaligned-header", "", "the header's length is not a multiple of 8");
  }
  for (const SafetensorsTensor& tensor : header.tensors) {
    if (tensor.begin * 8 % DtypeBits(tensor.dtype) != 0 && DtypeBits(tensor.dtype) % 8 == 0) {
      notes.Add("misaligned-tensor", tensor.name,
                "its data begin at an offset that is not a multiple of the element's size");
    }
  }
}

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The header's length, after all checks that need nothing but it and the file's size.
std::uint64_t CheckedHeaderBytes(std::span<const std::byte> prefix, std::uint64_t file_bytes,
                                 const std::string& file) {
  if (file_bytes == 0) Fail(file, "", "the file is empty; download it again");
  const auto fail_foreign = [&] {
    const std::string_view foreign = DescribeNoSafetensors(AsText(prefix));
    if (!foreign.empty()) Fail(file, "", std::string(foreign));
  };
  if (file_bytes < kLengthBytes) {
    fail_foreign();
    Fail(file, "",
         fmt::format("the file has only {}, a safetensors file has 8 and a header; {}",
                     ExactBytes(file_bytes), kDamaged));
  }
  if (prefix.size() < kLengthBytes) {
    throw Error(ErrorCode::kInternal, file + ": the header's length was not read");
  }
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, prefix.data(), sizeof bytes);
  if (bytes > kMaxSafetensorsHeaderBytes) {
    fail_foreign();
    Fail(file, "",
         fmt::format("the first 8 bytes say that the header has {}, the format allows {}; "
                     "the file is damaged or is not a safetensors file, download it again",
                     ExactBytes(bytes), ExactBytes(kMaxSafetensorsHeaderBytes)));
  }
  const bool has_header = prefix.size() > kLengthBytes && AsText(prefix)[kLengthBytes] == '{';
  if ((bytes == 0 || bytes > file_bytes - kLengthBytes) && !has_header) fail_foreign();
  if (bytes == 0) {
    Fail(file, "",
         fmt::format("the first 8 bytes say that the header has 0 bytes, it has at least 2; {}",
                     kDamaged));
  }
  if (bytes > file_bytes - kLengthBytes) {
    Fail(file, "",
         fmt::format("the file ends within its header: it has {}, and the header alone ends "
                     "at byte {}; the download was cut off, continue it or download it again",
                     ExactBytes(file_bytes), kLengthBytes + bytes));
  }
  return bytes;
}

void CheckFileBytes(const SafetensorsHeader& header, std::uint64_t file_bytes,
                    const std::string& file) {
  const std::uint64_t data_end = header.tensors.empty() ? 0 : header.tensors.back().end;
  std::uint64_t expected = 0;
  if (__builtin_add_overflow(header.data_offset, data_end, &expected)) {
    Fail(file, "", fmt::format("the header describes more than 2^64 bytes; {}", kDamaged));
  }
  if (file_bytes < expected) {
    Fail(file, "",
         fmt::format("the file is truncated: it has {}, and its header describes {}, so it "
                     "lacks {} at the end; the download was cut off, continue it or download "
                     "it again",
                     ExactBytes(file_bytes), ExactBytes(expected),
                     ExactBytes(expected - file_bytes)));
  }
  if (file_bytes > expected) {
    Fail(file, "",
         fmt::format(
             "the file has {}, and its header describes {}, so it has {} too many at the end; {}",
             ExactBytes(file_bytes), ExactBytes(expected), ExactBytes(file_bytes - expected),
             kDamaged));
  }
}

}  // namespace

SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> prefix,
                                         std::uint64_t file_bytes, const std::string& file) {
  const std::uint64_t header_bytes = CheckedHeaderBytes(prefix, file_bytes, file);
  SafetensorsHeader header;
  header.data_offset = kLengthBytes + header_bytes;
  if (prefix.size() < header.data_offset) {
    throw Error(ErrorCode::kInternal, file + ": the header was not read to its end");
  }
  const std::string_view text = AsText(prefix.subspan(kLengthBytes, header_bytes));
  HeaderNotes notes;
  if (text[0] == ' ' || text[0] == '\t' || text[0] == '\n' || text[0] == '\r') {
    notes.Add("header-leading-space", "", "the header begins with white space instead of '{'");
  }
  header.tensors.reserve(header_bytes / kTypicalEntryBytes);
  ReadHeaderEntries(text, file, header, notes);
  RejectDuplicateNames(header.tensors, file);
  const auto in_file_order = [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  };
  if (!std::is_sorted(header.tensors.begin(), header.tensors.end(), in_file_order)) {
    std::stable_sort(header.tensors.begin(), header.tensors.end(), in_file_order);
  }
  CheckLayout(header.tensors, file);
  CheckFileBytes(header, file_bytes, file);
  NoteMisalignment(header, notes);
  header.file_bytes = file_bytes;
  header.digest = Xxh3Hex(prefix.first(header.data_offset));
  header.nonconformities = notes.ToFindings(file);
  return header;
}

SafetensorsHeader ReadSafetensorsHeader(const InputFile& file) {
  // Enough to recognise a git-lfs pointer or a web page in the file's place.
  std::array<std::byte, 512> start{};
  const std::span<std::byte> known =
      std::span(start).first(std::min<std::uint64_t>(start.size(), file.bytes()));
  file.ReadAt(0, known);
  const std::uint64_t prefix_bytes =
      kLengthBytes + CheckedHeaderBytes(known, file.bytes(), file.name());
  std::vector<std::byte> prefix(prefix_bytes);
  const std::size_t have = std::min<std::size_t>(known.size(), prefix_bytes);
  std::copy_n(known.begin(), have, prefix.begin());
  file.ReadAt(have, std::span(prefix).subspan(have));
  return ParseSafetensorsHeader(prefix, file.bytes(), file.name());
}

SafetensorsHeader ReadSafetensorsHeader(const std::filesystem::path& path,
                                        const std::string& file) {
  return ReadSafetensorsHeader(InputFile(path, file));
}

}  // namespace dsv3::formats
