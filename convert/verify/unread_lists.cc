#include "convert/verify/unread_lists.h"

#include <filesystem>
#include <string_view>

#include <fmt/format.h>

#include "formats/message_text.h"
#include "formats/sums_file.h"

namespace dsv3::convert {

std::optional<UnreadList> FindUnreadList(const std::vector<DirectoryFile>& listing) {
  for (const DirectoryFile& file : listing) {
    const std::string base = std::filesystem::path(file.name).filename().string();
    const std::string_view kind = formats::OtherDigestOfName(base);
    if (!kind.empty()) return UnreadList{file.name, std::string(kind)};
    if (formats::MayBeSumsName(base) && !formats::IsSumsName(base) &&
        !formats::IsSumsSignatureName(base)) {
      return UnreadList{file.name, ""};
    }
  }
  return std::nullopt;
}

void WarnOfUnreadList(const std::vector<DirectoryFile>& listing, formats::Findings& findings) {
  const std::optional<UnreadList> list = FindUnreadList(listing);
  if (!list) return;
  findings.push_back(
      {.severity = formats::Severity::kWarning,
       .kind = "unread-sums",
       .file = list->name,
       .tensor = {},
       .message = fmt::format("{}: it may be the publisher's list of {} digests, which is not "
                              "read: compare the files with it, for the new checksums only say "
                              "what is there now",
                              formats::ShownPath(list->name),
                              list->kind.empty() ? std::string_view("SHA-256") : list->kind),
       .unreadable = false});
}

}  // namespace dsv3::convert
