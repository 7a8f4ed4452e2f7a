#include "convert/job/commit.h"

#include <set>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/job/output_state.h"
#include "convert/stream/file_hash.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

constexpr std::size_t kCopyBytes = std::size_t{1} << 20;

// A file that shares the bytes of a source file: the executor reads and digests these, and what it
// would write is there.
class CompleteFile final : public formats::OutputFile {
 public:
  explicit CompleteFile(std::unique_ptr<formats::OutputFile> file) : file_(std::move(file)) {}
  void WriteAt(std::uint64_t, std::span<const std::byte>) override {}
  void Truncate(std::uint64_t) override {}
  void Sync() override { file_->Sync(); }

 private:
  std::unique_ptr<formats::OutputFile> file_;
};

[[noreturn]] void FailOther(const std::string& file, const std::string& tensor, bool has_base) {
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: {}its digest is not the recorded one, so {}", formats::ShownPath(file),
                  tensor.empty() ? "" : fmt::format("tensor {}: ", QuoteForMessage(tensor)),
                  has_base ? "the base is not the one that the source was made against, or one of "
                             "the two is damaged; give that base, or get the damaged one again"
                           : "the source is damaged or of another checkpoint; get it again"),
      {file, tensor});
}

// Throws where digests that the plan knows are not those that were found.
void RequireExpected(const PlannedFile& file, const FileRecord& record, bool has_base) {
  for (std::size_t i = 0; i < file.tensors.size(); ++i) {
    const PlannedTensor& tensor = file.tensors[i];
    if (!tensor.xxh3.empty() && tensor.xxh3 != record.tensors[i].output.xxh3) {
      FailOther(file.name, tensor.entry.name, has_base);
    }
  }
  if (!file.sha256.empty() && file.sha256 != record.file.sha256) {
    FailOther(file.name, "", has_base);
  }
}

}  // namespace

Committer::Committer(formats::FileSystem& fs, std::filesystem::path directory, const Plan& plan,
                     Journal& journal, const RunOptions& run,
                     const std::map<std::string, FileRecord>& finished)
    : fs_(fs),
      directory_(std::move(directory)),
      plan_(plan),
      journal_(journal),
      sha256_(run.checksum == ChecksumMode::kSha256),
      sharing_(run.link ? formats::Sharing::kInode : formats::Sharing::kBlocks),
      waits_(WaitsToBeVisible(plan, run)),
      has_base_(!run.base.empty()),
      records_(finished.begin(), finished.end()) {}

bool WaitsToBeVisible(const Plan& plan, const RunOptions& run) {
  // A source that is freed on the way is needed no more only when its files are visible.
  return !plan.source_digests.empty() || (run.source_is_checked && !run.delete_source_shards);
}

void Committer::CreateParents(const std::string& name) {
  formats::CreateDirectories(fs_, (directory_ / name).parent_path());
}

std::unique_ptr<formats::OutputFile> Committer::Open(std::size_t file) {
  const PlannedFile& planned = plan_.files[file];
  CreateParents(planned.name);
  const std::filesystem::path partial = directory_ / PartialName(planned.name);
  if (!planned.same_bytes_as.empty()) {
    if (auto shared = fs_.Share(planned.same_bytes_as, partial, sharing_)) {
      const std::lock_guard lock(mutex_);
      shared_.insert(file);
      return std::make_unique<CompleteFile>(std::move(shared));
    }
  }
  return fs_.Create(partial, planned.disk_bytes());
}

std::unique_ptr<formats::OutputFile> Committer::Reopen(std::size_t file) {
  return fs_.OpenExisting(directory_ / PartialName(plan_.files[file].name));
}

void Committer::Commit(std::size_t file, std::unique_ptr<formats::OutputFile> output,
                       FileRecord record) {
  RequireExpected(plan_.files[file], record, has_base_);
  output->Sync();
  output.reset();
  {
    // Closed before the file is renamed: some file systems cannot rename an open one.
    const std::lock_guard lock(mutex_);
    read_back_.erase(file);
  }
  Publish({record});
  {
    const std::lock_guard lock(mutex_);
    ++committed_files_;
    if (shared_.count(file) != 0) bytes_written_ -= record.bytes;
  }
  if (on_committed_ && !waits_) on_committed_(file, record);
}

std::span<const std::byte> Committer::ReadBack(std::size_t file, std::uint64_t offset,
                                               std::size_t length, std::span<std::byte> scratch) {
  std::shared_ptr<const formats::InputFile> input;
  {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const formats::InputFile>& open = read_back_[file];
    if (!open) {
      const std::string partial = PartialName(plan_.files[file].name);
      open = std::make_shared<const formats::InputFile>(directory_ / partial, partial);
    }
    input = open;
  }
  return input->ReadStreaming(offset, length, scratch);
}

void Committer::SyncParents(std::span<const std::string> names) {
  std::set<std::filesystem::path> parents;
  for (const std::string& name : names) parents.insert((directory_ / name).parent_path());
  for (const std::filesystem::path& parent : parents) fs_.SyncDirectory(parent);
}

void Committer::Rename(std::span<const std::string> names) {
  for (const std::string& name : names) {
    fs_.Rename(directory_ / PartialName(name), directory_ / name);
  }
  SyncParents(names);
}

void Committer::MakeVisible() {
  if (!waits_) return;
  std::vector<std::string> side_files;
  std::vector<std::string> weights;
  const auto add = [&](const std::string& name, std::vector<std::string>& names) {
    // A run that ended at this place may have renamed some of them.
    if (!formats::Exists(directory_ / name)) names.push_back(name);
  };
  for (const PlannedSideFile& side : plan_.side_files) add(side.name, side_files);
  for (const PlannedFile& file : plan_.files) add(file.name, weights);
  Rename(side_files);
  Rename(weights);
  waits_ = false;
}

void Committer::Publish(std::vector<FileRecord> records) {
  std::vector<std::string> names;
  names.reserve(records.size());
  for (const FileRecord& record : records) names.push_back(record.name);
  // Where files wait for their final names, a line is of use only if its file is still there.
  if (waits_) SyncParents(names);
  journal_.Append(records);
  if (!waits_) Rename(names);
  const std::lock_guard lock(mutex_);
  for (FileRecord& record : records) {
    bytes_written_ += record.bytes;
    std::string name = record.name;
    records_.insert_or_assign(std::move(name), std::move(record));
  }
}

FileRecord Committer::WritePartial(const std::string& name, std::string_view content) {
  CreateParents(name);
  const std::span<const std::byte> bytes = std::as_bytes(std::span(content));
  const auto output = fs_.Create(directory_ / PartialName(name), 0);
  if (!bytes.empty()) output->WriteAt(0, bytes);
  output->Sync();
  FileHash hash(sha256_);
  hash.Update(bytes);
  return {name, bytes.size(), hash.Finish(), {}};
}

FileRecord Committer::CopyPartial(const PlannedSideFile& side, ProgressSink& progress,
                                  const StopToken& stop) {
  CreateParents(side.name);
  const formats::InputFile input(side.source, side.name);
  const auto output = fs_.Create(directory_ / PartialName(side.name), 0);
  FileHash hash(sha256_);
  std::vector<std::byte> buffer(kCopyBytes);
  for (std::uint64_t offset = 0; offset < input.bytes(); offset += kCopyBytes) {
    if (stop.stopped()) ThrowInterrupted();
    const std::span<std::byte> piece = std::span(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(kCopyBytes, input.bytes() - offset)));
    input.ReadAt(offset, piece);
    output->WriteAt(offset, piece);
    hash.Update(piece);
    progress.OnBytes(piece.size(), side.name);
  }
  const Digests digests = hash.Finish();
  if (!side.sha256.empty() && digests.sha256 != side.sha256) FailOther(side.name, "", false);
  output->Sync();
  return {side.name, input.bytes(), digests, {}};
}

void Committer::WriteSideFiles(ProgressSink& progress, const StopToken& stop) {
  std::vector<FileRecord> records;
  for (const PlannedSideFile& side : plan_.side_files) {
    if (records_.count(side.name) != 0) continue;
    records.push_back(side.source.empty() ? WritePartial(side.name, side.content)
                                          : CopyPartial(side, progress, stop));
  }
  if (!records.empty()) Publish(std::move(records));
}

void Committer::WriteIndex() {
  if (!plan_.index.empty()) WriteText(std::string(formats::kShardIndexName), plan_.index);
}

void Committer::WriteText(const std::string& name, std::string_view text) {
  if (records_.count(name) != 0) {
    // Complete, but a run ended before it gave the file its name.
    const std::vector<std::string> names = {name};
    if (!formats::Exists(directory_ / name)) Rename(names);
    return;
  }
  std::vector<FileRecord> records;
  records.push_back(WritePartial(name, text));
  Publish(std::move(records));
}

void Committer::Adopt(std::vector<FileRecord> records) {
  const std::lock_guard lock(mutex_);
  for (FileRecord& record : records) {
    std::string name = record.name;
    records_.insert_or_assign(std::move(name), std::move(record));
  }
}

void Committer::RenameLast(const std::string& name) {
  fs_.Rename(directory_ / PartialName(name), directory_ / name);
  fs_.SyncDirectory(directory_);
}

void Committer::WriteLast(std::string_view name, const std::string& text) {
  WritePartial(std::string(name), text);
  RenameLast(std::string(name));
}

void Committer::CopyLast(const PlannedSideFile& file, ProgressSink& progress,
                         const StopToken& stop) {
  CopyPartial(file, progress, stop);
  RenameLast(file.name);
}

}  // namespace dsv3::convert
