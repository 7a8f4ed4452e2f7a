#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/stream/executor.h"
#include "tests/support/files.h"

namespace dsv3::convert {

// Keeps the files in memory; a test hooks into its calls.
class MemorySink final : public OutputSink {
 public:
  std::function<void(std::size_t file)> on_open = [](std::size_t) {};
  std::function<void(std::size_t file, std::uint64_t offset)> on_write = [](std::size_t,
                                                                            std::uint64_t) {};
  std::function<void(std::size_t file, std::uint64_t offset)> on_read_back = [](std::size_t,
                                                                                std::uint64_t) {};
  std::function<void(std::size_t file)> on_commit = [](std::size_t) {};

  std::unique_ptr<formats::OutputFile> Open(std::size_t file) override {
    on_open(file);
    return std::make_unique<File>(*this, file);
  }
  std::unique_ptr<formats::OutputFile> Reopen(std::size_t file) override {
    const std::lock_guard lock(mutex);
    ++times_reopened[file];
    return std::make_unique<File>(*this, file);
  }
  void Commit(std::size_t file, std::unique_ptr<formats::OutputFile> output,
              FileRecord record) override {
    on_commit(file);
    output.reset();
    const std::lock_guard lock(mutex);
    records[file] = std::move(record);
  }

  std::span<const std::byte> ReadBack(std::size_t file, std::uint64_t offset, std::size_t length,
                                      std::span<std::byte> scratch) override {
    on_read_back(file, offset);
    const std::lock_guard lock(mutex);
    bytes_read_back[file] += length;
    const std::string& content = files.at(file);
    const auto bytes = testing::AsBytes(content).subspan(static_cast<std::size_t>(offset), length);
    std::copy(bytes.begin(), bytes.end(), scratch.begin());
    return scratch.first(length);
  }

  std::mutex mutex;
  std::map<std::size_t, std::string> files;
  std::map<std::size_t, FileRecord> records;
  std::map<std::size_t, std::uint64_t> bytes_read_back;
  struct Write {
    std::uint64_t offset;
    std::uint64_t bytes;
    const void* address;
  };
  std::vector<Write> writes;
  std::set<const void*> buffers;  // from which was written
  std::map<std::size_t, std::size_t> times_reopened;
  std::atomic<std::size_t> num_open = 0;
  std::atomic<std::size_t> most_open = 0;

 private:
  class File final : public formats::OutputFile {
   public:
    File(MemorySink& sink, std::size_t file) : sink_(sink), file_(file) {
      const std::size_t open = ++sink_.num_open;
      std::size_t most = sink_.most_open;
      while (most < open && !sink_.most_open.compare_exchange_weak(most, open)) {
      }
    }
    ~File() override { --sink_.num_open; }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
      sink_.on_write(file_, offset);
      const std::lock_guard lock(sink_.mutex);
      sink_.buffers.insert(data.data());
      sink_.writes.push_back({offset, data.size(), data.data()});
      std::string& content = sink_.files[file_];
      const auto begin = static_cast<std::size_t>(offset);
      content.resize(std::max(content.size(), begin + data.size()));
      content.replace(begin, data.size(), testing::AsString(data));
    }
    void Truncate(std::uint64_t) override { ADD_FAILURE() << "nothing needs to be cut"; }
    void Sync() override {}

   private:
    MemorySink& sink_;
    std::size_t file_;
  };
};

}  // namespace dsv3::convert
