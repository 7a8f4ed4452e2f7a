#include "tests/support/recording_file_system.h"

#include <utility>

#include <fmt/format.h>

#include "tests/support/disk_model.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

const char* Name(Operation::Kind kind) {
  using Kind = Operation::Kind;
  switch (kind) {
    case Kind::kCreate:
      return "create";
    case Kind::kOpenExisting:
      return "open";
    case Kind::kWrite:
      return "write";
    case Kind::kTruncate:
      return "truncate";
    case Kind::kSync:
      return "sync";
    case Kind::kRename:
      return "rename";
    case Kind::kRemove:
      return "remove";
    case Kind::kCreateDirectory:
      return "create directory";
    case Kind::kRemoveDirectory:
      return "remove directory";
    case Kind::kSyncDirectory:
      return "sync directory";
  }
  return "?";
}

}  // namespace

std::string ToString(Crash crash) {
  switch (crash) {
    case Crash::kKeepAll:
      return "kKeepAll";
    case Crash::kLoseUnsynced:
      return "kLoseUnsynced";
    case Crash::kLoseDataKeepNames:
      return "kLoseDataKeepNames";
    case Crash::kZeroDataKeepNames:
      return "kZeroDataKeepNames";
    case Crash::kKeepDataLoseNames:
      return "kKeepDataLoseNames";
  }
  return "?";
}

std::string ToString(const Operation& operation) {
  std::string text = fmt::format("{} {}", Name(operation.kind), operation.path);
  switch (operation.kind) {
    case Operation::Kind::kWrite:
      return text +
             fmt::format(" [{}, {})", operation.offset, operation.offset + operation.data.size());
    case Operation::Kind::kTruncate:
      return text + fmt::format(" to {} bytes", operation.offset);
    case Operation::Kind::kRename:
      return text + " to " + operation.to;
    default:
      return text;
  }
}

class RecordingFileSystem::File final : public formats::OutputFile {
 public:
  File(RecordingFileSystem& owner, std::string path, std::size_t handle,
       std::unique_ptr<formats::OutputFile> inner)
      : owner_(owner), path_(std::move(path)), handle_(handle), inner_(std::move(inner)) {}

  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    const std::lock_guard lock(owner_.mutex_);
    inner_->WriteAt(offset, data);
    Record({.kind = Operation::Kind::kWrite,
            .path = path_,
            .handle = handle_,
            .offset = offset,
            .data = AsString(data)});
  }
  void Truncate(std::uint64_t bytes) override {
    const std::lock_guard lock(owner_.mutex_);
    inner_->Truncate(bytes);
    Record({.kind = Operation::Kind::kTruncate, .path = path_, .handle = handle_, .offset = bytes});
  }
  void Sync() override {
    const std::lock_guard lock(owner_.mutex_);
    inner_->Sync();
    Record({.kind = Operation::Kind::kSync, .path = path_, .handle = handle_});
  }

 private:
  void Record(Operation operation) { owner_.operations_.push_back(std::move(operation)); }

  RecordingFileSystem& owner_;
  const std::string path_;
  const std::size_t handle_;
  std::unique_ptr<formats::OutputFile> inner_;
};

RecordingFileSystem::RecordingFileSystem(formats::FileSystem& inner,
                                         const std::filesystem::path& root)
    : inner_(inner), root_(root.lexically_normal()), base_(ReadTree(root)) {}

RecordingFileSystem::~RecordingFileSystem() = default;

void RecordingFileSystem::Replay(std::size_t count, Crash crash,
                                 const std::filesystem::path& into) const {
  DiskModel model(base_);
  for (std::size_t i = 0; i < count; ++i) model.Apply(operations_.at(i));
  model.Materialise(crash, into);
}

bool RecordingFileSystem::IsRecorded(const std::filesystem::path& path,
                                     std::string& relative) const {
  std::filesystem::path from_root = path.lexically_normal().lexically_relative(root_);
  if (from_root.filename().empty()) from_root = from_root.parent_path();  // a trailing slash
  relative = from_root.string();
  return !relative.empty() && *from_root.begin() != "..";
}

std::unique_ptr<formats::OutputFile> RecordingFileSystem::Wrap(
    Operation::Kind kind, const std::string& relative, std::unique_ptr<formats::OutputFile> inner) {
  const std::size_t handle = handles_++;
  operations_.push_back({.kind = kind, .path = relative, .handle = handle});
  return std::make_unique<File>(*this, relative, handle, std::move(inner));
}

template <typename Call>
void RecordingFileSystem::PassOn(Operation::Kind kind, const std::filesystem::path& path,
                                 Call call) {
  const std::lock_guard lock(mutex_);
  call();
  std::string relative;
  if (IsRecorded(path, relative)) operations_.push_back({.kind = kind, .path = relative});
}

std::unique_ptr<formats::OutputFile> RecordingFileSystem::Create(const std::filesystem::path& path,
                                                                 std::uint64_t expected_bytes) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<formats::OutputFile> file = inner_.Create(path, expected_bytes);
  std::string relative;
  if (!IsRecorded(path, relative)) return file;
  return Wrap(Operation::Kind::kCreate, relative, std::move(file));
}

std::unique_ptr<formats::OutputFile> RecordingFileSystem::Share(const std::filesystem::path& from,
                                                                const std::filesystem::path& to,
                                                                formats::Sharing sharing) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<formats::OutputFile> file = inner_.Share(from, to, sharing);
  std::string relative;
  if (!file || !IsRecorded(to, relative)) return file;
  const std::size_t handle = handles_;
  file = Wrap(Operation::Kind::kCreate, relative, std::move(file));
  operations_.push_back({.kind = Operation::Kind::kWrite,
                         .path = relative,
                         .handle = handle,
                         .data = ReadFile(from)});
  if (sharing == formats::Sharing::kInode) {
    operations_.push_back({.kind = Operation::Kind::kSync, .path = relative, .handle = handle});
  }
  return file;
}

std::unique_ptr<formats::OutputFile> RecordingFileSystem::OpenExisting(
    const std::filesystem::path& path) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<formats::OutputFile> file = inner_.OpenExisting(path);
  std::string relative;
  if (!IsRecorded(path, relative)) return file;
  return Wrap(Operation::Kind::kOpenExisting, relative, std::move(file));
}

std::unique_ptr<formats::ScratchFile> RecordingFileSystem::CreateScratch(
    const std::filesystem::path& directory) {
  return inner_.CreateScratch(directory);
}

void RecordingFileSystem::Rename(const std::filesystem::path& from,
                                 const std::filesystem::path& to) {
  const std::lock_guard lock(mutex_);
  inner_.Rename(from, to);
  std::string relative;
  std::string relative_to;
  if (IsRecorded(from, relative) && IsRecorded(to, relative_to)) {
    operations_.push_back({.kind = Operation::Kind::kRename, .path = relative, .to = relative_to});
  }
}

void RecordingFileSystem::Remove(const std::filesystem::path& path) {
  PassOn(Operation::Kind::kRemove, path, [&] { inner_.Remove(path); });
}

void RecordingFileSystem::CreateDirectory(const std::filesystem::path& path) {
  PassOn(Operation::Kind::kCreateDirectory, path, [&] { inner_.CreateDirectory(path); });
}

void RecordingFileSystem::RemoveDirectory(const std::filesystem::path& path) {
  PassOn(Operation::Kind::kRemoveDirectory, path, [&] { inner_.RemoveDirectory(path); });
}

void RecordingFileSystem::SyncDirectory(const std::filesystem::path& path) {
  PassOn(Operation::Kind::kSyncDirectory, path, [&] { inner_.SyncDirectory(path); });
}

}  // namespace dsv3::testing
