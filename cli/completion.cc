#include "cli/completion.h"

#include <set>
#include <string_view>

#include "cli/help.h"

namespace dsv3::cli {

namespace {

std::string FunctionName(const Tool& tool) {
  std::string name = "_" + tool.name;
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
}

// The text within single quotes, for shells that end and reopen them around a quote.
std::string Quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

std::string OptionWords(const std::vector<Option>& options) {
  std::string words;
  for (const Option& option : options) words += (words.empty() ? "--" : " --") + option.name;
  return words;
}

std::string ChoiceWords(const Option& option) {
  std::string words;
  for (const Choice& choice : option.choices) words += (words.empty() ? "" : " ") + choice.value;
  return words;
}

bool CompletesPaths(const Option& option) { return option.TakesPath() || option.open; }

// Adds the paths that begin as the word does.
std::string BashPaths(const std::string& indent) {
  return indent + "compopt -o filenames 2> /dev/null\n" + indent +
         "mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- \"$cur\")\n";
}

std::string Spaced(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// First words of names of two words: "checksum".
std::vector<std::string> Groups(const Tool& tool) {
  std::vector<std::string> groups;
  for (const std::string& first : NextWords(tool)) {
    if (!NextWords(tool, first).empty()) groups.push_back(first);
  }
  return groups;
}

const Command* FindCommand(const Tool& tool, const std::string& name) {
  for (const Command& command : tool.commands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

// The help of a word: a command's summary, or the words that may follow it.
std::string WordHelp(const Tool& tool, const std::string& first, const std::string& word) {
  const Command* command = FindCommand(tool, first.empty() ? word : first + " " + word);
  return command != nullptr ? command->summary : JoinWords(NextWords(tool, word));
}

// The name as a pattern of `case`.
std::string CasePattern(const std::string& name) {
  return SecondWord(name).empty() ? name : Quoted(name);
}

// Options that take a value, each name once, over all commands.
std::vector<const Option*> ValueOptions(const Tool& tool) {
  std::vector<const Option*> options;
  std::set<std::string> names;
  const auto add = [&](const std::vector<Option>& table) {
    for (const Option& option : table) {
      if (option.TakesValue() && names.insert(option.name).second) options.push_back(&option);
    }
  };
  for (const Command& command : tool.commands) add(command.options);
  add(tool.shared_options);
  return options;
}

void AppendBashCommandSearch(std::string& out, const Tool& tool) {
  std::string patterns;
  for (const Option* option : ValueOptions(tool)) {
    patterns += (patterns.empty() ? "--" : "|--") + option->name;
    if (option->letter != 0) patterns += std::string("|-") + option->letter;
  }
  out += "  for ((i = 1; i < COMP_CWORD; i++)); do\n";
  out += "    case ${COMP_WORDS[i]} in\n";
  out += "      " + patterns + ")\n";
  out += "        [[ ${COMP_WORDS[i + 1]} == = ]] && i=$((i + 1))\n";
  out += "        i=$((i + 1))\n        continue\n        ;;\n";
  out += "    esac\n";
  out += "    case ${command:+$command }${COMP_WORDS[i]} in\n";
  std::string names;
  for (const Command& command : tool.commands) {
    if (!command.name.empty()) names += (names.empty() ? "" : "|") + CasePattern(command.name);
  }
  out += "      " + names + ")\n";
  out += "        command+=${command:+ }${COMP_WORDS[i]}\n        break\n        ;;\n";
  for (const std::string& group : Groups(tool)) {
    out += "      " + group + ") command=" + group + " ;;\n";
  }
  if (UnnamedCommand(tool) != nullptr) {
    // Behind the first argument a command's name is a path like others.
    out += "      -*) ;;\n      *)\n        argument=yes\n        break\n        ;;\n";
  }
  out += "    esac\n  done\n";
}

// Offers the words where no command, or only half of one, is there; the names of commands beside
// paths where the first argument may be either.
void AppendBashCommandWords(std::string& out, const Tool& tool, const std::string& first) {
  const bool optional = first.empty() && UnnamedCommand(tool) != nullptr;
  if (optional) {
    out += "  if [[ -z $command && -z $argument ]]; then\n";
  } else {
    out += first.empty() ? "  if [[ -z $command ]]; then\n"
                         : "  if [[ $command == " + first + " ]]; then\n";
  }
  out += "    mapfile -t COMPREPLY < <(compgen -W " + Quoted(Spaced(NextWords(tool, first))) +
         " -- \"$cur\")\n";
  out += optional ? "  fi\n" : "    return\n  fi\n";
}

// _arguments specification of an option.
std::string ZshOption(const Option& option) {
  std::string help;
  for (const char c : FirstSentence(option.help)) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') help += '\\';
    help += c;
  }
  std::string value;
  if (option.TakesValue()) {
    value = ":" + option.value_name + ":";
    if (option.choices.empty()) {
      value += option.TakesPath() ? "_files" : " ";
    } else if (option.open) {
      value += "{compadd " + ChoiceWords(option) + "; _files}";
    } else {
      value += "(" + ChoiceWords(option) + ")";
    }
  }
  const std::string equals = option.TakesValue() ? "=" : "";
  std::string text = Quoted("--" + option.name + equals + "[" + help + "]" + value);
  if (option.letter != 0) {
    // "+": the value may be in the same word.
    const std::string plus = option.TakesValue() ? "+" : "";
    text +=
        " \\\n      " + Quoted(std::string("-") + option.letter + plus + "[" + help + "]" + value);
  }
  return text;
}

void AppendZshArguments(std::string& out, const std::vector<Option>& options) {
  for (const Option& option : options) out += " \\\n      " + ZshOption(option);
}

// Paths for the arguments but the first `taken` ones.
void AppendZshPaths(std::string& out, const Command& command, std::size_t taken = 0) {
  for (std::size_t i = taken; i < command.arguments.size(); ++i) {
    out += " \\\n      " +
           Quoted(std::to_string(i + 1 - taken) + ":" + command.arguments[i].name + ":_files");
  }
}

// Appends the completion of a command's first word, or with `first` of its second one, and then of
// all words that follow.
void AppendZshCommands(std::string& out, const Tool& tool, const std::string& first) {
  const Command* unnamed = first.empty() ? UnnamedCommand(tool) : nullptr;
  out += "  _arguments -C";
  if (unnamed != nullptr) AppendZshArguments(out, unnamed->options);
  AppendZshArguments(out, tool.shared_options);
  out += " \\\n      '1:command:->command' \\\n      '*::argument:->argument'\n";
  out += "  commands=(\n";
  for (const std::string& word : NextWords(tool, first)) {
    out += "    " + Quoted(word + ":" + WordHelp(tool, first, word)) + "\n";
  }
  out += "  )\n";
  out += "  case $state in\n    command)\n      _describe command commands\n";
  if (unnamed != nullptr) out += "      _files\n";
  out += "      ;;\n";
  out += "    argument)\n      case $words[1] in\n";
  for (const std::string& word : NextWords(tool, first)) {
    out += "        " + word + ")\n";
    const Command* command = FindCommand(tool, first.empty() ? word : first + " " + word);
    if (command == nullptr) {
      AppendZshCommands(out, tool, word);
    } else {
      out += "    _arguments";
      AppendZshArguments(out, command->options);
      AppendZshArguments(out, tool.shared_options);
      AppendZshPaths(out, *command);
      out += "\n";
    }
    out += "          ;;\n";
  }
  if (first.empty() && unnamed == nullptr) {
    out += "        help)\n          _describe command commands\n          ;;\n";
  }
  if (unnamed != nullptr) {
    out += "        *)\n    _arguments";
    AppendZshArguments(out, unnamed->options);
    AppendZshArguments(out, tool.shared_options);
    AppendZshPaths(out, *unnamed, 1);
    out += "\n          ;;\n";
  }
  out += "      esac\n      ;;\n  esac\n";
}

// fish evaluates the list, so each help text has quotes of its own.
std::string FishChoices(const Option& option) {
  std::string words;
  for (const Choice& choice : option.choices) {
    words += (words.empty() ? "" : " ") + choice.value + "\\t\"" + choice.help + "\"";
  }
  return words;
}

void AppendFishOption(std::string& out, const Tool& tool, const Command* command,
                      const Option& option) {
  out += "complete -c " + tool.name;
  if (command != nullptr && command->name.empty() && HasNamedCommands(tool)) {
    out += " -n " + Quoted("not __fish_seen_subcommand_from " + Spaced(NextWords(tool)));
  } else if (command != nullptr && !command->name.empty()) {
    std::string condition = "__fish_seen_subcommand_from " + FirstWord(command->name);
    const std::string second = SecondWord(command->name);
    if (!second.empty()) condition += "; and __fish_seen_subcommand_from " + second;
    out += " -n " + Quoted(condition);
  }
  if (option.letter != 0) out += std::string(" -s ") + option.letter;
  out += " -l " + option.name;
  if (option.TakesValue()) out += CompletesPaths(option) ? " -r -F" : " -x";
  if (!option.choices.empty()) out += " -a " + Quoted(FishChoices(option));
  out += " -d " + Quoted(FirstSentence(option.help)) + "\n";
}

// Offers, behind the word `before`, what may follow `first` in a command's name.
void AppendFishWords(std::string& out, const Tool& tool, const std::string& before,
                     const std::string& first) {
  const std::vector<std::string> words = NextWords(tool, first);
  for (const std::string& word : words) {
    out += "complete -c " + tool.name + " -n " +
           Quoted("__fish_seen_subcommand_from " + before +
                  "; and not __fish_seen_subcommand_from " + Spaced(words)) +
           " -f -a " + word + " -d " + Quoted(WordHelp(tool, first, word)) + "\n";
  }
}

std::string BashCompletion(const Tool& tool) {
  const bool named = HasNamedCommands(tool);
  const Command* unnamed = UnnamedCommand(tool);
  const std::string function = FunctionName(tool);
  std::string out = "# bash completion for " + tool.name + "\n";
  out += function + "() {\n";
  out += "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n";
  if (named) {
    out += std::string("  local command=''") + (unnamed != nullptr ? " argument=''" : "") + " i\n";
  }
  out += "  COMPREPLY=()\n";
  out += "  # bash splits --name=value into three words.\n";
  out += "  if [[ $cur == = ]]; then\n    cur=''\n";
  out += "  elif [[ $prev == = ]]; then\n    prev=${COMP_WORDS[COMP_CWORD - 2]}\n  fi\n";
  out += "  case $prev in\n";
  for (const Option* option : ValueOptions(tool)) {
    out += "    --" + option->name + ")\n";
    if (!option->choices.empty()) {
      out += "      mapfile -t COMPREPLY < <(compgen -W " + Quoted(ChoiceWords(*option)) +
             " -- \"$cur\")\n";
    }
    if (CompletesPaths(*option)) out += BashPaths("      ");
    out += "      return\n      ;;\n";
  }
  out += "  esac\n";
  if (named) AppendBashCommandSearch(out, tool);
  const std::string shared = OptionWords(tool.shared_options);
  out += "  local options=" + Quoted(shared) + "\n";
  if (named) {
    out += "  case $command in\n";
    for (const Command& command : tool.commands) {
      out += "    " + (command.name.empty() ? "''" : CasePattern(command.name)) +
             ") options+=" + Quoted(" " + OptionWords(command.options)) + " ;;\n";
    }
    out += "  esac\n";
  } else if (unnamed != nullptr) {
    out += "  options+=" + Quoted(" " + OptionWords(unnamed->options)) + "\n";
  }
  out += "  if [[ $cur == -* ]]; then\n";
  out += "    mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$cur\")\n    return\n  fi\n";
  if (named) {
    AppendBashCommandWords(out, tool, "");
    for (const std::string& group : Groups(tool)) AppendBashCommandWords(out, tool, group);
  }
  out += BashPaths("  ");
  out += "}\ncomplete -F " + function + " " + tool.name + "\n";
  return out;
}

std::string ZshCompletion(const Tool& tool) {
  const std::string function = FunctionName(tool);
  std::string out = "#compdef " + tool.name + "\n\n" + function + "() {\n";
  if (HasNamedCommands(tool)) {
    out += "  local context state state_descr line\n  local -a commands\n  typeset -A opt_args\n";
    AppendZshCommands(out, tool, "");
  } else {
    out += "  _arguments";
    for (const Command& command : tool.commands) {
      AppendZshArguments(out, command.options);
      AppendZshPaths(out, command);
    }
    AppendZshArguments(out, tool.shared_options);
    out += "\n";
  }
  out += "}\n\n";
  out += "if [[ $funcstack[1] == _" + tool.name + " ]]; then\n  " + function + " \"$@\"\n";
  out += "else\n  compdef " + function + " " + tool.name + "\nfi\n";
  return out;
}

std::string FishCompletion(const Tool& tool) {
  std::string out = "# fish completion for " + tool.name + "\n";
  if (HasNamedCommands(tool)) {
    const std::string only = UnnamedCommand(tool) == nullptr ? " -f" : "";  // no paths beside them
    for (const std::string& word : NextWords(tool)) {
      out += "complete -c " + tool.name + " -n __fish_use_subcommand" + only + " -a " + word +
             " -d " + Quoted(WordHelp(tool, "", word)) + "\n";
      AppendFishWords(out, tool, word, word);
    }
    AppendFishWords(out, tool, "help", "");
  }
  for (const Command& command : tool.commands) {
    for (const Option& option : command.options) AppendFishOption(out, tool, &command, option);
  }
  for (const Option& option : tool.shared_options) AppendFishOption(out, tool, nullptr, option);
  return out;
}

}  // namespace

std::string CompletionScript(const Tool& tool, const std::string& shell) {
  if (shell == "bash") return BashCompletion(tool);
  if (shell == "zsh") return ZshCompletion(tool);
  return FishCompletion(tool);
}

}  // namespace dsv3::cli
