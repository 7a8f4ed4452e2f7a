// Safetensors files that hold tensors whole: MindSpore's, which param_name_map.json lists, and
// those in the form of a Hugging Face checkpoint.

#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/open/training_reader.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kMaxMapBytes = std::uint64_t{256} << 20;

}  // namespace

std::map<std::string, std::string> ReadParameterMap(const TrainingPlace& place) {
  const std::string text = formats::ReadSmallFile(place.directory / kParameterMap, kMaxMapBytes);
  std::map<std::string, std::string> files;
  formats::JsonReader reader(
      text, {.file = kParameterMap, .part = "the map", .advice = "copy the file again"});
  reader.BeginObject();
  while (const auto key = reader.NextMember()) {
    std::string name(*key);
    if (reader.Peek() == formats::JsonType::kString) {
      files.insert_or_assign(std::move(name), reader.String());
    } else if (name == "weight_map" && reader.Peek() == formats::JsonType::kObject) {
      reader.BeginObject();
      while (const auto tensor = reader.NextMember()) {
        std::string listed(*tensor);
        files.insert_or_assign(std::move(listed), reader.String());
      }
    } else {
      reader.SkipValue();
    }
  }
  reader.End();
  return files;
}

namespace {

class NamedSafetensors final : public ReaderOfPieces {
 public:
  explicit NamedSafetensors(const TrainingPlace& place) {
    std::map<std::string, std::string> listed = ReadParameterMap(place);
    for (const std::string& name : place.files) {
      const std::filesystem::path path = place.directory / name;
      const formats::InputFile file = OpenFileOf(place, name);
      const formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(file);
      const std::uint32_t source = stored_.AddFile(path, file, header.digest);
      for (const formats::SafetensorsTensor& held : header.tensors) {
        // Some files hold a tensor again that the map gives to another one.
        const auto found = listed.find(held.name);
        if (found == listed.end() || found->second != name) continue;
        listed.erase(found);
        tensors_.push_back({held.name, held.dtype, held.shape, {}});
        tensors_.back().pieces.push_back(
            stored_.AddBox(source, held, header.data_offset, formats::Shape(held.shape.size(), 0)));
      }
    }
    if (listed.empty()) return;
    const auto& [tensor, file] = *listed.begin();
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: it gives the tensor {} to {}, which does not hold it; copy the "
                            "files again from where they come from",
                            kParameterMap, QuoteForMessage(tensor), formats::ShownPath(file)),
                {kParameterMap, tensor});
  }
};

class Safetensors final : public ReaderOfPieces {
 public:
  explicit Safetensors(const TrainingPlace& place) {
    for (const std::string& name : place.files) {
      const formats::InputFile file = OpenFileOf(place, name);
      const formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(file);
      const std::uint32_t source = stored_.AddFile(place.directory / name, file, header.digest);
      for (const formats::SafetensorsTensor& held : header.tensors) {
        tensors_.push_back({held.name, held.dtype, held.shape, {}});
        tensors_.back().pieces.push_back(
            stored_.AddBox(source, held, header.data_offset, formats::Shape(held.shape.size(), 0)));
      }
    }
  }
};

}  // namespace

std::unique_ptr<TrainingReader> ReadSafetensors(const TrainingPlace& place) {
  return std::make_unique<Safetensors>(place);
}

std::unique_ptr<TrainingReader> ReadNamedSafetensors(const TrainingPlace& place) {
  return std::make_unique<NamedSafetensors>(place);
}

}  // namespace dsv3::convert
