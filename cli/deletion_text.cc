#include "cli/deletion_text.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "cli/units.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using convert::SourceDeletion;
using Kept = SourceDeletion::Kept;

constexpr std::size_t kMostLines = 8;

// Shards of one line: where they are, where their files are, and why these stay.
using Place = std::tuple<std::filesystem::path, std::filesystem::path, Kept, bool>;

struct Group {
  std::uint64_t shards = 0;
  std::uint64_t freed_bytes = 0;
  std::uint64_t shared = 0;  // shards whose files have other hard links
  std::filesystem::path other_link;
};

std::string WhyKept(Kept kept, const Group& group) {
  if (kept == Kept::kOutside) return "it is not in the directory that was named";
  const std::string_view where = kept == Kept::kPassed ? "through it" : "there";
  return fmt::format("other links lead {}, such as {}", where,
                     formats::ShownPath(group.other_link));
}

std::string Line(const Place& place, const Group& group) {
  const auto& [shards, files, kept, is_link] = place;
  const std::string directory = formats::ShownPath(shards);
  const std::string bytes = FormatBytes(group.freed_bytes);
  if (!is_link) {
    const std::string counted = FormatCountOf(group.shards, "file");
    if (kept == Kept::kNo) {
      std::string line = fmt::format("{} in {}: frees {}", counted, directory, bytes);
      if (group.shared == 0) return line;
      return fmt::format("{}; {} further names elsewhere (hard links), which keep the bytes", line,
                         group.shared == group.shards ? "all have"
                         : group.shared == 1          ? "1 has"
                                                      : fmt::format("{} have", group.shared));
    }
    return fmt::format("{} in {}: not deleted, {}", counted, directory, WhyKept(kept, group));
  }
  const std::string counted = FormatCountOf(group.shards, "link");
  if (kept == Kept::kPassed) {
    return fmt::format("{} in {}: not deleted, {}", counted, directory, WhyKept(kept, group));
  }
  const std::string target = formats::ShownPath(files);
  if (kept == Kept::kNo) {
    return fmt::format("{} in {} with {} in {}: frees {}", counted, directory,
                       group.shards == 1 ? "its file" : "their files", target, bytes);
  }
  return fmt::format("{} in {}: frees nothing; {} stays unchanged, {}", counted, directory, target,
                     WhyKept(kept, group));
}

}  // namespace

std::string DeletionTotal(const std::vector<SourceDeletion>& deletions) {
  std::uint64_t files = 0;
  std::uint64_t links = 0;
  std::uint64_t bytes = 0;
  for (const SourceDeletion& deletion : deletions) {
    if (deletion.file_goes()) ++files;
    if (deletion.is_link() && deletion.shard_goes()) ++links;
    bytes += deletion.freed_bytes;
  }
  std::string text = fmt::format("{} ({})", FormatCountOf(files, "file"), FormatBytes(bytes));
  if (links > 0) text += " and " + FormatCountOf(links, "link");
  return text;
}

std::vector<std::string> DeletionLines(const std::vector<SourceDeletion>& deletions) {
  std::map<Place, Group> groups;
  for (const SourceDeletion& deletion : deletions) {
    Group& group = groups[{deletion.shard.parent_path(), deletion.file.parent_path(), deletion.kept,
                           deletion.is_link()}];
    ++group.shards;
    group.freed_bytes += deletion.freed_bytes;
    if (deletion.file_goes() && deletion.freed_bytes == 0) ++group.shared;
    group.other_link = deletion.other_link;
  }
  std::vector<std::string> lines;
  std::uint64_t more = 0;
  for (const auto& [place, group] : groups) {
    if (lines.size() < kMostLines) {
      lines.push_back(Line(place, group));
    } else {
      more += group.shards;
    }
  }
  if (more > 0) lines.push_back(FormatCountOf(more, "more shard") + " in other places");
  return lines;
}

}  // namespace dsv3::cli
