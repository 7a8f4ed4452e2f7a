#include "cli/job_command.h"

#include <algorithm>

#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

std::string ShownValue(const Option& option, const std::string& value) {
  const bool is_choice = std::any_of(option.choices.begin(), option.choices.end(),
                                     [&](const Choice& choice) { return choice.value == value; });
  if (option.path == PathUse::kNone || is_choice || !value.starts_with(option.path_prefix)) {
    return formats::ShellWord(value);
  }
  const std::string path = value.substr(option.path_prefix.size());
  return option.path_prefix + formats::ShownAbsolutePath(path);
}

}  // namespace

std::string JobCommand(const Tool& tool, const ParsedCall& call) {
  std::string text = tool.name;
  if (!call.command->name.empty()) text += " " + call.command->name;
  for (const GivenOption& given : call.options) {
    const Option& option = *given.option;
    const bool is_shared = std::none_of(call.command->options.begin(), call.command->options.end(),
                                        [&](const Option& own) { return &own == &option; });
    if (option.of_one_run || is_shared) continue;
    text += " --" + option.name;
    if (option.TakesValue()) text += " " + ShownValue(option, given.value);
  }
  for (const Argument& argument : call.command->arguments) {
    if (argument.target->empty()) continue;
    if (argument.name.starts_with(kOutputName)) continue;
    text += " " + formats::ShownAbsolutePath(*argument.target);
  }
  return text;
}

}  // namespace dsv3::cli
