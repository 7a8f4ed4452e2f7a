#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/plan/plan.h"
#include "convert/stream/source_files.h"
#include "formats/hash/xxh3.h"

namespace dsv3::convert {

// Compares source tensors with the digests that a plan has for them (Plan::source_digests) while
// the plan's files are made. Most tensors are digested as their bytes are streamed. Those that no
// stream gives whole and in order (several tensors take their bytes, or none does) are read apart,
// before anything is written.
//
// Throws Error (kBadInput) that names file, tensor, digest and expected digest.
class SourceChecks {
 public:
  // For a run that makes `files`. Tensors that no file of the plan takes are checked by the run
  // that makes the first file. Plan and sources must outlive it. Does nothing for plans without
  // digests.
  SourceChecks(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources);

  // The tensors that are read apart, in the order of the disk, and their bytes.
  const std::vector<std::uint32_t>& apart() const { return apart_; }
  std::uint64_t apart_bytes() const;
  // Reads and checks them on `threads` threads, as phase "checking source tensors".
  void CheckApart(unsigned threads, ProgressSink& progress, const StopToken& stop);

  // Bytes of a source tensor from `begin` on. A tensor's bytes come in their order (kInternal
  // otherwise), from one thread at a time; those of different tensors may come from several threads
  // at once. Bytes that this object does not check are ignored, so callers give all bytes that they
  // read.
  void Add(std::uint32_t tensor, std::uint64_t begin, std::span<const std::byte> bytes);
  // No more bytes of the tensor come: reads those behind the last one that came, such as padding,
  // and compares. A tensor that is streamed anew afterwards is checked anew.
  void Finish(std::uint32_t tensor);
  // The same for all sources that an expression streams.
  void FinishSources(const Expression& expression);

 private:
  struct Stream {
    formats::Xxh3 xxh3;
    std::uint64_t next = 0;  // the byte that comes next
  };

  bool IsStreamed(std::uint32_t tensor) const {
    return tensor < streamed_.size() && streamed_[tensor];
  }
  Stream& StreamOf(std::uint32_t tensor);
  void AddRest(std::uint32_t tensor, Stream& stream, ProgressSink* progress, const StopToken* stop);
  void Compare(std::uint32_t tensor, const Stream& stream) const;

  const Plan& plan_;
  SourceFiles& sources_;
  std::vector<bool> streamed_;  // by catalog position: checked while it is streamed
  std::vector<std::uint32_t> apart_;
  std::mutex mutex_;  // guards all below, but not the objects that are pointed to
  std::unordered_map<std::uint32_t, std::unique_ptr<Stream>> streams_;
};

// Throws Error (kBadInput), naming file and tensor, unless a tensor's digest is the expected one.
void RequireSourceDigest(const Catalog& catalog, std::uint32_t tensor, const std::string& expected,
                         const std::string& found);

}  // namespace dsv3::convert
