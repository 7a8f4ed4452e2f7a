#include "cli/parse.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>

#include <CLI/CLI.hpp>

#include "cli/foreign_words.h"
#include "cli/help.h"
#include "cli/place_arguments.h"
#include "cli/suggest.h"

namespace dsv3::cli {

namespace {

using Options = std::vector<const Option*>;

Options OptionsOf(const Tool& tool, const Command* command) {
  Options options;
  if (command != nullptr) {
    for (const Option& option : command->options) options.push_back(&option);
  }
  for (const Option& option : tool.shared_options) options.push_back(&option);
  return options;
}

const Option* FindByName(const Options& options, std::string_view name) {
  for (const Option* option : options) {
    if (option->name == name) return option;
  }
  return nullptr;
}

const Option* FindByLetter(const Options& options, char letter) {
  for (const Option* option : options) {
    if (option->letter != 0 && option->letter == letter) return option;
  }
  return nullptr;
}

std::string HelpHint(const Tool& tool, const Command* command) {
  const std::string call = command == nullptr ? tool.name : CallName(tool, *command);
  return "Run '" + call + " --help' to see what it accepts.";
}

// "--threads" of "--threads=4".
std::string_view NamePart(std::string_view word) { return word.substr(0, word.find('=')); }

bool LooksLikeOption(std::string_view word) { return word.size() > 1 && word.front() == '-'; }

// One pass over the words that knows every option, so that it can distinguish the command's name
// from an option's value.
class WordWalker {
 public:
  WordWalker(const Tool& tool, const std::vector<std::string>& words) : tool_(tool), words_(words) {
    for (const Command& command : tool.commands) {
      for (const Option& option : command.options) all_.push_back(&option);
    }
    for (const Option& option : tool.shared_options) all_.push_back(&option);
  }

  // Positions of the first words, at most `count`, that are neither an option nor an option's
  // value, up to a "--" unless `beyond_dashes`. Throws for a word before them that looks like an
  // option and is none of any command.
  std::vector<std::size_t> PlainWords(std::size_t count, bool beyond_dashes) const {
    std::vector<std::size_t> found;
    bool options_end = false;
    for (std::size_t i = 0; i < words_.size() && found.size() < count; ++i) {
      if (!options_end && words_[i] == "--") {
        if (!beyond_dashes) break;
        options_end = true;
      } else if (options_end || !LooksLikeOption(words_[i])) {
        found.push_back(i);
      } else {
        const Match match = Find(all_, words_[i]);
        // Whether the next word is its value cannot be known, so nothing after it is judged.
        if (match.option == nullptr) Unknown(words_[i], nullptr, all_);
        if (match.value_is_next) ++i;
      }
    }
    return found;
  }

  // Throws for the first word that looks like an option and is none of `command`, for a value
  // given to a flag, and for a value that is missing.
  void Check(const Command* command) const {
    const Options options = OptionsOf(tool_, command);
    for (std::size_t i = 0; i < words_.size() && words_[i] != "--"; ++i) {
      const std::string& word = words_[i];
      if (!LooksLikeOption(word)) continue;
      const auto [option, value_is_next] = Find(options, word);
      if (option == nullptr) Unknown(word, command, options);
      if (!option->TakesValue()) {
        if (word.find('=') == std::string::npos) continue;
        throw UsageError("option --" + option->name + " takes no value, but was given '" +
                             word.substr(word.find('=') + 1) + "'",
                         HelpHint(tool_, command));
      }
      // "--threads=", of a variable that is empty: the next word is none of its own.
      const bool is_empty = word.starts_with("--") && NamePart(word).size() + 1 == word.size();
      if (!value_is_next && !is_empty) continue;
      if (value_is_next && ++i < words_.size()) continue;
      throw UsageError("option --" + option->name + " needs a value; " + Accepted(*option),
                       HelpHint(tool_, command));
    }
  }

 private:
  struct Match {
    const Option* option = nullptr;  // the last one of a word of several letters
    bool value_is_next = false;      // whether the next word is its value
  };

  static Match Find(const Options& options, std::string_view word) {
    if (word.starts_with("--")) {
      const Option* option = FindByName(options, NamePart(word).substr(2));
      const bool has_value = word.find('=') != std::string_view::npos;
      return {option, option != nullptr && option->TakesValue() && !has_value};
    }
    Match match;
    for (std::size_t i = 1; i < word.size(); ++i) {
      match.option = FindByLetter(options, word[i]);
      if (match.option == nullptr) return {};
      // The rest of the word is its value: -j4.
      if (match.option->TakesValue()) return {match.option, i + 1 == word.size()};
    }
    return match;
  }

  static std::string Accepted(const Option& option) {
    if (!option.choices.empty() && !option.open) return "give " + JoinChoices(option.choices);
    return "write --" + option.name + " " + option.value_name;
  }

  [[noreturn]] void Unknown(const std::string& word, const Command* command,
                            const Options& options) const {
    const std::string shown(NamePart(word));
    std::string message = "unknown option " + shown;
    std::vector<std::string> names;
    for (const Option* option : options) names.push_back(option->name);
    if (shown.starts_with("--")) {
      const std::string name = shown.substr(2);
      for (const Command& other : tool_.commands) {
        if (&other == command || FindByName(OptionsOf(tool_, &other), name) == nullptr) continue;
        message = "option " + shown + " belongs to '" + CallName(tool_, other) + "'";
        if (command != nullptr && !command->name.empty()) {
          message += ", not to '" + command->name + "'";
        }
        throw UsageError(message, HelpHint(tool_, command));
      }
      const std::string near = Nearest(name, names);
      if (const std::string advice = AdviceForOption(name, names); !advice.empty()) {
        message += "; " + advice;
      } else if (!near.empty()) {
        message += "; did you mean --" + near + "?";
      }
    } else if (shown == "-v") {
      message += "; progress and warnings are shown without it, and -V prints the version";
    } else if (const std::string advice = AdviceForOption(shown.substr(1), names);
               !advice.empty()) {
      message += "; " + advice;
    }
    throw UsageError(message, HelpHint(tool_, command));
  }

  const Tool& tool_;
  const std::vector<std::string>& words_;
  Options all_;
};

[[noreturn]] void UnknownCommand(const Tool& tool, const std::string& first,
                                 const std::string& word) {
  const std::string before = first.empty() ? "" : first + " ";
  std::string message = "unknown command '" + before + word + "'";
  const std::vector<std::string> words = NextWords(tool, first);
  const std::string near = Nearest(word, words);
  if (const std::string advice = first.empty() ? AdviceForCommand(tool.name, word) : "";
      !advice.empty()) {
    message += "; " + advice;
  } else if (std::error_code error; first.empty() && std::filesystem::exists(word, error)) {
    message += "; it is a path; the command comes before it";
  } else if (!near.empty()) {
    message += "; did you mean '" + before + near + "'?";
  } else if (!first.empty()) {
    message += "; '" + first + "' is followed by " + JoinWords(words);
  }
  throw UsageError(message, HelpHint(tool, nullptr));
}

// The command that the words name.
struct NamedCommand {
  const Command* command = nullptr;
  std::string half;  // "checksum" where its second word is missing
};

// The command that a call of a tool with an unnamed one means: another one where the first word
// that is neither an option nor an option's value is its name, which is removed from `words` then.
// Words behind "--" are arguments only, so that IN may have any name.
const Command* TakeOptionalCommand(const Tool& tool, const WordWalker& walker,
                                   std::vector<std::string>& words) {
  const Command* unnamed = UnnamedCommand(tool);
  if (!HasNamedCommands(tool)) return unnamed;
  const std::vector<std::size_t> first_at = walker.PlainWords(1, false);
  if (first_at.empty()) return unnamed;
  for (const Command& command : tool.commands) {
    if (command.name.empty() || command.name != words[first_at[0]]) continue;
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(first_at[0]));
    return &command;
  }
  return unnamed;
}

// "help COMMAND" is "COMMAND --help", and -v alone asks for the version, as it does in many tools.
std::vector<std::string> WithoutOtherForms(const Tool& tool, std::vector<std::string> words) {
  if (words.size() == 1 && words[0] == "-v") return {"--version"};
  const std::vector<std::size_t> first_at = WordWalker(tool, words).PlainWords(1, false);
  if (first_at.empty() || words[first_at[0]] != "help") return words;
  words.erase(words.begin() + static_cast<std::ptrdiff_t>(first_at[0]));
  words.insert(words.begin(), "--help");
  return words;
}

// Finds the command and removes its name from `words`.
NamedCommand TakeCommand(const Tool& tool, const WordWalker& walker,
                         std::vector<std::string>& words) {
  const auto find = [&](const std::string& name) -> const Command* {
    const auto found = std::find_if(tool.commands.begin(), tool.commands.end(),
                                    [&](const Command& command) { return command.name == name; });
    return found == tool.commands.end() ? nullptr : &*found;
  };
  const auto take = [&](std::size_t position) {
    std::string word = words[position];
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(position));
    return word;
  };
  const std::vector<std::size_t> first_at = walker.PlainWords(1, true);
  if (first_at.empty()) return {};
  const std::string first = take(first_at[0]);
  if (const Command* command = find(first)) return {command, ""};
  if (NextWords(tool, first).empty()) UnknownCommand(tool, "", first);
  const std::vector<std::size_t> both_at = walker.PlainWords(2, true);
  if (both_at.size() < 2) return {nullptr, first};
  const std::string second = take(both_at[1] - 1);  // the first one is gone
  const Command* command = find(first + " " + second);
  if (command == nullptr) UnknownCommand(tool, first, second);
  return {command, ""};
}

void CheckArguments(const Tool& tool, const Command& command,
                    const std::vector<std::string>& values) {
  const std::string& who = command.name.empty() ? tool.name : command.name;
  const std::string hint = "Usage: " + Synopsis(tool, command) + "\n" + HelpHint(tool, &command);
  if (values.size() > command.arguments.size()) {
    std::string message = "unexpected argument '" + values[command.arguments.size()] + "': " + who +
                          " takes " + (command.arguments.back().optional ? "at most " : "") +
                          std::to_string(command.arguments.size());
    const std::string near =
        command.name.empty() ? Nearest(values[0], NextWords(tool)) : std::string();
    if (!near.empty()) message += "; did you mean '" + tool.name + " " + near + "'?";
    throw UsageError(std::move(message), hint);
  }
  for (std::size_t i = 0; i < command.arguments.size(); ++i) {
    const Argument& argument = command.arguments[i];
    if (i >= values.size()) {
      if (argument.optional) break;
      std::string missing;
      for (std::size_t k = i; k < command.arguments.size(); ++k) {
        if (command.arguments[k].optional) break;
        if (k > i) missing += " and ";
        missing += command.arguments[k].name;
      }
      const std::string of_command = command.name.empty() ? "" : command.name + ": ";
      throw UsageError(of_command + "missing " + missing, hint);
    }
    if (values[i].empty()) throw UsageError(argument.name + " is empty; give a path", hint);
  }
}

// The same value with its path placed.
std::string PlacedValue(const Option& option, const std::string& value) {
  if (option.path == PathUse::kNone || !value.starts_with(option.path_prefix)) return value;
  for (const Choice& choice : option.choices) {
    if (choice.value == value) return value;
  }
  return option.path_prefix +
         PlacedPath(option.path, "--" + option.name, value.substr(option.path_prefix.size()));
}

// Returns the value that it stores.
std::string Store(const Tool& tool, const Command* command, const Option& option,
                  const std::string& text) {
  std::string value = PlacedValue(option, text);
  try {
    option.set(value);
  } catch (const BadValue& bad) {
    std::string message = "--" + option.name + ": '" + value + "' is not accepted; ";
    std::vector<std::string> values;
    for (const Choice& choice : option.choices) values.push_back(choice.value);
    const std::string near = Nearest(value, values);
    message += bad.what();
    if (!near.empty()) message += "; did you mean " + near + "?";
    throw UsageError(message, HelpHint(tool, command));
  }
  return value;
}

// Lets CLI11 take the words apart, then stores the values in the order of the tables. Of an
// option that is given twice the last one counts, unless it is repeatable.
std::vector<std::string> ParseWords(const Tool& tool, const Command* command,
                                    const std::vector<std::string>& words,
                                    std::vector<GivenOption>& given) {
  CLI::App app;
  app.set_help_flag();  // the tables bring their own
  const Options options = OptionsOf(tool, command);
  std::vector<CLI::Option*> parsed;
  for (const Option* option : options) {
    std::string names = "--" + option->name;
    if (option->letter != 0) names += std::string(",-") + option->letter;
    parsed.push_back(option->TakesValue() ? app.add_option(names) : app.add_flag(names));
    parsed.back()->multi_option_policy(option->repeatable ? CLI::MultiOptionPolicy::TakeAll
                                                          : CLI::MultiOptionPolicy::TakeLast);
  }
  std::vector<std::string> values;
  app.allow_extras();
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what(), HelpHint(tool, command));
  }
  for (std::size_t i = 0; i < options.size(); ++i) {
    if (parsed[i]->count() == 0) continue;
    if (options[i]->repeatable) {
      for (const std::string& value : parsed[i]->results()) {
        given.push_back({options[i], Store(tool, command, *options[i], value)});
      }
      continue;
    }
    given.push_back({options[i], Store(tool, command, *options[i],
                                       options[i]->TakesValue() ? parsed[i]->as<std::string>()
                                                                : std::string())});
  }
  for (const std::string& value : app.remaining()) {
    if (value != "--") values.push_back(value);
  }
  return values;
}

}  // namespace

std::vector<Option> InfoOptions(InfoRequest* request) {
  std::vector<Option> options;
  options.push_back(Flag("help", &request->help, "Print this help and end.", 'h'));
  options.push_back(Flag("version", &request->version,
                         "Print the version and what it was built with, and end.", 'V'));
  options.push_back(OneOf<std::string>(
      "completion", "SHELL",
      {{"bash", "bash", "Bourne again shell"}, {"zsh", "zsh", "Z shell"}, {"fish", "fish", "fish"}},
      &request->completion, "Print the completion script for this shell, and end."));
  options.push_back(Flag("man", &request->man, "Print the manual page in mdoc form, and end."));
  return options;
}

ParsedCall ParseCall(const Tool& tool, const std::vector<std::string>& call,
                     const InfoRequest& info) {
  const std::vector<std::string> words = WithoutOtherForms(tool, call);
  const WordWalker walker(tool, words);
  std::vector<std::string> rest = words;
  NamedCommand named;
  if (UnnamedCommand(tool) != nullptr) {
    named.command = TakeOptionalCommand(tool, walker, rest);
  } else {
    named = TakeCommand(tool, walker, rest);
  }
  ParsedCall parsed{named.command, {}};
  const Command* command = named.command;
  walker.Check(command);
  const std::vector<std::string> values = ParseWords(tool, command, rest, parsed.options);
  if (info.help || info.version || info.man || !info.completion.empty()) return parsed;
  if (!named.half.empty()) {
    throw UsageError("'" + named.half + "' is the first word of a command only; add " +
                         JoinWords(NextWords(tool, named.half)),
                     HelpHint(tool, nullptr));
  }
  if (command == nullptr) return parsed;
  CheckArguments(tool, *command, values);
  for (std::size_t i = 0; i < values.size(); ++i) *command->arguments[i].target = values[i];
  return parsed;
}

}  // namespace dsv3::cli
