#include "convert/open/training_place.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/open/other_stacks.h"
#include "formats/checkpoint_files.h"
#include "formats/dcp_safetensors.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/json/json_reader.h"
#include "formats/left_behind.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr char kLatest[] = "latest_checkpointed_iteration.txt";
constexpr char kDcpMetadata[] = ".metadata";
constexpr char kTorchIndex[] = "pytorch_model.bin.index.json";
constexpr std::string_view kLightning = ".ckpt";  // Lightning's files of torch.save

// How deep below a directory without weights training checkpoints are looked for.
constexpr int kLevelsBelow = 2;

[[noreturn]] void Refuse(const fs::path& path, const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(path), problem),
              {path.string(), ""});
}

using Freed = std::vector<formats::FreedShard>;

// Whether the directory has the file, or had it before a run freed it.
bool HasFile(const fs::path& directory, const std::string& name, const Freed& freed) {
  return formats::Exists(directory / name) ||
         formats::FindFreed(freed, name, directory / name) != nullptr;
}

// The names in a directory, sorted, those of freed files among them. Other errors than a missing
// directory are those of opening it.
std::vector<std::string> NamesIn(const fs::path& directory, const Freed& freed) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  for (const formats::FreedShard& file : freed) {
    if (file.name.find('/') == std::string::npos) names.push_back(file.name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool IsTorchName(std::string_view name) {
  return name.ends_with(".pt") || name.ends_with(".pth") || name.ends_with(".bin");
}

// Files and directories beside the weights that trainers write for themselves.
bool IsStateOfTraining(std::string_view name) {
  constexpr std::array<std::string_view, 4> kStarts = {"optim", "adapter_", "trainer_", "recipe_"};
  return formats::KindOfLeftBehind(name) == formats::LeftBehindKind::kTrainingState ||
         name.starts_with("scheduler") || name.starts_with("scaler") ||
         name.starts_with("training_args") ||
         std::any_of(kStarts.begin(), kStarts.end(),
                     [&](std::string_view start) { return name.starts_with(start); });
}

// Whether a trainer wrote the file as transformers writes a model.
bool IsExported(std::string_view name) {
  return name.starts_with("pytorch_model") && name.ends_with(".bin");
}

// Whether the first bytes are those of a zip archive, or of torch.save before version 1.6.
enum class TorchStart { kNone, kZip, kOld };
TorchStart StartOf(const fs::path& path, const Freed& freed) {
  std::array<std::byte, 16> start{};
  std::error_code ignored;
  const std::string name = path.filename().string();
  if (!fs::is_regular_file(path, ignored) && formats::FindFreed(freed, name, path) == nullptr) {
    return TorchStart::kNone;
  }
  const formats::InputFile file = formats::OpenOrFreed(path, name, freed);
  const std::size_t bytes = static_cast<std::size_t>(std::min<std::uint64_t>(16, file.bytes()));
  file.ReadAt(0, std::span(start).first(bytes));
  const std::string_view text(reinterpret_cast<const char*>(start.data()), bytes);
  if (text.starts_with("PK\x03\x04")) return TorchStart::kZip;
  // The pickle of the number 0x1950a86a20f9469cfc6c, which begins such a file.
  if (text.starts_with(
          std::string_view("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14))) {
    return TorchStart::kOld;
  }
  return TorchStart::kNone;
}

// The directory of the iteration that a directory of Megatron or verl names.
fs::path LatestIteration(const fs::path& directory) {
  std::string text = formats::ReadSmallFile(directory / kLatest, 64);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
    text.pop_back();
  }
  std::string name = text;
  const bool number = !text.empty() && text.size() <= 18 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  if (number) name = fmt::format("iter_{:07}", std::stoull(text));
  if (!number && text != "release") {
    Refuse(directory / kLatest,
           fmt::format("it says {}, expected the number of an iteration or release; name the "
                       "directory of an iteration (iter_0000007)",
                       QuoteForMessage(text)));
  }
  std::error_code ignored;
  if (!fs::is_directory(directory / name, ignored)) {
    fs::path of_verl = directory / fmt::format("global_step_{}", text);
    if (number && fs::is_directory(of_verl, ignored)) return of_verl;
    Refuse(directory / kLatest,
           fmt::format("it names {}, and there is no such directory; name the directory of an "
                       "iteration that is there",
                       QuoteForMessage(name)));
  }
  return directory / name;
}

// The files of Megatron's ranks, each in a folder of its own.
std::vector<std::string> RankFiles(const fs::path& directory, const std::vector<std::string>& names,
                                   const Freed& freed) {
  std::vector<std::string> files;
  std::error_code ignored;
  for (const std::string& name : names) {
    if (!name.starts_with(kMegatronRankStart) || !fs::is_directory(directory / name, ignored)) {
      continue;
    }
    files.push_back(fmt::format("{}/{}", name, kMegatronRankFile));
    if (HasFile(directory, files.back(), freed)) continue;
    Refuse(directory / files.back(),
           "there is no such file; copy the folder again from where it comes from");
  }
  return files;
}

// Whether a folder is that of one of Megatron's ranks.
bool IsRankFolder(const fs::path& directory, const Freed& freed) {
  const std::string folder = directory.filename().string();
  return folder.starts_with(kMegatronRankStart) &&
         HasFile(directory.parent_path(), fmt::format("{}/{}", folder, kMegatronRankFile), freed);
}

// The files that an index of PyTorch files lists.
std::vector<std::string> ListedFiles(const fs::path& directory, const Freed& freed) {
  const std::string text =
      formats::ReadSmallFile(directory / kTorchIndex, std::uint64_t{256} << 20);
  std::vector<std::string> files;
  formats::JsonReader reader(
      text, {.file = kTorchIndex, .part = "the index", .advice = "download it again"});
  reader.BeginObject();
  while (const auto member = reader.NextMember()) {
    if (*member != "weight_map") {
      reader.SkipValue();
      continue;
    }
    reader.BeginObject();
    while (reader.NextMember()) files.emplace_back(reader.String());
  }
  reader.End();
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  for (const std::string& file : files) {
    if (file.find('/') != std::string::npos || file == ".." || file == ".") {
      Refuse(directory / kTorchIndex,
             fmt::format("it lists {}, which is not the name of a file beside it; the index is "
                         "damaged, download it again",
                         QuoteForMessage(file)));
    }
    if (!HasFile(directory, file, freed)) {
      Refuse(directory / file,
             fmt::format("there is no such file, and {} lists it; download what is missing",
                         kTorchIndex));
    }
  }
  return files;
}

std::optional<TrainingPlace> FindInDirectory(const fs::path& directory, const Freed& freed,
                                             int levels = kLevelsBelow);

// Where a directory holds no weights of its own, throws Error with the directories below it that
// are training checkpoints, or with what the first of them says of itself.
void RefuseForPlacesBelow(const fs::path& directory, const std::vector<std::string>& names,
                          int levels) {
  constexpr std::size_t kMostDirectories = 64;
  constexpr std::size_t kMostShown = 4;
  const auto has = [&](std::string_view name) {
    return std::binary_search(names.begin(), names.end(), name);
  };
  const bool is_other = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with(".gguf") || name.starts_with(".dsv3-");
  });
  if (levels == 0 || is_other || has("layout.json") || has("snapshots")) return;
  std::vector<std::string> found;
  std::optional<Error> first;
  std::size_t seen = 0;
  for (const std::string& name : names) {
    std::error_code ignored;
    if (name.starts_with('.') || !fs::is_directory(directory / name, ignored)) continue;
    if (++seen > kMostDirectories) break;
    try {
      if (FindInDirectory(directory / name, {}, levels - 1)) found.push_back(name);
    } catch (const Error& error) {
      if (!first && error.code() == ErrorCode::kBadInput) first = error;
    }
  }
  // Optimizers lie beside their models.
  std::erase_if(found, [](const std::string& name) { return IsStateOfTraining(name); });
  if (found.empty()) {
    if (first) throw Error(*first);
    return;
  }
  // The last one is that of the highest number.
  std::stable_sort(found.begin(), found.end(),
                   [](const std::string& a, const std::string& b) { return a.size() < b.size(); });
  const fs::path last = directory / found.back();
  const std::size_t others = found.size() - std::min(found.size(), kMostShown);
  found.resize(found.size() - others);
  Refuse(directory,
         fmt::format("this directory holds no weights of its own, but training checkpoints lie "
                     "below it: {}{}; give the one that is wanted: {}",
                     fmt::join(found, ", "), others == 0 ? "" : fmt::format(" and {} more", others),
                     formats::ShownPath(last)));
}

std::optional<TrainingPlace> FindInDirectory(const fs::path& directory, const Freed& freed,
                                             int levels) {
  using Kind = TrainingPlace::Kind;
  const std::vector<std::string> names = NamesIn(directory, freed);
  const auto has = [&](std::string_view name) {
    return std::binary_search(names.begin(), names.end(), name);
  };
  if (has(kLatest)) return FindInDirectory(LatestIteration(directory), freed, levels);
  std::vector<std::string> shards;
  bool others = has(formats::kShardIndexName);
  for (const std::string& name : names) {
    if (formats::ParseDcpShardName(name)) {
      shards.push_back(name);
    } else {
      others = others || (name.ends_with(".safetensors") && !name.starts_with("._") &&
                          !name.starts_with("adapter_"));
    }
  }
  if (has(kParameterMap) && !has(formats::kShardIndexName)) {
    std::vector<std::string> files;
    for (const std::string& name : names) {
      if (name.ends_with(".safetensors") && !name.starts_with("._")) files.push_back(name);
    }
    return TrainingPlace{Kind::kNamedSafetensors, directory, files};
  }
  if (has(kDcpMetadata) && !others) return TrainingPlace{Kind::kDcp, directory, {}};
  if (others) return std::nullopt;
  if (!shards.empty()) return TrainingPlace{Kind::kDcpSafetensors, directory, shards};
  // What DeepSpeed's own script or its trainer wrote beside its files is the model.
  const bool has_exported = has(kTorchIndex) || std::any_of(names.begin(), names.end(), IsExported);
  if (const std::string other = DescribeOtherDirectory(directory, names);
      !has_exported && !other.empty()) {
    Refuse(directory, other);
  }
  std::vector<std::string> ranks = RankFiles(directory, names, freed);
  if (!ranks.empty()) return TrainingPlace{Kind::kMegatronRanks, directory, std::move(ranks)};
  if (has(kTorchIndex))
    return TrainingPlace{Kind::kTorchFiles, directory, ListedFiles(directory, freed)};
  std::vector<std::string> files;
  for (const std::string& name : names) {
    const bool is_torch =
        IsTorchName(name) ||
        (name.ends_with(kLightning) && StartOf(directory / name, freed) == TorchStart::kZip);
    if (is_torch && !IsStateOfTraining(name)) files.push_back(name);
  }
  if (has_exported) std::erase_if(files, [](const std::string& name) { return !IsExported(name); });
  // Files without an index belong together only where they say so.
  const bool together = std::all_of(files.begin(), files.end(), [](const std::string& name) {
    return name.starts_with("pytorch_model-");
  });
  if (files.empty()) RefuseForPlacesBelow(directory, names, levels);
  if (files.empty() || (files.size() > 1 && !together)) return std::nullopt;
  return TrainingPlace{Kind::kTorchFiles, directory, files};
}

std::optional<TrainingPlace> FindFile(const fs::path& input, const fs::path& path,
                                      const Freed& freed) {
  const std::string name = path.filename().string();
  if (const std::string other = DescribeOtherFile(name); !other.empty()) {
    Refuse(input, other);
  }
  switch (StartOf(path, freed)) {
    case TorchStart::kZip:
      return TrainingPlace{TrainingPlace::Kind::kTorchFiles, path.parent_path(), {name}};
    case TorchStart::kOld:
      Refuse(input,
             "this is a file of torch.save before PyTorch 1.6, which is not read; load it with a "
             "newer PyTorch and save it again");
    case TorchStart::kNone:
      break;
  }
  if (name.ends_with(kLightning) && formats::Exists(path)) {
    Refuse(input,
           "it is no file of torch.save; if it is MindSpore's, make a safetensors file of it with "
           "mindspore.ckpt_to_safetensors, and if it is TensorFlow's, give the model as "
           "safetensors with Hugging Face's names");
  }
  return std::nullopt;
}

// Whether a file is a part of a distributed checkpoint, which all of its directory is.
bool IsPartOfDcp(const fs::path& path, const Freed& freed) {
  const std::string name = path.filename().string();
  return (name == kDcpMetadata || name.ends_with(".distcp")) &&
         HasFile(path.parent_path(), kDcpMetadata, freed);
}

}  // namespace

std::optional<TrainingPlace> FindTraining(const fs::path& input, const Freed& freed) {
  std::error_code ignored;
  const fs::path path = fs::absolute(input);
  std::optional<TrainingPlace> found;
  if (fs::is_directory(path, ignored)) {
    fs::path directory = path.lexically_normal();
    if (!directory.has_filename()) directory = directory.parent_path();
    found = FindInDirectory(IsRankFolder(directory, freed) ? directory.parent_path() : directory,
                            freed);
  } else if (path.filename() == kMegatronRankFile && IsRankFolder(path.parent_path(), freed)) {
    found = FindInDirectory(path.parent_path().parent_path(), freed);
  } else if (IsPartOfDcp(path, freed)) {
    found = FindInDirectory(path.parent_path(), freed);
  } else {
    found = FindFile(input, path, freed);
  }
  if (found) found->freed = freed;
  return found;
}

}  // namespace dsv3::convert
