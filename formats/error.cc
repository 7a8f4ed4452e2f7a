#include "formats/error.h"

#include <cerrno>
#include <cstddef>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "formats/message_text.h"

namespace dsv3 {
namespace {

std::string_view Advice(int errno_value) {
  switch (errno_value) {
    case ENOSPC:
      return "; free some space or choose a directory on another disk, then run the command again";
    case EDQUOT:
      return "; your disk quota is used up: free some space or choose another directory";
    case EACCES:
    case EPERM:
      return "; check the permissions of the file and of its directories";
    case EFBIG:
      return "; the file system or a limit (ulimit -f) does not allow files of this size, choose a "
             "directory on another file system";
    case EROFS:
      return "; the file system is mounted read-only, choose another directory";
    case EMFILE:
    case ENFILE:
      return "; too many files are open, raise the limit (ulimit -n) or use fewer threads";
    case ENAMETOOLONG:
      return "; the file system takes no name this long, and a file that is being written has a "
             "longer one than in the end: rename the file, or give a shorter path";
    case EIO:
      return "; the disk may be failing, look at the system log";
    default:
      return "";
  }
}

}  // namespace

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kVerification:
      return "verification";
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kBadInput:
      return "bad-input";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kInterrupted:
      return "interrupted";
    case ErrorCode::kInternal:
      break;
  }
  return "internal";
}

Error::Error(ErrorCode code, std::string message, ErrorPlace place)
    : code_(code), message_(std::move(message)), place_(std::move(place)) {}

Error IoError(std::string_view action, const std::string& path, int errno_value) {
  return Error(ErrorCode::kIo,
               fmt::format("cannot {} {}: {}{}", action, formats::ShownPath(path),
                           std::generic_category().message(errno_value), Advice(errno_value)),
               {.file = path, .tensor = {}});
}

std::string QuoteForMessage(std::string_view text) {
  constexpr std::size_t kLongest = 240;
  std::string quoted = "'";
  for (std::size_t i = 0; i < text.size();) {
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (i >= kLongest && starts_character) {
      quoted += "...";
      break;
    }
    const std::size_t hidden = formats::HiddenCharacter(text, i);
    for (std::size_t k = 0; k < hidden; ++k) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i + k]));
    }
    if (hidden == 0) quoted += text[i];
    i += hidden == 0 ? 1 : hidden;
  }
  quoted += '\'';
  return quoted;
}

}  // namespace dsv3
