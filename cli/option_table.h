#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// The commands and options of a tool, as data. Parsing, --help, man pages and shell completions all
// read these tables, so none of them can say something that another does not.
namespace dsv3::cli {

struct CommandContext;

// Thrown by a setter: the text says which values are accepted ("give a whole number …").
class BadValue : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

struct Choice {
  std::string value;
  std::string help;  // a few words, for completions that show them
};

// Which kind of path the value of an option is.
enum class PathUse {
  kNone,
  kCheckpoint,       // a checkpoint to read, also by its name on the Hugging Face hub
  kInputFile,        // a file to read
  kOutputDirectory,  // to write
  kOutputFile,
};

// A named option, such as --threads N.
struct Option {
  std::string name;             // without dashes
  char letter = 0;              // short form, 0 for none
  std::string value_name;       // "N"; empty for a flag
  std::string help;             // plain sentences; the first is also printed alone
  std::vector<Choice> choices;  // words that are accepted; empty where any value may be
  bool open = false;            // other values than `choices` are accepted, too
  bool repeatable = false;      // each value counts; of all other options the last one does
  // Values other than `choices` are paths of this kind, behind `path_prefix` ("keys:") where there
  // is one; then values without it are none.
  PathUse path = PathUse::kNone;
  std::string path_prefix;
  // Says how one run goes, not what it makes: not a part of the command that continues the job.
  bool of_one_run = false;
  // Stores the value, "" for a flag. Throws BadValue.
  std::function<void(const std::string&)> set;

  bool TakesValue() const { return !value_name.empty(); }
  // Whether every value is a path.
  bool TakesPath() const { return path != PathUse::kNone && !open; }
};

// The name of the argument that is the directory to write.
inline constexpr std::string_view kOutputName = "OUT";

// A positional argument; all of them are paths. Those that may be left out, whose target stays
// empty then, are the last ones.
struct Argument {
  std::string name;  // "IN"
  std::string help;
  std::string* target = nullptr;
  bool optional = false;
};

struct Example {
  std::string words;  // the words after the tool's name
  std::string help;
};

// A job of a tool. To add one: write a function that returns its table, and a run function.
struct Command {
  // "fp8-to-bf16", or two words with one space, "checksum create"; empty for the job that a tool
  // does when no command is named; a tool may have it beside named ones.
  std::string name;
  std::string summary;                   // one line without a full stop
  std::vector<std::string> description;  // paragraphs for --help and the man page
  std::vector<Argument> arguments;
  std::vector<Option> options;
  std::vector<Example> examples;
  // How things are after an interruption, or what to do: follows "stopping; ".
  std::string after_stop = "nothing was changed";
  // Whether `run` heeds CommandContext::stop, and so gets a moment to end by itself.
  bool stops_by_itself = false;
  // Whether processes that mpirun started share the work; otherwise process 0 does all of it.
  bool shares_work = false;
  // Whether --quiet keeps the text that `run` returns, because it is the data that was asked for or
  // `run` heeds --quiet itself.
  bool returns_data = false;
  // Does the work and returns the text for stdout, in JSON when the context asks for it. Throws
  // Error; prints nothing but progress and warnings.
  std::function<std::string(CommandContext&)> run;
};

// The first word of a command's name, and the second one; empty where there is none.
inline std::string FirstWord(const std::string& name) { return name.substr(0, name.find(' ')); }
inline std::string SecondWord(const std::string& name) {
  const std::size_t space = name.find(' ');
  return space == std::string::npos ? "" : name.substr(space + 1);
}

struct Tool {
  std::string name;     // "dsv3-convert"
  std::string summary;  // one line without a full stop
  std::vector<std::string> description;
  std::vector<Command> commands;
  std::vector<Option> shared_options;  // understood by every command
  std::vector<std::string> see_also;   // other tools
};

// The command without a name; null where the tool has none.
const Command* UnnamedCommand(const Tool& tool);
// Whether there are commands with names.
bool HasNamedCommands(const Tool& tool);

// The words that begin the names of the commands, or with `first` those that may follow it
// ("create", "check" after "checksum"); each once, in the order of the table.
std::vector<std::string> NextWords(const Tool& tool, const std::string& first = "");

// Option constructors. Targets must outlive the table's use.
Option Flag(std::string name, bool* target, std::string help, char letter = 0);
// Whole decimal numbers in [0, max]; `zero_means`, when not empty, explains 0 in messages.
Option Number(std::string name, std::string value_name, std::uint64_t max,
              const std::string& zero_means, std::function<void(std::uint64_t)> store,
              std::string help, char letter = 0);
// Whole decimal numbers in [1, max].
Option Count(std::string name, std::string value_name, std::uint64_t max,
             std::function<void(std::uint64_t)> store, std::string help);
// A decimal number that is finite and not negative, such as 0.001 or 1e-3.
Option RealNumber(std::string name, std::string value_name, double* target, std::string help);
// A positive amount of bytes, see ParseSize.
Option Size(std::string name, std::uint64_t* target, std::string help);
Option Text(std::string name, std::string value_name, std::string* target, std::string help);
// The same for a path.
Option PathOption(std::string name, std::string value_name, PathUse use, std::string* target,
                  std::string help);
Option PathOption(std::string name, std::string value_name, PathUse use,
                  std::filesystem::path* target, std::string help);
// Text for an option that may be given several times: the values in their order.
Option Texts(std::string name, std::string value_name, std::vector<std::string>* target,
             std::string help);

template <typename T>
struct ChoiceOf {
  std::string value;
  T meaning;
  std::string help;
};

// One of a few words. The target, a T or a std::optional of it, gets the chosen meaning.
template <typename T, typename Target>
Option OneOf(std::string name, std::string value_name, std::vector<ChoiceOf<T>> choices,
             Target* target, std::string help);

// Whole decimal number at most `max`: digits only, no sign, no space. Throws BadValue with
// `accepted`.
std::uint64_t ParseNumber(const std::string& text, std::uint64_t max, const std::string& accepted);

// Bytes: a positive whole number, or one followed by K, M, G (powers of 1000) or Ki, Mi, Gi (powers
// of 1024), each with or without a final B. Throws BadValue for anything else, zero and whatever
// does not fit 64 bits.
std::uint64_t ParseSize(const std::string& text);

// `option`, which says how one run goes (Option::of_one_run).
Option OfOneRun(Option option);

// "sha256 or none"; "bash, zsh or fish".
std::string JoinWords(const std::vector<std::string>& words);
std::string JoinChoices(const std::vector<Choice>& choices);

template <typename T, typename Target>
Option OneOf(std::string name, std::string value_name, std::vector<ChoiceOf<T>> choices,
             Target* target, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  for (const auto& choice : choices) option.choices.push_back({choice.value, choice.help});
  const std::string accepted = "give " + JoinChoices(option.choices);
  option.set = [choices = std::move(choices), target, accepted](const std::string& text) {
    for (const auto& choice : choices) {
      if (choice.value == text) {
        *target = choice.meaning;
        return;
      }
    }
    throw BadValue(accepted);
  };
  return option;
}

}  // namespace dsv3::cli
