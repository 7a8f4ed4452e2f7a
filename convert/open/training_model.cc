#include "convert/open/training_model.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/layouts/mindformers_w8a8_names.h"
#include "convert/layouts/stacks.h"
#include "convert/open/assembled_model.h"
#include "convert/open/gate_up_order.h"
#include "convert/open/sharded_tensors.h"
#include "convert/open/training_reader.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/left_behind.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;

// The config that was named, or that lies beside the files or in the directory around them, there
// also where verl puts it.
fs::path FindConfig(const TrainingPlace& place, const OpenOptions& options) {
  if (!options.config.empty()) return options.config;
  const fs::path around = place.directory.parent_path();
  for (const fs::path& directory : {place.directory, around, around / "huggingface"}) {
    if (formats::Exists(directory / kConfigName)) return directory / kConfigName;
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: a training checkpoint does not say what the model is, and there is "
                          "no config.json beside it; copy the model's config.json, as it is on "
                          "Hugging Face, into this directory{}",
                          formats::ShownPath(place.directory),
                          options.takes_config ? ", or name it with --config FILE" : ""));
}

// Of a directory of torch.save files, those that belong to the model. The other kinds of directory
// hold nothing but the training's own files.
void TakeSideFiles(const TrainingPlace& place, OpenedModel& model) {
  if (place.kind == TrainingPlace::Kind::kTorchFiles ||
      place.kind == TrainingPlace::Kind::kNamedSafetensors ||
      place.kind == TrainingPlace::Kind::kSafetensors) {
    for (const std::string& name : formats::ListCheckpoint(place.directory, false).side_files) {
      if (name == kConfigName || name == kParameterMap ||
          std::count(place.files.begin(), place.files.end(), name) != 0) {
        continue;
      }
      if (const auto kind = formats::KindOfLeftBehind(name)) {
        std::error_code error;
        const std::uintmax_t bytes = fs::file_size(place.directory / name, error);
        model.left_behind.push_back({name, *kind, error ? 0 : bytes});
      } else {
        model.side_files.push_back(name);
      }
    }
  }
  model.side_files.emplace_back(kConfigName);
  std::sort(model.side_files.begin(), model.side_files.end());
}

std::vector<bool> SourcesOf(const TrainingReading& reading, std::size_t tensors) {
  std::vector<bool> wanted(tensors, false);
  for (const ComposedTensor& tensor : reading.layout.tensors) {
    for (const TensorPart& part : tensor.parts) wanted[part.source] = true;
  }
  for (const EqualTensors& copy : reading.copies) wanted[copy.second] = true;
  return wanted;
}

// Takes the second copies of biases out of the model: they must be equal to the first ones.
void TakeSecondBiases(TrainingReading& training) {
  std::vector<ComposedTensor>& tensors = training.layout.tensors;
  for (const ComposedTensor& second : tensors) {
    const std::string first = FirstW8A8Bias(second.name);
    if (first.empty()) continue;
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const ComposedTensor& t) { return t.name == first; });
    if (found == tensors.end()) continue;
    training.copies.push_back({found->parts[0].source, second.parts[0].source});
  }
  std::erase_if(tensors,
                [](const ComposedTensor& tensor) { return !FirstW8A8Bias(tensor.name).empty(); });
}

// The groups of stored tensors that must be equal. Each of these tensors is stored in one piece.
std::vector<std::vector<std::uint32_t>> StoredCopies(const std::vector<EqualTensors>& copies,
                                                     const std::vector<ShardedTensor>& tensors) {
  std::map<std::uint32_t, std::vector<std::uint32_t>> groups;  // by the tensor that is read
  for (const EqualTensors& copy : copies) {
    std::vector<std::uint32_t>& group = groups[copy.first];
    if (group.empty()) group.push_back(tensors[copy.first].pieces[0].stored);
    group.push_back(tensors[copy.second].pieces[0].stored);
  }
  std::vector<std::vector<std::uint32_t>> stored;
  stored.reserve(groups.size());
  for (auto& [first, group] : groups) stored.push_back(std::move(group));
  return stored;
}

// That a stack was taken which another one has the names and shapes of.
formats::Finding GuessedOrder(Stack taken, const GateUpOrder& order) {
  const std::string_view other = StackName(*LookAlikeOf(taken));
  const std::string why =
      order.said.empty()
          ? fmt::format("no config.json or YAML file beside the weights has {}", kGateUpSwitch)
          : fmt::format("{} contradict each other on {}", fmt::join(order.said, " and "),
                        kGateUpSwitch);
  return {formats::Severity::kWarning, "order-not-known", "", "",
          fmt::format("the names and shapes of {} and {} are the same, and {}; the first was "
                      "taken, which has the rows of gate and up in turns. If the network had "
                      "gate before up, every MLP would be wrong: read it with --from {}; if not, "
                      "say --from {}",
                      StackName(taken), other, why, other, StackName(taken))};
}

}  // namespace

OpenedModel OpenTraining(const TrainingPlace& place, const OpenOptions& options) {
  OpenedModel model;
  model.directory = place.directory;
  model.form = formats::CheckpointFiles::Form::kUnindexed;
  model.has_config = true;
  // A file that is not read at all says so before a config is asked for.
  const std::unique_ptr<TrainingReader> reader = ReadTraining(place);
  model.config_given = !options.config.empty();
  const fs::path config = FindConfig(place, options);
  model.config_text = formats::ReadSmallFile(config, formats::kMaxConfigBytes);
  model.config = ParseModelConfig(model.config_text, config.string());

  TrainingReading training = reader->ReadModel(model.config, options.from);
  if (!options.from && LookAlikeOf(training.stack)) {
    const GateUpOrder order = FindGateUpOrder(place.directory, model.config_text);
    if (order.stack && *order.stack != training.stack) {
      training = reader->ReadModel(model.config, order.stack);
    }
    if (!order.stack) model.findings.push_back(GuessedOrder(training.stack, order));
  }
  TakeSecondBiases(training);
  const LayoutReading& reading = training.layout;
  if (!reading.has_mtp) {
    model.missing_mtp_layers = std::exchange(model.config.num_nextn_predict_layers, 0);
  }

  AssembledModel assembled;
  assembled.stored = reader->Locate(SourcesOf(training, reader->tensors().size()));
  assembled.copies = StoredCopies(training.copies, reader->tensors());
  NamedExpressions tensors;
  tensors.reserve(reading.tensors.size());
  Composer composer(reader->tensors(), assembled.stored);
  for (const ComposedTensor& tensor : reading.tensors) {
    tensors.emplace_back(tensor.name, composer.Make(tensor));
  }
  model.catalog = MakeShards(std::move(tensors), kDefaultShardBytes, assembled);
  model.needs_index = assembled.index.has_value();
  model.assembled = std::make_shared<const AssembledModel>(std::move(assembled));
  model.training = {
      std::string(StackName(training.stack)), reading.skipped, reading.padding_rows, {}};
  model.training.order.reserve(reading.tensors.size());
  for (const ComposedTensor& tensor : reading.tensors) {
    model.training.order.push_back(model.catalog.Find(tensor.name));
  }
  TakeSideFiles(place, model);
  return model;
}

}  // namespace dsv3::convert
