#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/layouts/megatron_ranks.h"
#include "convert/layouts/stacks.h"
#include "convert/model/model_config.h"
#include "convert/open/sharded_tensors.h"
#include "convert/open/training_place.h"
#include "formats/io/input_file.h"
#include "formats/safetensors.h"
#include "formats/torch_save.h"

namespace dsv3::convert {

// The tensors of a training checkpoint as those of a model. Sources are positions in
// TrainingReader::tensors().
struct TrainingReading {
  Stack stack = Stack::kHuggingFace;
  LayoutReading layout;
  std::vector<EqualTensors> copies;  // what several ranks hold, and must hold alike
};

// Reads what the files of a training checkpoint say of tensors; no values.
class TrainingReader {
 public:
  virtual ~TrainingReader() = default;

  // All tensors, also those that are not of the model. Their pieces may be unknown until Locate.
  virtual const std::vector<ShardedTensor>& tensors() const = 0;

  // Finds the model's tensors among all, by the names of the stack `from` or of the one that the
  // names are of. Throws Error (kBadInput) as DetectStack and ReadStack do.
  virtual TrainingReading ReadModel(const ModelConfig& config, std::optional<Stack> from) const;

  // Finds the pieces of the tensors that are wanted, by position in tensors(), and returns the
  // catalog of stored tensors that the pieces lie in, called FILE/TENSOR. Call it once.
  virtual Catalog Locate(const std::vector<bool>& wanted) = 0;
};

// They throw Error (kBadInput; kIo) as the readers of the formats do; DCP's Locate also for an item
// that is missing, lies outside its file, or holds another tensor than .metadata says; that of
// Megatron's ranks for a file without arguments or weights or of another training's sizes and for
// a folder whose name does not fit the sizes, and in ReadModel as ReadMegatronRanks does.
std::unique_ptr<TrainingReader> ReadTorchFiles(const TrainingPlace& place);
std::unique_ptr<TrainingReader> ReadDcp(const TrainingPlace& place);
std::unique_ptr<TrainingReader> ReadDcpSafetensors(const TrainingPlace& place);
std::unique_ptr<TrainingReader> ReadNamedSafetensors(const TrainingPlace& place);
std::unique_ptr<TrainingReader> ReadSafetensors(const TrainingPlace& place);
std::unique_ptr<TrainingReader> ReadMegatronRankFiles(const TrainingPlace& place);

// The file of each tensor by kParameterMap, of a place of kNamedSafetensors: flat, or in the member
// weight_map. Throws Error (kBadInput; kIo).
std::map<std::string, std::string> ReadParameterMap(const TrainingPlace& place);

// Opens a file of the place by its name, also one that was freed, and lists what is read of it.
formats::InputFile OpenFileOf(const TrainingPlace& place, const std::string& name);

// By the place's kind.
std::unique_ptr<TrainingReader> ReadTraining(const TrainingPlace& place);

// Collects the stored tensors of a training checkpoint.
class StoredTensors {
 public:
  // `header_digest`: XXH3-128 of what describes the file's tensors, hex. All that is to be read of
  // it has been.
  std::uint32_t AddFile(const std::filesystem::path& path, const formats::InputFile& file,
                        std::string header_digest);

  // Adds what a view of a storage takes, as a piece with all offsets 0: the tensor alone where its
  // elements lie together, else the whole storage, of which the piece takes some elements.
  StoredPiece AddView(std::uint32_t file, const std::string& name, const formats::TorchTensor& view,
                      const formats::TorchStorage& storage, formats::Dtype dtype);

  // The same for a tensor of a safetensors file, whose data begin at `data_offset`, as a box at
  // `offsets`.
  StoredPiece AddBox(std::uint32_t file, const formats::SafetensorsTensor& box,
                     std::uint64_t data_offset, const formats::Shape& offsets);

  Catalog Take();

 private:
  void MakeNamesUnique();

  std::vector<SourceFile> files_;
  std::vector<CatalogTensor> tensors_;
};

// A reader that knows all pieces from the start: its constructor fills both members.
class ReaderOfPieces : public TrainingReader {
 public:
  const std::vector<ShardedTensor>& tensors() const final { return tensors_; }
  Catalog Locate(const std::vector<bool>& /*wanted*/) final { return stored_.Take(); }

 protected:
  StoredTensors stored_;
  std::vector<ShardedTensor> tensors_;
};

}  // namespace dsv3::convert
