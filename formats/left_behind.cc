#include "formats/left_behind.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "formats/adapter_name.h"
#include "formats/download_mark.h"
#include "formats/sums_file.h"
#include "formats/text_encoding.h"

namespace dsv3::formats {
namespace {

// Of frameworks and engines. What follows a '.' or '-' after ".gguf" is the number of a part.
constexpr std::array<std::string_view, 41> kWeightSuffixes = {
    ".bin", ".pt", ".pt2", ".pth", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".onnx_data",
    ".ckpt", ".onnx.data", ".pdparams", ".ot", ".npz", ".tflite", ".nemo", ".mar", ".mlmodel",
    ".engine", "openvino_model.xml", ".imatrix", "imatrix.dat", ".keras", ".trt", ".plan", ".rten",
    ".ggjt", "saved_model.pb", "ndarray-cache.json", "mlc-chat-config.json",
    // Packed, and records of where weights are kept.
    ".safetensors.gz", ".safetensors.zst", ".safetensors.xz", ".safetensors.lz4",
    ".safetensors.dvc",
    // Of another time, or put aside.
    ".safetensors.bak", ".safetensors.old", ".safetensors.orig", ".safetensors.backup",
    ".safetensors~"};

// The last two are of TensorFlow.
constexpr std::array<std::string_view, 7> kWeightSuffixesOfParts = {
    ".gguf-", ".gguf.", ".bin.part", ".pth.part", ".pt.part", "variables.data-", "variables.index"};

constexpr std::array<std::string_view, 12> kTrainingPrefixes = {
    "optimizer.",     "optimizer-",         "optimizer_",  "scheduler.pt",
    "scheduler.bin",  "scaler.pt",          "sampler.bin", "rng_state",
    "random_states_", "custom_checkpoint_", "dl_state_",   "events.out.tfevents"};

// Of Hugging Face's Trainer, DeepSpeed and Megatron.
constexpr std::array<std::string_view, 9> kTrainingNames = {
    "training_args.bin", ".metadata", "trainer_state.json", "training_args.json",
    "training_state.pt", "latest",    "latest_universal",   "latest_checkpointed_iteration.txt",
    "zero_to_fp32.py"};

constexpr std::array<std::string_view, 16> kSystemNames = {
    ".msc",          ".mdl",          ".mv",        ".ds_store",        "thumbs.db", "desktop.ini",
    "ehthumbs.db",   ".localized",    ".directory", "icon\r",           "nohup.out", ".dropbox",
    ".dropbox.attr", "aria2.session", "wget-log",   ".owncloudsync.log"};

// Of operating systems, network disks, editors and downloaders.
constexpr std::array<std::string_view, 30> kSystemFolders = {"__macosx",
                                                             ".appledouble",
                                                             ".spotlight-v100",
                                                             ".fseventsd",
                                                             ".trashes",
                                                             ".temporaryitems",
                                                             "$recycle.bin",
                                                             "system volume information",
                                                             "lost+found",
                                                             "@eadir",
                                                             ".huggingface",
                                                             ".ipynb_checkpoints",
                                                             "__pycache__",
                                                             ".idea",
                                                             ".vscode",
                                                             ".svn",
                                                             ".hg",
                                                             ".locks",
                                                             ".hfd",
                                                             ".ms_download",
                                                             ".stfolder",
                                                             ".stversions",
                                                             ".sync",
                                                             ".snapshot",
                                                             ".zfs",
                                                             ".dvc",
                                                             ".pytest_cache",
                                                             ".mypy_cache",
                                                             ".ruff_cache",
                                                             ".modelscope"};

// Of editors and of programs that lock a file.
constexpr std::array<std::string_view, 10> kEditorSuffixes = {
    "~", ".swp", ".swo", ".orig", ".bak", ".old", ".rej", ".lock", ".pyc", ".torrent"};

bool IsOfEditor(std::string_view name) {
  if (name.starts_with('#') && name.ends_with('#')) return true;
  return name.starts_with(".~lock.") || name.starts_with("~$") ||
         std::any_of(kEditorSuffixes.begin(), kEditorSuffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

// "core.4711", which a program left that crashed.
bool IsCoreDump(std::string_view name) {
  constexpr std::string_view kCore = "core.";
  if (!name.starts_with(kCore)) return false;
  name.remove_prefix(kCore.size());
  return !name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos;
}

std::vector<std::string_view> Components(std::string_view path) {
  std::vector<std::string_view> components;
  while (true) {
    const std::size_t slash = path.find('/');
    components.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) return components;
    path.remove_prefix(slash + 1);
  }
}

template <std::size_t N>
bool EndsWithOneOf(std::string_view name, const std::array<std::string_view, N>& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

template <std::size_t N>
bool IsOneOf(std::string_view name, const std::array<std::string_view, N>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool IsSystemRecord(const std::vector<std::string_view>& components) {
  return std::any_of(components.begin(), components.end(),
                     [](std::string_view component) {
                       return component.starts_with("._") || component.starts_with(".trash-") ||
                              component.starts_with(".nfs") ||
                              component.starts_with(".fuse_hidden") ||
                              IsOneOf(component, kSystemFolders);
                     }) ||
         IsOneOf(components.back(), kSystemNames);
}

bool IsTrainingState(const std::vector<std::string_view>& components) {
  const std::string_view name = components.back();
  // The directories of DeepSpeed, and of Hugging Face's Trainer for the steps between.
  const auto is_step = [](std::string_view component) {
    constexpr std::array<std::string_view, 3> kSteps = {"global_step_", "global_step",
                                                        "checkpoint-"};
    const auto step = std::find_if(kSteps.begin(), kSteps.end(), [&](std::string_view begin) {
      return component.starts_with(begin);
    });
    if (step == kSteps.end()) return false;
    component.remove_prefix(step->size());
    return !component.empty() &&
           component.find_first_not_of("0123456789") == std::string_view::npos;
  };
  const auto is_log = [](std::string_view component) { return component == "wandb"; };
  return std::any_of(components.begin(), components.end() - 1, is_step) ||
         std::any_of(components.begin(), components.end() - 1, is_log) ||
         std::any_of(kTrainingPrefixes.begin(), kTrainingPrefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); }) ||
         IsOneOf(name, kTrainingNames) || name.find("optim_states.") != std::string_view::npos ||
         name.ends_with(".distcp");
}

bool IsOtherIndex(std::string_view name) {
  return name.ends_with(".json") && (name.ends_with(".index.json") ||
                                     name.find(".safetensors.index.") != std::string_view::npos ||
                                     name.find(".bin.index.") != std::string_view::npos);
}

bool IsOtherWeights(const std::vector<std::string_view>& components) {
  const std::string_view name = components.back();
  const auto is_core_ml = [](std::string_view component) {
    return component.ends_with(".mlpackage") || component.ends_with(".mlmodelc");
  };
  return (components.size() > 1 && components.front() == "original") ||
         std::any_of(components.begin(), components.end(), is_core_ml) ||
         EndsWithOneOf(name, kWeightSuffixes) ||
         std::any_of(kWeightSuffixesOfParts.begin(), kWeightSuffixesOfParts.end(),
                     [&](std::string_view part) { return name.find(part) != name.npos; });
}

}  // namespace

std::string_view LeftBehindKindName(LeftBehindKind kind) {
  switch (kind) {
    case LeftBehindKind::kOtherWeights:
      return "other-weights";
    case LeftBehindKind::kAdapter:
      return "adapter";
    case LeftBehindKind::kTrainingState:
      return "training-state";
    case LeftBehindKind::kOtherIndex:
      return "other-index";
    case LeftBehindKind::kChecksums:
      return "checksums";
    case LeftBehindKind::kSystemRecord:
      return "system-record";
    case LeftBehindKind::kUntrueDescription:
      break;
  }
  return "untrue-description";
}

std::optional<LeftBehindKind> KindOfLeftBehind(std::string_view relative_name) {
  const std::string path = AsciiLower(relative_name);
  const std::vector<std::string_view> components = Components(path);
  const std::string_view name = components.back();
  if (IsSystemRecord(components) || !HowDownloadGoesOn(path).empty()) {
    return LeftBehindKind::kSystemRecord;
  }
  if (IsAdapterName(name)) return LeftBehindKind::kAdapter;
  if (IsTrainingState(components)) return LeftBehindKind::kTrainingState;
  if (IsOtherIndex(name)) return LeftBehindKind::kOtherIndex;
  if (IsSumsName(name) || IsSumsSignatureName(name) || !OtherDigestOfName(name).empty()) {
    return LeftBehindKind::kChecksums;
  }
  if (IsOtherWeights(components)) return LeftBehindKind::kOtherWeights;
  if (IsOfEditor(name) || IsCoreDump(name)) return LeftBehindKind::kSystemRecord;
  return std::nullopt;
}

}  // namespace dsv3::formats
