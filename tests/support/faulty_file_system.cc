#include "tests/support/faulty_file_system.h"

#include <utility>

#include "formats/error.h"

namespace dsv3::testing {

class FaultyFileSystem::File final : public formats::OutputFile {
 public:
  File(FaultyFileSystem& owner, std::filesystem::path path,
       std::unique_ptr<formats::OutputFile> inner)
      : owner_(owner), path_(std::move(path)), inner_(std::move(inner)) {}

  void WriteAt(std::uint64_t offset, std::span<const std::byte> data) override {
    if (owner_.NextFails()) {
      inner_->WriteAt(offset, data.first(data.size() / 2));
      throw IoError("write", path_.string(), owner_.errno_value_);
    }
    inner_->WriteAt(offset, data);
  }
  void Truncate(std::uint64_t bytes) override {
    owner_.FailIfDue("set the length of", path_);
    inner_->Truncate(bytes);
  }
  void Sync() override {
    owner_.FailIfDue("write", path_);
    inner_->Sync();
  }

 private:
  FaultyFileSystem& owner_;
  std::filesystem::path path_;
  std::unique_ptr<formats::OutputFile> inner_;
};

class FaultyFileSystem::Scratch final : public formats::ScratchFile {
 public:
  Scratch(FaultyFileSystem& owner, std::filesystem::path directory,
          std::unique_ptr<formats::ScratchFile> inner)
      : owner_(owner), directory_(std::move(directory)), inner_(std::move(inner)) {}

  std::uint64_t bytes() const override { return inner_->bytes(); }
  void Append(std::span<const std::byte> data) override {
    if (owner_.NextFails()) {
      inner_->Append(data.first(data.size() / 2));
      throw IoError("write a scratch file in", directory_.string(), owner_.errno_value_);
    }
    inner_->Append(data);
  }
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    inner_->ReadAt(offset, out);
  }
  void Clear() override {
    owner_.FailIfDue("clear a scratch file in", directory_);
    inner_->Clear();
  }

 private:
  FaultyFileSystem& owner_;
  std::filesystem::path directory_;
  std::unique_ptr<formats::ScratchFile> inner_;
};

FaultyFileSystem::FaultyFileSystem(formats::FileSystem& inner, std::size_t fail_at, int errno_value,
                                   Failing failing)
    : inner_(inner), fail_at_(fail_at), errno_value_(errno_value), failing_(failing) {}

bool FaultyFileSystem::NextFails() {
  const std::size_t change = changes_++;
  return failing_ == Failing::kOnce ? change == fail_at_ : change >= fail_at_;
}

void FaultyFileSystem::FailIfDue(const char* action, const std::filesystem::path& path) {
  if (NextFails()) throw IoError(action, path.string(), errno_value_);
}

std::unique_ptr<formats::OutputFile> FaultyFileSystem::Create(const std::filesystem::path& path,
                                                              std::uint64_t expected_bytes) {
  FailIfDue("create", path);
  return std::make_unique<File>(*this, path, inner_.Create(path, expected_bytes));
}

std::unique_ptr<formats::OutputFile> FaultyFileSystem::Share(const std::filesystem::path& from,
                                                             const std::filesystem::path& to,
                                                             formats::Sharing sharing) {
  FailIfDue("create", to);
  auto shared = inner_.Share(from, to, sharing);
  return shared ? std::make_unique<File>(*this, to, std::move(shared)) : nullptr;
}

std::unique_ptr<formats::OutputFile> FaultyFileSystem::OpenExisting(
    const std::filesystem::path& path) {
  return std::make_unique<File>(*this, path, inner_.OpenExisting(path));
}

std::unique_ptr<formats::ScratchFile> FaultyFileSystem::CreateScratch(
    const std::filesystem::path& directory) {
  FailIfDue("make a scratch file in", directory);
  return std::make_unique<Scratch>(*this, directory, inner_.CreateScratch(directory));
}

void FaultyFileSystem::Rename(const std::filesystem::path& from, const std::filesystem::path& to) {
  FailIfDue("rename", from);
  inner_.Rename(from, to);
}

void FaultyFileSystem::Remove(const std::filesystem::path& path) {
  FailIfDue("remove", path);
  inner_.Remove(path);
}

void FaultyFileSystem::CreateDirectory(const std::filesystem::path& path) {
  FailIfDue("create directory", path);
  inner_.CreateDirectory(path);
}

void FaultyFileSystem::RemoveDirectory(const std::filesystem::path& path) {
  FailIfDue("remove directory", path);
  inner_.RemoveDirectory(path);
}

void FaultyFileSystem::SyncDirectory(const std::filesystem::path& path) {
  FailIfDue("write directory", path);
  inner_.SyncDirectory(path);
}

}  // namespace dsv3::testing
