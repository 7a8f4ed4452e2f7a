// A directory of safetensors files of torch.distributed.checkpoint, each with boxes of tensors.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/open/training_reader.h"
#include "formats/dcp_safetensors.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

[[noreturn]] void Fail(const std::string& file, const std::string& tensor,
                       const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(file), problem),
              {file, tensor});
}

// Every rank's files, by the numbers in their names: a rank that left a gap, or whose last file is
// not there, was not copied whole.
void RequireAllShards(const TrainingPlace& place) {
  std::map<std::uint32_t, std::vector<formats::DcpShardName>> ranks;
  for (const std::string& name : place.files) {
    const formats::DcpShardName shard = formats::ParseDcpShardName(name).value();
    ranks[shard.shard].push_back(shard);
  }
  std::uint32_t expected = 1;
  for (const auto& [rank, shards] : ranks) {
    if (rank != expected) {
      Fail(place.directory.string(), "",
           fmt::format("there are files of rank {} (shard-{:05}) and none of rank {}; copy what is "
                       "missing from where the checkpoint was saved",
                       rank - 1, rank, expected - 1));
    }
    ++expected;
    if (shards.size() != shards.front().num_files) {
      Fail(place.directory.string(), "",
           fmt::format("{} of {} files of rank {} (shard-{:05}) are there; copy what is missing "
                       "from where the checkpoint was saved",
                       shards.size(), shards.front().num_files, rank - 1, rank));
    }
  }
}

class DcpSafetensors final : public ReaderOfPieces {
 public:
  explicit DcpSafetensors(const TrainingPlace& place) {
    RequireAllShards(place);
    std::map<std::string, std::size_t> known;  // positions in tensors_
    for (const std::string& name : place.files) {
      const std::filesystem::path path = place.directory / name;
      const formats::InputFile file = OpenFileOf(place, name);
      const formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(file);
      const std::vector<formats::Shape> offsets = formats::ReadDcpOffsets(header, name);
      const std::uint32_t source = stored_.AddFile(path, file, header.digest);
      for (std::size_t i = 0; i < header.tensors.size(); ++i) {
        const formats::SafetensorsTensor& box = header.tensors[i];
        const auto [found, is_new] = known.emplace(box.name, tensors_.size());
        if (is_new) tensors_.push_back({box.name, box.dtype, formats::Shape(box.shape.size()), {}});
        ShardedTensor& tensor = tensors_[found->second];
        RequireAlike(tensor, box, name);
        for (std::size_t dim = 0; dim < box.shape.size(); ++dim) {
          tensor.shape[dim] = std::max(tensor.shape[dim], offsets[i][dim] + box.shape[dim]);
        }
        if (box.begin == box.end) continue;
        tensor.pieces.push_back(stored_.AddBox(source, box, header.data_offset, offsets[i]));
      }
    }
  }

 private:
  static void RequireAlike(const ShardedTensor& tensor, const formats::SafetensorsTensor& box,
                           const std::string& file) {
    if (tensor.dtype == box.dtype && tensor.shape.size() == box.shape.size()) return;
    Fail(file, box.name,
         fmt::format("tensor {} is {} with {} dimensions, and another file has it as {} with {}; "
                     "the files are of two checkpoints, copy them again",
                     QuoteForMessage(box.name), formats::DtypeName(box.dtype), box.shape.size(),
                     formats::DtypeName(tensor.dtype), tensor.shape.size()));
  }
};

}  // namespace

std::unique_ptr<TrainingReader> ReadDcpSafetensors(const TrainingPlace& place) {
  return std::make_unique<DcpSafetensors>(place);
}

}  // namespace dsv3::convert
