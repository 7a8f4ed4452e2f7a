#include "convert/stream/equal_tensors.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include <fmt/format.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "convert/stream/executor.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kPartBytes = std::uint64_t{1} << 20;
// Files that a thread has open at once, so that hundreds of ranks need no more descriptors.
constexpr std::size_t kOpenFiles = 8;

// Compares the tensors of one group.
class Comparison {
 public:
  Comparison(const Catalog& catalog, const std::vector<std::uint32_t>& group,
             ProgressSink& progress, const StopToken& stop)
      : catalog_(catalog), group_(group), progress_(progress), stop_(stop) {}

  void Run() {
    for (std::size_t begin = 1; begin < group_.size(); begin += kOpenFiles) {
      CompareSome(begin, std::min(begin + kOpenFiles, group_.size()));
    }
  }

 private:
  const CatalogTensor& Tensor(std::size_t i) const { return catalog_.tensors()[group_[i]]; }
  const SourceFile& FileOf(std::size_t i) const { return catalog_.files()[Tensor(i).extent.file]; }
  formats::InputFile Open(std::size_t i) const { return {FileOf(i).path, FileOf(i).name}; }

  [[noreturn]] void Fail(std::size_t other) const {
    const std::string& file = FileOf(other).name;
    const std::string name(catalog_.NameInFile(group_[other]));
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("tensor {}: every rank holds a copy of what ranks share, but that of {} "
                    "is not that of {}; the files are not of one checkpoint, or one is "
                    "damaged: copy them again from where they come from",
                    QuoteForMessage(name), formats::ShownPath(file),
                    formats::ShownPath(FileOf(0).name)),
        {file, name});
  }

  void CompareSome(std::size_t begin, std::size_t end) {
    const CatalogTensor& first = Tensor(0);
    std::vector<formats::InputFile> others;
    for (std::size_t i = begin; i < end; ++i) {
      if (Tensor(i).dtype != first.dtype || Tensor(i).shape != first.shape) Fail(i);
      others.push_back(Open(i));
    }
    const formats::InputFile file = Open(0);
    std::vector<std::byte> part(std::min(kPartBytes, first.extent.length));
    std::vector<std::byte> other(part.size());
    for (std::uint64_t at = 0; at < first.extent.length; at += kPartBytes) {
      if (stop_.stopped()) ThrowInterrupted();
      const auto bytes = static_cast<std::size_t>(std::min(kPartBytes, first.extent.length - at));
      file.ReadAt(first.extent.offset + at, std::span(part).first(bytes));
      for (std::size_t i = begin; i < end; ++i) {
        const formats::InputFile& with = others[i - begin];
        with.ReadAt(Tensor(i).extent.offset + at, std::span(other).first(bytes));
        if (!std::equal(part.begin(), part.begin() + static_cast<std::ptrdiff_t>(bytes),
                        other.begin())) {
          Fail(i);
        }
        progress_.OnBytes(bytes, with.name());
      }
    }
  }

  const Catalog& catalog_;
  const std::vector<std::uint32_t>& group_;
  ProgressSink& progress_;
  const StopToken& stop_;
};

}  // namespace

void RequireEqualTensors(const Catalog& catalog, std::span<const std::vector<std::uint32_t>> groups,
                         unsigned threads, ProgressSink& progress, const StopToken& stop) {
  std::uint64_t bytes = 0;
  for (const std::vector<std::uint32_t>& group : groups) {
    bytes += (group.size() - 1) * catalog.tensors()[group.front()].extent.length;
  }
  if (groups.empty()) return;
  progress.OnPhase("comparing the copies of ranks", bytes);
  tbb::task_arena arena(static_cast<int>(ResolveThreads(threads)));
  arena.execute([&] {
    tbb::parallel_for(std::size_t{0}, groups.size(),
                      [&](std::size_t i) { Comparison(catalog, groups[i], progress, stop).Run(); });
  });
}

}  // namespace dsv3::convert
