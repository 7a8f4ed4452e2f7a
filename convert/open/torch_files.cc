// Files of torch.save that hold the tensors of one model together.

#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/open/training_reader.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

class TorchFiles final : public ReaderOfPieces {
 public:
  explicit TorchFiles(const TrainingPlace& place) {
    for (const std::string& name : place.files) {
      const std::filesystem::path path = place.directory / name;
      const formats::InputFile file = OpenFileOf(place, name);
      const formats::TorchSave save = formats::ReadTorchSave(file);
      const std::uint32_t source = stored_.AddFile(path, file, formats::Xxh3Hex(*save.text));
      for (const formats::TorchTensor& view : save.tensors) {
        // Safetensors files have no such dtype; an optimizer's state may have one.
        if (!view.type->dtype) continue;
        ShardedTensor& tensor = tensors_.emplace_back();
        tensor.name = save.Name(view);
        tensor.dtype = *view.type->dtype;
        tensor.shape = view.shape;
        tensor.pieces.push_back(
            stored_.AddView(source, tensor.name, view, save.storages[view.storage], tensor.dtype));
      }
    }
  }
};

}  // namespace

std::unique_ptr<TrainingReader> ReadTorchFiles(const TrainingPlace& place) {
  return std::make_unique<TorchFiles>(place);
}

}  // namespace dsv3::convert
