#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "convert/job/work_sharing.h"
#include "formats/error.h"

namespace dsv3::testing {

// A group of "processes" that are threads of this one, each with the WorkSharing of its own.
class ThreadGroup {
 public:
  explicit ThreadGroup(std::size_t processes) : state_(processes) {}

  // Runs `call` once for each process, side by side. Returns their errors: nothing for those that
  // ended well. The first error ends the waiting of all others.
  std::vector<std::optional<Error>> Run(
      const std::function<void(convert::WorkSharing& sharing)>& call) {
    std::vector<std::optional<Error>> errors(state_.processes);
    std::vector<std::thread> threads;
    for (std::size_t process = 0; process < state_.processes; ++process) {
      threads.emplace_back([&, process] {
        Member member(state_, process);
        try {
          call(member);
        } catch (const Error& error) {
          errors[process] = error;
          const std::lock_guard lock(state_.mutex);
          state_.failed = true;
          state_.changed.notify_all();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
  }

  // How many numbers each process asked for.
  const std::vector<std::uint64_t>& asked() const { return state_.asked; }

 private:
  struct State {
    explicit State(std::size_t count) : processes(count), texts(count), gathered(count) {
      asked.resize(count);
    }
    const std::size_t processes;
    std::mutex mutex;
    std::condition_variable changed;
    bool failed = false;
    std::uint64_t next = 0;
    std::vector<std::uint64_t> asked;
    std::vector<std::deque<std::string>> texts;
    std::vector<std::optional<std::string>> gathered;
    convert::ProgressSink* progress = nullptr;
  };

  class Member final : public convert::WorkSharing {
   public:
    Member(State& state, std::size_t process) : state_(state), process_(process) {}

    std::size_t process() const override { return process_; }
    std::size_t processes() const override { return state_.processes; }

    std::string Broadcast(const std::string& text) override {
      std::unique_lock lock(state_.mutex);
      if (process_ == 0) {
        for (std::deque<std::string>& each : state_.texts) each.push_back(text);
        state_.changed.notify_all();
      }
      std::deque<std::string>& mine = state_.texts[process_];
      Await(lock, [&] { return !mine.empty(); });
      std::string received = std::move(mine.front());
      mine.pop_front();
      return received;
    }

    std::vector<std::string> Gather(const std::string& text) override {
      std::unique_lock lock(state_.mutex);
      state_.gathered[process_] = text;
      state_.changed.notify_all();
      if (process_ != 0) return {};
      std::vector<std::string> texts;
      for (std::optional<std::string>& each : state_.gathered) {
        Await(lock, [&] { return each.has_value(); });
        texts.push_back(std::move(*each));
        each.reset();
      }
      return texts;
    }

    std::uint64_t Next() override {
      const std::lock_guard lock(state_.mutex);
      ++state_.asked[process_];
      return state_.next++;
    }

    void AddBytes(std::uint64_t bytes) override {
      const std::lock_guard lock(state_.mutex);
      if (state_.progress != nullptr) state_.progress->OnBytes(bytes, "");
    }
    void ShowBytes(convert::ProgressSink* progress) override {
      const std::lock_guard lock(state_.mutex);
      state_.progress = progress;
    }

   private:
    template <typename Condition>
    void Await(std::unique_lock<std::mutex>& lock, const Condition& condition) {
      state_.changed.wait(lock, [&] { return condition() || state_.failed; });
      if (!condition()) throw Error(ErrorCode::kInterrupted, "another process of this run failed");
    }

    State& state_;
    const std::size_t process_;
  };

  State state_;
};

}  // namespace dsv3::testing
