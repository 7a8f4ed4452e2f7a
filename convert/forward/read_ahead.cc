#include "convert/forward/read_ahead.h"

#include <system_error>
#include <utility>

namespace dsv3::convert {
namespace {

// Requests at the disk at once, beside those of the threads that compute.
constexpr std::size_t kReaders = 6;

}  // namespace

ReadAhead::ReadAhead(Read read, std::size_t slots) : read_(std::move(read)), free_(slots) {}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ReadAhead::Ask(std::span<const TensorRows> rows) {
  const std::lock_guard lock(mutex_);
  for (const TensorRows& one : rows) {
    const auto [place, is_new] = entries_.try_emplace(one.key());
    if (!is_new) continue;
    place->second = std::make_shared<Entry>();
    place->second->rows = one;
    waiting_.push_back(place->second);
  }
  try {
    while (threads_.size() < kReaders) threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error&) {
    // No more threads: those that compute read what is not read ahead.
  }
  changed_.notify_all();
}

bool ReadAhead::IsAsked(const TensorRows& rows) {
  const std::lock_guard lock(mutex_);
  return entries_.contains(rows.key());
}

bool ReadAhead::Take(const TensorRows& rows, RowBytes& bytes) {
  std::unique_lock lock(mutex_);
  const auto found = entries_.find(rows.key());
  if (found == entries_.end()) return false;
  const std::shared_ptr<Entry> entry = found->second;
  entries_.erase(found);
  if (entry->state == Entry::State::kWaiting) {
    entry->state = Entry::State::kLeft;
    return false;
  }
  changed_.wait(lock, [&] { return entry->state == Entry::State::kDone; });
  std::swap(bytes, entry->bytes);
  free_.push_back(std::move(entry->bytes.buffer));
  lock.unlock();
  changed_.notify_all();
  if (entry->error) std::rethrow_exception(entry->error);
  return true;
}

void ReadAhead::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopped_ || (!free_.empty() && !waiting_.empty()); });
    if (stopped_) return;
    const std::shared_ptr<Entry> entry = waiting_.front();
    waiting_.pop_front();
    if (entry->state != Entry::State::kWaiting) continue;
    entry->state = Entry::State::kReading;
    entry->bytes.buffer = std::move(free_.back());
    free_.pop_back();
    lock.unlock();
    try {
      read_(entry->rows, entry->bytes);
    } catch (...) {
      entry->error = std::current_exception();
    }
    lock.lock();
    entry->state = Entry::State::kDone;
    changed_.notify_all();
  }
}

}  // namespace dsv3::convert
