#include "cli/man_page.h"

#include <array>
#include <cctype>
#include <string_view>

#include "cli/exit_codes.h"
#include "cli/help.h"
#include "cli/version.h"

namespace dsv3::cli {

namespace {

// Text that roff prints unchanged.
std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  if (out.starts_with('.') || out.starts_with('\'')) out.insert(0, "\\&");
  return out;
}

// One sentence a line, as mdoc(7) asks.
void AppendText(std::string& out, std::string_view text) {
  while (!text.empty()) {
    std::size_t end = text.find(". ");
    end = end == std::string_view::npos ? text.size() : end + 1;
    out += Escape(text.substr(0, end)) + "\n";
    text.remove_prefix(end);
    while (text.starts_with(' ')) text.remove_prefix(1);
  }
}

void AppendParagraphs(std::string& out, const std::vector<std::string>& paragraphs) {
  for (std::size_t i = 0; i < paragraphs.size(); ++i) {
    if (i > 0) out += ".Pp\n";
    AppendText(out, paragraphs[i]);
  }
}

// mdoc macros call arguments that look like macros; \& keeps a word from being one.
std::string Word(std::string_view text) { return "\\&" + Escape(text); }

// The same for a name of one or two words.
std::string Words(const std::string& name) {
  const std::string second = SecondWord(name);
  return Word(FirstWord(name)) + (second.empty() ? "" : " " + Word(second));
}

void AppendOptions(std::string& out, const std::vector<Option>& options) {
  out += ".Bl -tag -width Ds\n";
  for (const Option& option : options) {
    out += ".It ";
    if (option.letter != 0) out += std::string("Fl ") + option.letter + " , ";
    out += "Fl \\-" + Escape(option.name);
    if (option.TakesValue()) out += " Ar " + Word(option.value_name);
    out += "\n";
    AppendText(out, option.help);
  }
  out += ".El\n";
}

void AppendSynopsis(std::string& out, const Tool& tool) {
  out += ".Sh SYNOPSIS\n";
  for (const Command& command : tool.commands) {
    out += ".Nm\n";
    if (!command.name.empty()) out += ".Cm " + Words(command.name) + "\n";
    out += ".Op Ar OPTION ...\n";
    for (const Argument& argument : command.arguments) {
      out += (argument.optional ? ".Op Ar " : ".Ar ") + Word(argument.name) + "\n";
    }
  }
  for (const Option& option : tool.shared_options) {
    if (option.name != "help" && option.name != "version" && option.name != "man" &&
        option.name != "completion") {
      continue;
    }
    out += ".Nm\n.Fl \\-" + Escape(option.name);
    if (option.TakesValue()) out += " Ar " + Word(option.value_name);
    out += "\n";
  }
}

void AppendCommand(std::string& out, const Command& command) {
  // The tool's own description is that of a command without a name.
  if (!command.name.empty()) {
    out += ".Ss " + Escape(command.name) + "\n";
    AppendParagraphs(out, command.description);
  }
  out += ".Pp\nArguments:\n";
  out += ".Bl -tag -width Ds\n";
  for (const Argument& argument : command.arguments) {
    out += ".It Ar " + Word(argument.name) + "\n";
    AppendText(out, argument.help);
  }
  out += ".El\n";
  if (command.options.empty()) return;
  out += ".Pp\nOptions:\n";
  AppendOptions(out, command.options);
}

void AppendExamples(std::string& out, const Tool& tool) {
  bool begun = false;
  for (const Command& command : tool.commands) {
    for (const Example& example : command.examples) {
      out += begun ? ".Pp\n" : ".Sh EXAMPLES\n";
      begun = true;
      AppendText(out, example.help + ":");
      out += ".Dl " + Escape(tool.name + " " + example.words) + "\n";
    }
  }
}

std::string UpperCase(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

std::string ManPage(const Tool& tool) {
  std::string out = std::string(".Dd ") + kReleaseDate + "\n";
  out += ".Dt " + UpperCase(tool.name) + " 1\n.Os\n";
  out += ".Sh NAME\n.Nm " + tool.name + "\n.Nd " + Escape(tool.summary) + "\n";
  AppendSynopsis(out, tool);
  out += ".Sh DESCRIPTION\n";
  AppendParagraphs(out, tool.description);
  for (const Command& command : tool.commands) AppendCommand(out, command);
  out += ".Ss Output and information\n";
  out += HasNamedCommands(tool) ? "These options may be given before or after the command.\n"
                                : "These options may be given anywhere.\n";
  out += "If an option is given twice, the last one counts.\n";
  AppendOptions(out, tool.shared_options);
  out += ".Sh ENVIRONMENT\n.Bl -tag -width Ds\n";
  out += ".It Ev NO_COLOR\n";
  AppendText(out, "When set and not empty, output has no colour unless --color always is given.");
  out += ".It Ev FORCE_COLOR , Ev CLICOLOR_FORCE\n";
  AppendText(out,
             "When set to something else than 0, messages have colour also off a terminal. "
             "NO_COLOR wins over both.");
  out += ".It Ev TERM\n";
  AppendText(out, "When it is dumb, there is neither colour nor a progress bar.");
  out += ".El\n.Sh EXIT STATUS\n.Bl -tag -width Ds\n";
  for (const ExitCodeMeaning& exit_code : kExitCodes) {
    out += ".It " + std::to_string(exit_code.code) + "\n";
    AppendText(out, exit_code.meaning);
  }
  out += ".El\n";
  AppendExamples(out, tool);
  out += ".Sh SEE ALSO\n";
  for (std::size_t i = 0; i < tool.see_also.size(); ++i) {
    out += ".Xr " + tool.see_also[i] + " 1" + (i + 1 < tool.see_also.size() ? " ,\n" : "\n");
  }
  return out;
}

}  // namespace dsv3::cli
