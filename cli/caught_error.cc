#include "cli/caught_error.h"

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "cli/console.h"

namespace dsv3::cli {

namespace {

Error Bug(const std::string& tool, std::string_view what, const ErrorPlace& place) {
  return Error(
      ErrorCode::kInternal,
      fmt::format("this is a bug of {}: {}; please report it in the project's issue tracker with "
                  "the command that you ran, or as SECURITY.md says where a file from others "
                  "causes it. Files in place are complete",
                  tool, what),
      place);
}

// Whether the system refused another thread: what std::thread throws, and what oneTBB does.
bool IsRefusedThread(const std::exception& error) {
  const auto* const system = dynamic_cast<const std::system_error*>(&error);
  if (system != nullptr) return system->code() == std::errc::resource_unavailable_try_again;
  return std::string_view(error.what()).starts_with("pthread_create ");
}

[[noreturn]] void ReportAndEnd() {
  std::string what = "the program ended itself";
  try {
    if (std::current_exception() != nullptr) throw;
  } catch (const std::exception& error) {
    what = error.what();
  } catch (...) {
    what = "an exception of an unknown type";
  }
  const std::string tool = program_invocation_short_name;
  WriteStderr(ErrorLine(tool, Bug(tool, what, {}).message(), false));
  // No destructors: nobody knows what state the others are in.
  std::_Exit(static_cast<int>(ErrorCode::kInternal));
}

}  // namespace

Error CaughtError(const std::string& tool) {
  try {
    throw;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInternal) return error;
    return Bug(tool, error.message(), error.place());
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::kIo,
                 "out of memory; end other programs, or give a smaller --memory or fewer "
                 "--threads, and run the same command again");
  } catch (const std::exception& error) {
    if (!IsRefusedThread(error)) return Bug(tool, error.what(), {});
    return Error(ErrorCode::kIo,
                 "the system allows no further thread; raise the limit (ulimit -u, or that of "
                 "processes of the container or the job), and run the same command again");
  } catch (...) {
    return Bug(tool, "an exception of an unknown type", {});
  }
}

void ReportBugsThatTerminate() { std::set_terminate(ReportAndEnd); }

}  // namespace dsv3::cli
