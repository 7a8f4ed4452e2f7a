#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/plan/derived_tensors.h"
#include "convert/plan/expression.h"
#include "convert/stream/archive_checks.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/input_file.h"

namespace dsv3::convert {

// The source files of a catalog, opened when needed; a bounded number stays open, whatever the
// number of files, and fewer where the process may have few descriptors. Derived tensors are made
// of the stored ones that their origins name; a reader uses them like all others. Reading them
// takes memory beside the buffer, for the bytes that their origins read. Thread-safe.
class SourceFiles {
 public:
  static constexpr std::size_t kMaxOpen = 48;

  // `catalog` and what `derived` refers to outlive the object.
  explicit SourceFiles(const Catalog& catalog, const std::vector<DerivedTensors>& derived = {});

  // Throws Error (kBadInput) when the file changed since the catalog was made.
  std::shared_ptr<const formats::InputFile> Get(std::uint32_t file);

  // Reads the ranges into `buffer`, which grows as needed, and sets `inputs[i]` to the bytes of
  // `ranges[i]`. Neighbouring ranges are read in one request; beyond the ranges' own bytes and
  // their alignment the buffer takes 16 KiB at most. The spans are valid until the buffer
  // is used again. Throws Error (kBadInput) as ArchiveChecks does.
  void Read(std::span<const SourceRange> ranges, formats::AlignedBuffer& buffer,
            std::vector<std::span<const std::byte>>& inputs);

  // Calls `observer` with the stored bytes that derived tensors are made of from now on, on the
  // threads that read. Not while a thread reads.
  using StoredObserver = std::function<void(const SourceRange&, std::span<const std::byte>)>;
  void ObserveStored(StoredObserver observer) { observer_ = std::move(observer); }

  // Closes the file, so that removing it frees its space.
  void Close(std::uint32_t file);

  const Catalog& catalog() const { return catalog_; }
  // The files as they lie on the disk: these or, where the catalog's first tensors are derived
  // ones, those of the stored tensors.
  SourceFiles& stored();
  // Bytes read from files; for derived tensors the bytes that their origins read.
  std::uint64_t bytes_read() const;

 private:
  struct Open {
    std::uint32_t file;
    std::shared_ptr<const formats::InputFile> input;
  };

  // Derived tensors with the files of the stored tensors that they are made of.
  struct Derived {
    DerivedTensors tensors;
    std::unique_ptr<SourceFiles> stored;
  };

  const Derived* DerivedOf(std::uint32_t tensor) const;
  void Make(const Derived& derived, const SourceRange& range, std::span<std::byte> out) const;

  const Catalog& catalog_;
  std::vector<Derived> derived_;
  const std::size_t max_open_;
  ArchiveChecks checks_;
  StoredObserver observer_;
  std::mutex mutex_;
  std::list<Open> open_;  // most recently used first
  std::atomic<std::uint64_t> bytes_read_{0};
};

}  // namespace dsv3::convert
