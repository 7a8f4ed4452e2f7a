#include "cli/help.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace dsv3::cli {

namespace {

constexpr std::size_t kColumns = 80;
constexpr std::size_t kHelpColumn = 26;

// `text` broken into lines of at most `width` characters, without the line ends.
std::vector<std::string> WrapText(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  std::string line;
  while (!text.empty()) {
    const std::size_t length = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, length);
    if (!line.empty() && line.size() + 1 + word.size() > width) {
      lines.push_back(line);
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += word;
    text.remove_prefix(std::min(length + 1, text.size()));
  }
  if (!line.empty()) lines.push_back(line);
  return lines;
}

void AppendParagraph(std::string& out, std::string_view text, std::size_t indent = 0) {
  for (const std::string& line : WrapText(text, kColumns - indent)) {
    out += std::string(indent, ' ') + line + "\n";
  }
}

// "  TERM      help help help", the help in its own column.
void AppendEntry(std::string& out, const std::string& term, std::string_view help) {
  std::string line = "  " + term;
  const std::vector<std::string> lines = WrapText(help, kColumns - kHelpColumn);
  std::size_t next = 0;
  if (line.size() + 2 <= kHelpColumn && !lines.empty()) {
    line += std::string(kHelpColumn - line.size(), ' ') + lines[0];
    next = 1;
  }
  out += line + "\n";
  for (; next < lines.size(); ++next) {
    out += std::string(kHelpColumn, ' ') + lines[next] + "\n";
  }
}

void AppendOptions(std::string& out, const std::string& title, const std::vector<Option>& options) {
  if (options.empty()) return;
  out += "\n" + title + ":\n";
  for (const Option& option : options) {
    std::string term = option.letter != 0 ? std::string("-") + option.letter + ", " : "    ";
    term += "--" + option.name;
    if (option.TakesValue()) term += " " + option.value_name;
    AppendEntry(out, term, option.help);
  }
}

void AppendExamples(std::string& out, const Tool& tool, const Command& command) {
  if (command.examples.empty()) return;
  out += "\nExamples:\n";
  for (const Example& example : command.examples) {
    AppendParagraph(out, example.help + ":", 2);
    out += "    " + tool.name + " " + example.words + "\n";
  }
}

void AppendCommands(std::string& out, const Tool& tool) {
  out += "\nCommands:\n";
  for (const Command& each : tool.commands) {
    if (!each.name.empty()) AppendEntry(out, each.name, each.summary);
  }
}

std::string CommandHint(const Tool& tool) {
  return "\nRun '" + tool.name + " COMMAND --help' for the options of a command.\n";
}

std::string CommandHelp(const Tool& tool, const Command& command) {
  const bool beside_named = command.name.empty() && HasNamedCommands(tool);
  std::string out = "Usage: " + Synopsis(tool, command) + "\n";
  if (beside_named) {
    for (const Command& each : tool.commands) {
      if (!each.name.empty()) out += "       " + Synopsis(tool, each) + "\n";
    }
  }
  for (const std::string& paragraph : command.description) {
    out += "\n";
    AppendParagraph(out, paragraph);
  }
  out += "\nArguments:\n";
  for (const Argument& argument : command.arguments) {
    AppendEntry(out, argument.name, argument.help);
  }
  if (beside_named) AppendCommands(out, tool);
  AppendOptions(out, "Options", command.options);
  AppendOptions(out, "Output and information", tool.shared_options);
  AppendExamples(out, tool, command);
  if (beside_named) out += CommandHint(tool);
  return out;
}

}  // namespace

std::string CallName(const Tool& tool, const Command& command) {
  return command.name.empty() ? tool.name : tool.name + " " + command.name;
}

std::string Synopsis(const Tool& tool, const Command& command) {
  std::string text = CallName(tool, command) + " [OPTION]...";
  for (const Argument& argument : command.arguments) {
    text += argument.optional ? " [" + argument.name + "]" : " " + argument.name;
  }
  return text;
}

std::string HelpText(const Tool& tool, const Command* command) {
  if (command == nullptr) command = UnnamedCommand(tool);
  if (command != nullptr) return CommandHelp(tool, *command);
  std::string out = "Usage: " + tool.name + " COMMAND [OPTION]... [ARGUMENT]...\n";
  for (const std::string& paragraph : tool.description) {
    out += "\n";
    AppendParagraph(out, paragraph);
  }
  AppendCommands(out, tool);
  AppendOptions(out, "Options", tool.shared_options);
  return out + CommandHint(tool);
}

std::string FirstSentence(std::string_view text) {
  const std::size_t end = std::min(text.find(". "), text.size());
  std::string sentence(text.substr(0, end));
  if (sentence.ends_with('.')) sentence.pop_back();
  return sentence;
}

}  // namespace dsv3::cli
