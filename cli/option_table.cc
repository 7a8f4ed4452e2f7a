#include "cli/option_table.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>

namespace dsv3::cli {

namespace {

struct Unit {
  std::string_view suffix;
  std::uint64_t bytes;
};

constexpr std::array<Unit, 7> kUnits = {{
    {"", 1},
    {"K", 1000},
    {"M", 1000'000},
    {"G", 1000'000'000},
    {"Ki", std::uint64_t{1} << 10},
    {"Mi", std::uint64_t{1} << 20},
    {"Gi", std::uint64_t{1} << 30},
}};

constexpr const char* kSizeAccepted =
    "give a whole number of bytes above 0, or one followed by K, M, G (1000) or Ki, Mi, Gi (1024), "
    "such as 200M";

constexpr const char* kTextAccepted = "give a text that is not empty";

// `target` is text or a path.
template <typename Target>
Option TextFor(std::string name, std::string value_name, Target* target, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.set = [target](const std::string& text) {
    if (text.empty()) throw BadValue(kTextAccepted);
    *target = text;
  };
  return option;
}

}  // namespace

Option Flag(std::string name, bool* target, std::string help, char letter) {
  Option option;
  option.name = std::move(name);
  option.letter = letter;
  option.help = std::move(help);
  option.set = [target](const std::string&) { *target = true; };
  return option;
}

Option Number(std::string name, std::string value_name, std::uint64_t max,
              const std::string& zero_means, std::function<void(std::uint64_t)> store,
              std::string help, char letter) {
  std::string accepted = "give a whole number from 0";
  if (!zero_means.empty()) accepted += " (" + zero_means + ")";
  accepted += " to " + std::to_string(max);
  Option option;
  option.name = std::move(name);
  option.letter = letter;
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.set = [max, accepted, store = std::move(store)](const std::string& text) {
    store(ParseNumber(text, max, accepted));
  };
  return option;
}

Option Count(std::string name, std::string value_name, std::uint64_t max,
             std::function<void(std::uint64_t)> store, std::string help) {
  const std::string accepted = "give a whole number from 1 to " + std::to_string(max);
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.set = [max, accepted, store = std::move(store)](const std::string& text) {
    const std::uint64_t value = ParseNumber(text, max, accepted);
    if (value == 0) throw BadValue(accepted);
    store(value);
  };
  return option;
}

Option RealNumber(std::string name, std::string value_name, double* target, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.set = [target](const std::string& text) {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end || !std::isfinite(value) || std::signbit(value)) {
      throw BadValue("give a number that is not negative, such as 0.001 or 1e-3");
    }
    *target = value;
  };
  return option;
}

Option Size(std::string name, std::uint64_t* target, std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = "SIZE";
  option.help = std::move(help);
  option.set = [target](const std::string& text) { *target = ParseSize(text); };
  return option;
}

Option Text(std::string name, std::string value_name, std::string* target, std::string help) {
  return TextFor(std::move(name), std::move(value_name), target, std::move(help));
}

Option PathOption(std::string name, std::string value_name, PathUse use, std::string* target,
                  std::string help) {
  Option option = TextFor(std::move(name), std::move(value_name), target, std::move(help));
  option.path = use;
  return option;
}

Option PathOption(std::string name, std::string value_name, PathUse use,
                  std::filesystem::path* target, std::string help) {
  Option option = TextFor(std::move(name), std::move(value_name), target, std::move(help));
  option.path = use;
  return option;
}

Option OfOneRun(Option option) {
  option.of_one_run = true;
  return option;
}

Option Texts(std::string name, std::string value_name, std::vector<std::string>* target,
             std::string help) {
  Option option;
  option.name = std::move(name);
  option.value_name = std::move(value_name);
  option.help = std::move(help);
  option.repeatable = true;
  option.set = [target](const std::string& text) {
    if (text.empty()) throw BadValue(kTextAccepted);
    target->push_back(text);
  };
  return option;
}

std::uint64_t ParseNumber(const std::string& text, std::uint64_t max, const std::string& accepted) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || stop != end || value > max) throw BadValue(accepted);
  return value;
}

std::uint64_t ParseSize(const std::string& text) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || value == 0) throw BadValue(kSizeAccepted);
  std::string_view suffix(stop, static_cast<std::size_t>(end - stop));
  if (suffix.ends_with('B')) suffix.remove_suffix(1);
  for (const Unit& unit : kUnits) {
    if (suffix != unit.suffix) continue;
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(value, unit.bytes, &bytes)) break;
    return bytes;
  }
  throw BadValue(kSizeAccepted);
}

const Command* UnnamedCommand(const Tool& tool) {
  for (const Command& command : tool.commands) {
    if (command.name.empty()) return &command;
  }
  return nullptr;
}

bool HasNamedCommands(const Tool& tool) {
  return tool.commands.size() > (UnnamedCommand(tool) == nullptr ? 0 : 1);
}

std::vector<std::string> NextWords(const Tool& tool, const std::string& first) {
  std::vector<std::string> words;
  for (const Command& command : tool.commands) {
    if (!first.empty() && FirstWord(command.name) != first) continue;
    const std::string word = first.empty() ? FirstWord(command.name) : SecondWord(command.name);
    if (!word.empty() && std::find(words.begin(), words.end(), word) == words.end()) {
      words.push_back(word);
    }
  }
  return words;
}

std::string JoinWords(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

std::string JoinChoices(const std::vector<Choice>& choices) {
  std::vector<std::string> words;
  words.reserve(choices.size());
  for (const Choice& choice : choices) words.push_back(choice.value);
  return JoinWords(words);
}

}  // namespace dsv3::cli
