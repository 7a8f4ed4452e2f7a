#pragma once

#include <string>

#include "formats/error.h"

namespace dsv3::cli {

// The exception that is being handled, as the error that the user is shown; to be called in a
// catch block of `tool`. An Error stays as it is, except that one of kInternal says where to report
// it. Too little memory is kIo, and so is a thread that the system refuses. All others are bugs of
// the tool, kInternal.
Error CaughtError(const std::string& tool);

// Ends the process as after any other bug, with a message and exit code 70, where an exception
// leaves a thread or a function that must not throw.
void ReportBugsThatTerminate();

}  // namespace dsv3::cli
