#include "convert/model/zero_runs.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "convert/catalog/ceil_div.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kPageBytes = 4096;

std::size_t ZerosAtFront(std::span<const std::byte> bytes) {
  std::size_t zeros = 0;
  std::uint64_t word = 0;
  while (bytes.size() - zeros >= sizeof(word)) {
    std::memcpy(&word, bytes.data() + zeros, sizeof(word));
    if (word != 0) break;
    zeros += sizeof(word);
  }
  while (zeros < bytes.size() && bytes[zeros] == std::byte{0}) ++zeros;
  return zeros;
}

std::size_t ZerosAtBack(std::span<const std::byte> bytes) {
  std::size_t zeros = 0;
  while (zeros < bytes.size() && bytes[bytes.size() - 1 - zeros] == std::byte{0}) ++zeros;
  return zeros;
}

// Whether rows [first, last) of a vocabulary are just what one or several of 32 ranks or more
// hold, where the vocabulary may be padded to a multiple of 64 first. Slices of fewer rows say
// nothing: other runs have their borders by chance.
bool AreSlicesOfManyRanks(std::uint64_t rows, std::uint64_t first, std::uint64_t last) {
  constexpr std::array<std::uint64_t, 5> kRanks = {32, 64, 128, 256, 320};
  constexpr std::uint64_t kLeastSlice = 32;
  constexpr std::uint64_t kPadding = 64;
  for (const std::uint64_t ranks : kRanks) {
    for (const std::uint64_t padded : {rows, CeilDiv(rows, kPadding) * kPadding}) {
      const std::uint64_t slice = padded / ranks;
      if (padded % ranks != 0 || slice < kLeastSlice || first % slice != 0) continue;
      if (last % slice == 0 || last == rows) return true;
    }
  }
  return false;
}

}  // namespace

bool IsVocabulary(std::string_view name) {
  constexpr std::array<std::string_view, 9> kModules = {
      "embed_tokens",   "lm_head",         "head",        "embed",  // Hugging Face, DeepSeek's demo
      "token_embd",     "output",                                   // GGUF
      "tok_embeddings", "word_embeddings", "output_layer"};         // torchtitan, Megatron
  if (!name.ends_with(".weight")) return false;
  name.remove_suffix(std::string_view(".weight").size());
  const std::string_view module = name.substr(name.rfind('.') + 1);
  return std::find(kModules.begin(), kModules.end(), module) != kModules.end();
}

std::uint64_t LeastZeroRun(formats::Dtype dtype) {
  if (dtype == formats::Dtype::kI32) return kPageBytes / 4;
  return formats::DtypeBits(dtype) <= 8 ? kPageBytes / 2 : kPageBytes;
}

void ZeroRuns::Add(std::uint64_t first, std::span<const std::byte> bytes) {
  const auto add = [&](std::size_t begin, std::size_t end) {
    if (begin < end) runs_.push_back({first + begin, first + end});
  };
  std::size_t done = ZerosAtFront(bytes);
  add(0, done);
  if (done == bytes.size()) return;
  std::size_t back = bytes.size();  // where the run at the end of the piece begins
  // A run that is long enough has a zero at one of these places.
  const auto step = static_cast<std::size_t>(std::max<std::uint64_t>(1, least_ / 2));
  for (std::size_t at = done + step; at < bytes.size(); at += step) {
    if (bytes[at] != std::byte{0}) continue;
    const std::size_t begin = at - ZerosAtBack(bytes.subspan(done, at - done));
    const std::size_t end = at + ZerosAtFront(bytes.subspan(at));
    if (end == bytes.size()) {
      back = begin;
    } else if (end - begin >= least_) {
      add(begin, end);
    }
    done = end;
    at = end;
  }
  if (back == bytes.size()) back -= ZerosAtBack(bytes.subspan(done));
  add(back, bytes.size());
}

void ZeroRuns::Add(const ZeroRuns& pieces) {
  least_ = std::max(least_, pieces.least_);
  runs_.insert(runs_.end(), pieces.runs_.begin(), pieces.runs_.end());
}

std::vector<ZeroRun> ZeroRuns::Find() const {
  std::vector<ZeroRun> sorted = runs_;
  std::sort(sorted.begin(), sorted.end(),
            [](const ZeroRun& a, const ZeroRun& b) { return a.begin < b.begin; });
  std::vector<ZeroRun> found;
  for (const ZeroRun& run : sorted) {
    if (!found.empty() && found.back().end == run.begin) {
      found.back().end = run.end;
    } else {
      found.push_back(run);
    }
  }
  std::erase_if(found, [&](const ZeroRun& run) { return run.end - run.begin < least_; });
  return found;
}

ZeroRunKind KindOfZeroRun(std::string_view name, formats::Dtype dtype, const formats::Shape& shape,
                          const ZeroRun& run) {
  // Values beside a run may be zero by chance.
  constexpr std::uint64_t kByChance = 8;
  if (shape.size() < 2) return ZeroRunKind::kHole;
  const std::uint64_t bits = formats::DtypeBits(dtype);
  const std::uint64_t row_bytes = shape.back() * bits / 8;
  const std::uint64_t rows = shape[shape.size() - 2];
  if (row_bytes == 0 || rows == 0) return ZeroRunKind::kHole;
  const std::uint64_t first = CeilDiv(run.begin, row_bytes);
  const std::uint64_t last = run.end / row_bytes;
  const std::uint64_t by_chance = kByChance * CeilDiv(bits, 8);
  if (first >= last || first * row_bytes - run.begin > by_chance ||
      run.end - last * row_bytes > by_chance) {
    return ZeroRunKind::kHole;
  }
  const std::uint64_t count = last - first;
  const bool at_end = last % rows == 0 && count <= rows / 2;
  if (IsVocabulary(name)) {
    // A rank's slice is larger; tokens that were never given out are fewer.
    constexpr std::uint64_t kSliceShare = 16;
    const bool is_small = count < CeilDiv(rows, kSliceShare);
    if (count != 1 && is_small && AreSlicesOfManyRanks(rows, first, last)) {
      return at_end ? ZeroRunKind::kRows : ZeroRunKind::kHole;
    }
    if (count == 1 || (at_end && is_small)) return ZeroRunKind::kPadding;
    return at_end || is_small ? ZeroRunKind::kRows : ZeroRunKind::kHole;
  }
  const bool at_half = name.ends_with("gate_up_proj") || name.ends_with("gate_up_proj.weight")
                           ? last % CeilDiv(rows, 2) == 0 && count <= rows / 4
                           : false;
  const bool whole_matrices = shape.size() > 2 && first % rows == 0 && last % rows == 0;
  const bool may_be_real = count == 1 || at_end || at_half || whole_matrices;
  return may_be_real ? ZeroRunKind::kRows : ZeroRunKind::kHole;
}

}  // namespace dsv3::convert
