#pragma once

#include <string>
#include <string_view>

namespace dsv3::cli {

enum class ColorMode { kAuto, kAlways, kNever };

// The options that every command has for its output.
struct OutputOptions {
  bool json = false;
  bool quiet = false;
  bool no_progress = false;
  ColorMode color = ColorMode::kAuto;
};

// Whether to colour what goes to `fd`: --color decides; under auto NO_COLOR (not empty) says no,
// then FORCE_COLOR or CLICOLOR_FORCE (not empty, not 0) says yes, then a terminal with a TERM other
// than dumb does.
bool UseColor(ColorMode mode, int fd);

// Whether stderr is a terminal on which a line can be drawn over.
bool StderrCanRedraw();

// Columns of the terminal at stderr, 80 where it gives no number.
unsigned StderrColumns();

// Columns of the terminal at stdout; 0 where stdout is none, so that a text may be as wide as it
// is.
unsigned StdoutColumns();

// Writes everything to stderr; errors are ignored, since they could be reported nowhere else.
// Thread-safe; one call is one write where the system allows it.
void WriteStderr(std::string_view text) noexcept;

// Writes everything to stdout. Throws Error (kIo) when it cannot, except that a reader that went
// away (EPIPE) ends the process quietly by SIGPIPE, as it ends other programs.
void WriteStdout(std::string_view text);

// "TOOL: error: MESSAGE\n", likewise with "warning": `message` is made printable.
std::string ErrorLine(std::string_view tool, std::string_view message, bool color);
std::string WarningLine(std::string_view tool, std::string_view message, bool color);

// The word in colour, for something that failed, that deserves a look, or that is as it should be.
enum class Tone { kBad, kDoubtful, kGood };
std::string Colored(std::string_view word, Tone tone, bool color);

// Makes sure that descriptors 0, 1 and 2 are taken: otherwise a file of the job could become
// "stdout". Writing to a stdout that was closed still fails.
void ReserveStandardDescriptors();

}  // namespace dsv3::cli
