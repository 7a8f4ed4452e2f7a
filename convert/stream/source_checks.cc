#include "convert/stream/source_checks.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "convert/plan/slice_expression.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kReadBytes = std::uint64_t{4} << 20;

// How the expressions of some files take the bytes of source tensors.
class Uses {
 public:
  explicit Uses(const Plan& plan) : plan_(plan) {}

  void AddFile(const PlannedFile& file) {
    for (const PlannedTensor& tensor : file.tensors) {
      const SliceExpression* const slice = tensor.expression->slice();
      if (!plan_.shared_reads || slice == nullptr) {
        Add(*tensor.expression);
        continue;
      }
      // Slices share the bytes of their origins.
      for (const SlicePart& part : slice->parts()) {
        if (origins_.insert(part.origin.get()).second) Add(*part.origin);
      }
    }
  }

  bool Has(std::uint32_t tensor) const { return uses_.count(tensor) != 0; }

  // Whether a tensor's bytes come in their order, and from its first one on.
  bool InOrder(std::uint32_t tensor) const {
    const auto use = uses_.find(tensor);
    return use != uses_.end() && use->second.streamed && use->second.ranges == 1 &&
           use->second.first == 0;
  }

 private:
  struct Use {
    bool streamed = false;
    std::uint64_t ranges = 0;
    std::uint64_t first = 0;
  };

  void Add(const Expression& expression) {
    for (const std::uint32_t source : expression.streamed_sources()) uses_[source].streamed = true;
    for (const std::uint32_t source : expression.side_sources()) uses_[source];
    if (expression.num_bytes() == 0 || expression.maker() != nullptr) return;
    reads_.clear();
    expression.AppendReads(0, expression.num_bytes(), reads_);
    for (const SourceRange& range : reads_) {
      Use& use = uses_[range.tensor];
      ++use.ranges;
      use.first = range.begin;
    }
  }

  const Plan& plan_;
  std::unordered_set<const Expression*> origins_;
  std::unordered_map<std::uint32_t, Use> uses_;
  std::vector<SourceRange> reads_;
};

}  // namespace

SourceChecks::SourceChecks(const Plan& plan, std::span<const std::size_t> files,
                           SourceFiles& sources)
    : plan_(plan), sources_(sources) {
  if (plan.source_digests.empty()) return;
  const Catalog& catalog = sources.catalog();
  Uses uses(plan);
  for (const std::size_t file : files) uses.AddFile(plan.files[file]);
  const bool makes_first = std::find(files.begin(), files.end(), 0U) != files.end();
  std::vector<bool> ours(plan.files.size(), false);
  for (const std::size_t file : files) ours[file] = true;
  Uses others(plan);
  for (std::size_t file = 0; makes_first && file < ours.size(); ++file) {
    if (!ours[file]) others.AddFile(plan.files[file]);
  }
  streamed_.resize(catalog.tensors().size());
  for (const auto& [tensor, digest] : plan.source_digests) {
    if (uses.InOrder(tensor)) {
      streamed_.at(tensor) = true;
    } else if (uses.Has(tensor) || (makes_first && !others.Has(tensor))) {
      apart_.push_back(tensor);
    }
  }
  std::sort(apart_.begin(), apart_.end(), [&](std::uint32_t a, std::uint32_t b) {
    const Extent& x = catalog.tensors()[a].extent;
    const Extent& y = catalog.tensors()[b].extent;
    return std::tie(x.file, x.offset, a) < std::tie(y.file, y.offset, b);
  });
}

std::uint64_t SourceChecks::apart_bytes() const {
  std::uint64_t bytes = 0;
  for (const std::uint32_t tensor : apart_) {
    bytes += sources_.catalog().tensors()[tensor].extent.length;
  }
  return bytes;
}

void SourceChecks::CheckApart(unsigned threads, ProgressSink& progress, const StopToken& stop) {
  if (apart_.empty()) return;
  progress.OnPhase("checking source tensors", apart_bytes());
  const tbb::global_control parallelism(tbb::global_control::max_allowed_parallelism, threads);
  tbb::task_arena arena(static_cast<int>(threads));
  arena.execute([&] {
    tbb::parallel_for(std::size_t{0}, apart_.size(), [&](std::size_t i) {
      Stream stream;
      AddRest(apart_[i], stream, &progress, &stop);
      Compare(apart_[i], stream);
    });
  });
}

SourceChecks::Stream& SourceChecks::StreamOf(std::uint32_t tensor) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Stream>& stream = streams_[tensor];
  if (!stream) stream = std::make_unique<Stream>();
  return *stream;
}

void SourceChecks::Add(std::uint32_t tensor, std::uint64_t begin,
                       std::span<const std::byte> bytes) {
  if (!IsStreamed(tensor)) return;
  Stream& stream = StreamOf(tensor);
  if (begin != stream.next) {
    const std::string& name = sources_.catalog().tensors()[tensor].name;
    throw Error(ErrorCode::kInternal,
                fmt::format("{}: byte {} came to be checked, expected byte {}",
                            QuoteForMessage(name), begin, stream.next),
                {"", name});
  }
  stream.xxh3.Update(bytes);
  stream.next += bytes.size();
}

void SourceChecks::Finish(std::uint32_t tensor) {
  if (!IsStreamed(tensor)) return;
  Stream& stream = StreamOf(tensor);
  AddRest(tensor, stream, nullptr, nullptr);
  Compare(tensor, stream);
  const std::lock_guard lock(mutex_);
  streams_.erase(tensor);
}

void SourceChecks::FinishSources(const Expression& expression) {
  if (streamed_.empty()) return;
  for (const std::uint32_t source : expression.streamed_sources()) Finish(source);
}

void SourceChecks::AddRest(std::uint32_t tensor, Stream& stream, ProgressSink* progress,
                           const StopToken* stop) {
  const Extent& extent = sources_.catalog().tensors()[tensor].extent;
  if (stream.next >= extent.length) return;
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  while (stream.next < extent.length) {
    if (stop != nullptr && stop->stopped()) ThrowInterrupted();
    const std::uint64_t end = stream.next + std::min(kReadBytes, extent.length - stream.next);
    const SourceRange range = {tensor, stream.next, end};
    sources_.Read(std::span(&range, 1), buffer, inputs);
    stream.xxh3.Update(inputs[0]);
    stream.next = end;
    if (progress != nullptr) {
      progress->OnBytes(inputs[0].size(), sources_.catalog().files()[extent.file].name);
    }
  }
}

void SourceChecks::Compare(std::uint32_t tensor, const Stream& stream) const {
  RequireSourceDigest(sources_.catalog(), tensor, plan_.source_digests.at(tensor),
                      stream.xxh3.Hex());
}

void RequireSourceDigest(const Catalog& catalog, std::uint32_t tensor, const std::string& expected,
                         const std::string& found) {
  if (found == expected) return;
  const std::string file = catalog.files()[catalog.tensors()[tensor].extent.file].DisplayName();
  const std::string name(catalog.NameInFile(tensor));
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: the bytes of {} have the XXH3-128 digest {}, expected {}; the file "
                          "is damaged or of another job: copy it again from where it was made, "
                          "and run the command again with --overwrite",
                          formats::ShownPath(file), QuoteForMessage(name), found, expected),
              {file, name});
}

}  // namespace dsv3::convert
