#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace dsv3 {

// The kind of an error. The value is the tools' exit code.
enum class ErrorCode : int {
  kVerification = 1,  // a check found differences
  kUsage = 2,         // bad options, or an output directory that must not be touched
  kBadInput = 3,      // listed but missing, malformed, contradictory
  kIo = 4,            // disk, permission, space
  kInterrupted = 5,   // stopped on request; the same command continues
  kInternal = 70,     // a bug of this program
};

// The stable machine name of a code: "verification", "usage", "bad-input", "io", "interrupted",
// "internal".
std::string_view ErrorCodeName(ErrorCode code);

// The place of an error; empty members mean "no particular file" or "no particular tensor".
struct ErrorPlace {
  std::string file;
  std::string tensor;
};

// The one exception type of this project. The message is a complete sentence or two for a person:
// it names file and tensor, what was expected and what was found, and what to do next.
class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message, ErrorPlace place = {});

  const char* what() const noexcept override { return message_.c_str(); }
  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  const ErrorPlace& place() const noexcept { return place_; }

 private:
  ErrorCode code_;
  std::string message_;
  ErrorPlace place_;
};

// An I/O error from errno: "cannot ACTION PATH: strerror(errno_value)", with advice where the errno
// calls for one (no space, permission, read-only). The code is kIo.
Error IoError(std::string_view action, const std::string& path, int errno_value);

// `text` in single quotes for a message to a person: control characters and those that change the
// direction of writing are shown as \xNN, and a text beyond 240 bytes is cut with "...". Use it for
// every text that comes from a file, such as tensor names.
std::string QuoteForMessage(std::string_view text);

}  // namespace dsv3
