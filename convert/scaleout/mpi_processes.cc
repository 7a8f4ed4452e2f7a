#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mpi.h>
#include <pthread.h>

#include "convert/scaleout/process_group.h"
#include "formats/error.h"

// One thread of each process, the messenger, makes all calls of MPI between init and finalize
// (MPI_THREAD_SERIALIZED); the others leave it messages and wait for what comes. So a process
// answers within milliseconds whatever its other threads do, and nobody waits inside MPI for a
// process that has failed.
namespace dsv3::convert {
namespace {

constexpr std::chrono::milliseconds kPoll{1};

// What a message is, as its MPI tag.
enum class Tag : int {
  kText = 1,  // from process 0: of a broadcast; to it: of a gathering
  kAsk,       // to process 0: for the next number
  kNumber,    // from process 0
  kBytes,     // to process 0: that many more bytes are done
  kFail,      // to process 0: an exit code
  kVerdict,   // from process 0: how the group ends
  kEnd,       // to process 0: nothing more comes
};

struct Message {
  int peer = 0;
  Tag tag = Tag::kText;
  std::string content;
};

// How the group ends: which process failed first, with which code; code 0 when none did.
struct Verdict {
  std::int32_t process = 0;
  std::int32_t exit_code = 0;
};

template <typename T>
std::string BytesOf(const T& value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

template <typename T>
T ValueOf(const std::string& bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof(T), bytes.size()));
  return value;
}

// Keeps signals that end a job from the threads that are started meanwhile: they are for the one
// thread that watches them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

class MpiProcesses final : public ProcessGroup {
 public:
  MpiProcesses() {
    const SignalsBlocked blocked;
    int provided = MPI_THREAD_SINGLE;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &process_);
    MPI_Comm_size(MPI_COMM_WORLD, &processes_);
    if (provided < MPI_THREAD_SERIALIZED) MPI_Abort(MPI_COMM_WORLD, kNoThreads);
    gathered_.resize(processes());
    messenger_ = std::thread([this] { Work(); });
  }

  std::size_t process() const override { return static_cast<std::size_t>(process_); }
  std::size_t processes() const override { return static_cast<std::size_t>(processes_); }

  std::string Broadcast(const std::string& text) override {
    std::unique_lock lock(mutex_);
    if (process_ == 0) {
      SendToAll(Tag::kText, text);
      return text;
    }
    Await(lock, [&] { return !texts_.empty(); });
    std::string received = std::move(texts_.front());
    texts_.pop_front();
    return received;
  }

  std::vector<std::string> Gather(const std::string& text) override {
    std::unique_lock lock(mutex_);
    if (process_ != 0) {
      SendBytes();
      Send({0, Tag::kText, text});
      return {};
    }
    gathered_[0] = text;
    Await(lock, [&] {
      return std::all_of(gathered_.begin(), gathered_.end(),
                         [](const auto& each) { return each.has_value(); });
    });
    std::vector<std::string> texts;
    for (std::optional<std::string>& each : gathered_) {
      texts.push_back(std::move(*each));
      each.reset();
    }
    return texts;
  }

  std::uint64_t Next() override {
    std::unique_lock lock(mutex_);
    if (process_ == 0) return next_++;
    number_.reset();
    Send({0, Tag::kAsk, ""});
    Await(lock, [&] { return number_.has_value(); });
    return *number_;
  }

  void AddBytes(std::uint64_t bytes) override { bytes_.fetch_add(bytes); }

  void ShowBytes(ProgressSink* progress) override {
    const std::lock_guard lock(mutex_);
    progress_ = progress;
  }

  void SetOnStop(std::function<void()> on_stop) override {
    const std::lock_guard lock(mutex_);
    on_stop_ = std::move(on_stop);
    if (HasFailed() && on_stop_) on_stop_();
  }

  bool Fail(int exit_code) override {
    std::unique_lock lock(mutex_);
    if (process_ == 0) {
      Judge({0, exit_code});
    } else {
      Send({0, Tag::kFail, BytesOf(std::int32_t{exit_code})});
      changed_.wait(lock, [&] { return verdict_.has_value(); });
    }
    return verdict_->process == process_;
  }

  int End() override {
    {
      std::unique_lock lock(mutex_);
      on_stop_ = nullptr;
      if (process_ == 0) {
        changed_.wait(lock, [&] { return ended_ == processes_ - 1; });
        if (!verdict_) Judge({0, 0});
      } else {
        Send({0, Tag::kEnd, ""});
        changed_.wait(lock, [&] { return verdict_.has_value(); });
      }
      leaving_ = true;
      changed_.notify_all();
    }
    messenger_.join();
    MPI_Finalize();
    return verdict_->exit_code;
  }

  // Without End: this process is going down in some other way, and takes the others with it.
  ~MpiProcesses() override {
    if (messenger_.joinable()) MPI_Abort(MPI_COMM_WORLD, kNoEnd);
  }

 private:
  static constexpr int kNoThreads = 70;  // exit codes of bugs
  static constexpr int kNoEnd = 70;

  struct Sending {
    MPI_Request request = MPI_REQUEST_NULL;
    std::string content;
  };

  // All that follow are called with the mutex held, but for Work and what it says.

  bool HasFailed() const { return verdict_ && verdict_->exit_code != 0; }

  template <typename Condition>
  void Await(std::unique_lock<std::mutex>& lock, const Condition& condition) {
    changed_.wait(lock, [&] { return condition() || HasFailed(); });
    if (HasFailed()) throw Error(ErrorCode::kInterrupted, "another process of this run failed");
  }

  void Send(Message message) {
    outbox_.push_back(std::move(message));
    changed_.notify_all();
  }
  void SendToAll(Tag tag, const std::string& content) {
    for (int peer = 1; peer < processes_; ++peer) outbox_.push_back({peer, tag, content});
    changed_.notify_all();
  }

  // What a helper has done since its last message.
  void SendBytes() {
    if (const std::uint64_t bytes = bytes_.exchange(0); bytes != 0) {
      Send({0, Tag::kBytes, BytesOf(bytes)});
    }
  }

  // Process 0: the first that is said of the group's end holds.
  void Judge(Verdict verdict) {
    if (verdict_) return;
    verdict_ = verdict;
    SendToAll(Tag::kVerdict, BytesOf(verdict));
    if (verdict.exit_code != 0 && on_stop_) on_stop_();
  }

  void Receive(Message message) {
    switch (message.tag) {
      case Tag::kText:
        if (process_ == 0) {
          gathered_[static_cast<std::size_t>(message.peer)] = std::move(message.content);
        } else {
          texts_.push_back(std::move(message.content));
        }
        break;
      case Tag::kAsk:
        outbox_.push_back({message.peer, Tag::kNumber, BytesOf(next_++)});
        break;
      case Tag::kNumber:
        number_ = ValueOf<std::uint64_t>(message.content);
        break;
      case Tag::kBytes:
        if (progress_ != nullptr) progress_->OnBytes(ValueOf<std::uint64_t>(message.content), "");
        break;
      case Tag::kFail:
        Judge({message.peer, ValueOf<std::int32_t>(message.content)});
        break;
      case Tag::kVerdict:
        verdict_ = ValueOf<Verdict>(message.content);
        if (HasFailed() && on_stop_) on_stop_();
        break;
      case Tag::kEnd:
        ++ended_;
        break;
    }
    changed_.notify_all();
  }

  // The messenger's life.
  void Work() {
    std::list<Sending> sendings;
    while (true) {
      bool idle = true;
      {
        std::unique_lock lock(mutex_);
        SendBytes();
        if (outbox_.empty() && sendings.empty() && leaving_) return;
        for (; !outbox_.empty(); outbox_.pop_front()) StartSending(outbox_.front(), sendings);
      }
      sendings.remove_if([&](Sending& sending) {
        int done = 0;
        MPI_Test(&sending.request, &done, MPI_STATUS_IGNORE);
        return done != 0;
      });
      if (std::optional<Message> message = TakeMessage()) {
        idle = false;
        const std::lock_guard lock(mutex_);
        Receive(std::move(*message));
      }
      if (!idle) continue;
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kPoll, [&] { return !outbox_.empty(); });
    }
  }

  static void StartSending(Message& message, std::list<Sending>& sendings) {
    if (message.content.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
      MPI_Abort(MPI_COMM_WORLD, kNoEnd);
    }
    Sending& sending = sendings.emplace_back();
    sending.content = std::move(message.content);
    MPI_Isend(sending.content.data(), static_cast<int>(sending.content.size()), MPI_BYTE,
              message.peer, static_cast<int>(message.tag), MPI_COMM_WORLD, &sending.request);
    // Work tests the request until it is done.
  }  // NOLINT(clang-analyzer-optin.mpi.MPI-Checker)

  static std::optional<Message> TakeMessage() {
    int there = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &there, &status);
    if (there == 0) return std::nullopt;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    Message message{status.MPI_SOURCE, static_cast<Tag>(status.MPI_TAG),
                    std::string(static_cast<std::size_t>(bytes), '\0')};
    MPI_Recv(message.content.data(), bytes, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG,
             MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return message;
  }

  int process_ = 0;
  int processes_ = 1;
  std::thread messenger_;
  std::atomic<std::uint64_t> bytes_{0};  // done and not yet reported
  std::mutex mutex_;                     // guards what follows
  std::condition_variable changed_;
  std::deque<Message> outbox_;
  std::optional<Verdict> verdict_;
  std::function<void()> on_stop_;
  bool leaving_ = false;
  // Process 0:
  std::uint64_t next_ = 0;
  std::vector<std::optional<std::string>> gathered_;
  int ended_ = 0;  // helpers from which nothing more comes
  ProgressSink* progress_ = nullptr;
  // Helpers:
  std::deque<std::string> texts_;
  std::optional<std::uint64_t> number_;
};

}  // namespace

std::unique_ptr<ProcessGroup> JoinProcessGroup() {
  // Without mpirun MPI is left alone: its start takes time and can fail where it is not set up.
  const char* const processes = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (processes == nullptr || std::string(processes) == "1") return nullptr;
  return std::make_unique<MpiProcesses>();
}

}  // namespace dsv3::convert
