#include "formats/download_mark.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "formats/text_encoding.h"

namespace dsv3::formats {
namespace {

struct Mark {
  std::string_view text;
  std::string_view advice;
};

constexpr std::string_view kAgain = "continue it with the program that began it";
constexpr std::string_view kBrowser = "continue it in the browser";
constexpr std::string_view kAria = "continue it with the same `aria2c` command";
constexpr std::string_view kRsync = "continue it with the same `rsync` command";
constexpr std::string_view kRclone = "continue it with the same `rclone` command";

// Also the end of other names, so it counts behind that of a file of a checkpoint alone.
constexpr Mark kAxel = {".st", "continue it with the same `axel` command"};

// In lower case, as all names here.
constexpr std::array<Mark, 24> kSuffixes = {{
    {".incomplete", "continue it with the same `hf download` command"},
    {".aria2", kAria},
    {".aria2__temp", kAria},
    {".crdownload", kBrowser},
    {".opdownload", kBrowser},
    {".download", kBrowser},
    {".part", kAgain},
    {".filepart", kAgain},
    kAxel,
    {".lftp-pget-status", "continue it with the same `lftp` command"},
    {".part.minio", "continue it with the same `mc` command"},
    {".fdmdownload", kAgain},  // Free Download Manager
    {".xltd", kAgain},         // Xunlei
    {".xltd.cfg", kAgain},
    {".td.cfg", kAgain},
    {".p.downloading", kAgain},  // Baidu
    {".p.downloading.cfg", kAgain},
    {".!ut", kAgain},
    {".!qb", kAgain},
    {".!bt", kAgain},
    {".bc!", kAgain},
    {".!sync", kAgain},
    {".unison.tmp", "continue it with the same `unison` command"},
    {"_.gstmp", "continue it with the same `gcloud storage` command"},
}};

constexpr std::array<Mark, 4> kFolders = {{
    {"._____temp/", "continue it with the same `modelscope download` command"},
    {".rsync-partial/", kRsync},
    {".~tmp~/", kRsync},
    {".tmp.drivedownload/", kAgain},  // Google Drive
}};

// Of programs that write a file of a checkpoint under another name until it is whole.
constexpr std::array<std::string_view, 2> kTemporary = {".tmp", ".temp"};

// Takes `count` letters and digits off the end, and a '.' before them.
bool TakeRandom(std::string_view& name, std::size_t count, bool hex) {
  if (name.size() < count + 2 || name[name.size() - count - 1] != '.') return false;
  const std::string_view random = name.substr(name.size() - count);
  if (!std::all_of(random.begin(), random.end(), [&](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return hex ? std::isxdigit(byte) != 0 : std::isalnum(byte) != 0;
      })) {
    return false;
  }
  name.remove_suffix(count + 1);
  return true;
}

// Files of a checkpoint, to tell random letters behind their names from other names.
bool IsOfCheckpoint(std::string_view name) {
  constexpr std::array<std::string_view, 6> kEnds = {".safetensors", ".gguf",  ".json",
                                                     ".bin",         ".model", ".py"};
  return std::any_of(kEnds.begin(), kEnds.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace

std::string_view HowDownloadGoesOn(std::string_view relative_name) {
  const std::string lower = AsciiLower(relative_name);
  const std::string_view name = lower;
  for (const Mark& folder : kFolders) {
    const std::size_t at = name.find(folder.text);
    if (at != name.npos && (at == 0 || name[at - 1] == '/')) return folder.advice;
  }
  const std::string_view base = name.substr(name.rfind('/') + 1);
  for (const Mark& suffix : kSuffixes) {
    if (!name.ends_with(suffix.text)) continue;
    // Short enough to be the end of any other name.
    const bool says_enough = suffix.text != kAxel.text;
    if (says_enough || IsOfCheckpoint(base.substr(0, base.size() - suffix.text.size()))) {
      return suffix.advice;
    }
  }
  for (const std::string_view suffix : kTemporary) {
    if (base.ends_with(suffix) && IsOfCheckpoint(base.substr(0, base.size() - suffix.size()))) {
      return kAgain;
    }
  }
  // AzCopy: .azDownload-0b3f2f4a-6e1d-7b40-5e4d-3e2a1c9a7d11-NAME
  if (base.starts_with(".azdownload-")) return "continue it with the same `azcopy` command";
  // rclone: NAME.1a2b3c4d.partial
  constexpr std::string_view kPartial = ".partial";
  if (std::string_view rest = base; rest.ends_with(kPartial)) {
    rest.remove_suffix(kPartial.size());
    return TakeRandom(rest, 8, true) && IsOfCheckpoint(rest) ? kRclone : "";
  }
  // rsync: .NAME.Xa1b2C
  if (std::string_view rest = base;
      rest.starts_with('.') && TakeRandom(rest, 6, false) && IsOfCheckpoint(rest)) {
    return kRsync;
  }
  // aws s3 cp: NAME.6eF5b5dA
  if (std::string_view rest = base; TakeRandom(rest, 8, true) && IsOfCheckpoint(rest)) {
    return "continue it with the same `aws s3` command";
  }
  return "";
}

}  // namespace dsv3::formats
