#pragma once

#include <string>
#include <vector>

#include "cli/option_table.h"
#include "formats/error.h"

namespace dsv3::cli {

// A call that the tables do not allow (kUsage). `hint` says what to look at next, for a person, and
// is not part of the message.
class UsageError : public Error {
 public:
  UsageError(std::string message, std::string hint)
      : Error(ErrorCode::kUsage, std::move(message)), hint_(std::move(hint)) {}
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

// Options that every tool has and that replace its job.
struct InfoRequest {
  bool help = false;
  bool version = false;
  bool man = false;
  std::string completion;  // shell, empty when not asked for
};

std::vector<Option> InfoOptions(InfoRequest* request);

struct GivenOption {
  const Option* option = nullptr;
  std::string value;  // as it was stored; of a path, the one that PlacedPath returns
};

struct ParsedCall {
  const Command* command = nullptr;
  std::vector<GivenOption> options;  // also those of all commands, in the order of the tables
};

// The command that a call names, with all values stored through the tables' setters; null when
// the call names none and the tool has none without a name, which only an InfoRequest allows.
// `call` is the arguments after the program's name; options may be before and after the command's
// name. "help COMMAND" means COMMAND --help. Throws UsageError. `info` must be the target of the
// tool's InfoOptions.
ParsedCall ParseCall(const Tool& tool, const std::vector<std::string>& call,
                     const InfoRequest& info);

}  // namespace dsv3::cli
