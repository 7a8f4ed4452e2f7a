// Megatron's legacy checkpoints (--ckpt-format torch): a file of torch.save for each rank, with the
// arguments of the training beside its weights.

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/layouts/megatron_ranks.h"
#include "convert/layouts/wrapper_prefixes.h"
#include "convert/open/training_reader.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/message_text.h"
#include "formats/number_of.h"

namespace dsv3::convert {
namespace {

using formats::kNoPickle;
using formats::PickleId;

constexpr std::string_view kConvertAdvice =
    "convert it with Megatron: --ckpt-convert-format torch_dist --ckpt-convert-save DIR";

[[noreturn]] void Refuse(const std::string& file, const std::string& tensor,
                         const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(file), problem),
              {file, tensor});
}

// The arguments of the training, which a file holds beside the weights.
class Arguments {
 public:
  Arguments(const formats::Pickle& pickle, const std::string& file) : pickle_(pickle), file_(file) {
    const PickleId args = pickle.Get(pickle.root(), "args");
    if (args != kNoPickle) {
      const auto record = pickle.Record(args);
      values_ = record ? record->state : args;
    }
    if (values_ == kNoPickle || pickle.Type(values_) != formats::PickleType::kDict) {
      Refuse(file, "",
             fmt::format("it does not hold the arguments of the training (args), which say how "
                         "many ranks there were; take a file that Megatron's training saved, or {}",
                         kConvertAdvice));
    }
  }

  MegatronSizes Sizes() const {
    MegatronSizes sizes;
    sizes.tensor = Required("tensor_model_parallel_size");
    sizes.pipeline = Required("pipeline_model_parallel_size");
    sizes.virtual_stages = Size("virtual_pipeline_model_parallel_size").value_or(1);
    sizes.expert = Size("expert_model_parallel_size").value_or(1);
    sizes.expert_tensor = Size("expert_tensor_parallel_size").value_or(sizes.tensor);
    return sizes;
  }

 private:
  // Nothing where it is None, and where a version of Megatron does not have it.
  std::optional<std::uint64_t> Size(std::string_view name) const {
    constexpr std::int64_t kMost = 1 << 20;
    const PickleId value = pickle_.Get(values_, name);
    if (value == kNoPickle || pickle_.Type(value) == formats::PickleType::kNone) {
      return std::nullopt;
    }
    const std::optional<std::int64_t> size = pickle_.Int(value);
    if (!size || *size < 1 || *size > kMost) {
      Refuse(file_, "",
             fmt::format("in its arguments {} is {}, expected a number of ranks; the file is "
                         "damaged, copy it again from where it comes from",
                         name, size ? std::to_string(*size) : pickle_.Describe(value)));
    }
    return static_cast<std::uint64_t>(*size);
  }

  std::uint64_t Required(std::string_view name) const {
    if (const auto size = Size(name)) return *size;
    Refuse(file_, "",
           fmt::format("its arguments (args) lack {}, so of which ranks it is is not known; {}",
                       name, kConvertAdvice));
  }

  const formats::Pickle& pickle_;
  const std::string& file_;
  PickleId values_ = kNoPickle;
};

std::string TextOf(const MegatronSizes& sizes) {
  return fmt::format("tensor {}, pipeline {}, virtual stages {}, expert {} and expert tensor {}",
                     sizes.tensor, sizes.pipeline, sizes.virtual_stages, sizes.expert,
                     sizes.expert_tensor);
}

// The numbers of a rank by the name of its folder. Which number is which depends on the sizes: in
// mp_rank_00_001 the second one is of the pipeline, or of the experts.
MegatronRank RankOf(const std::string& file, const MegatronSizes& sizes) {
  MegatronRank rank;
  rank.file = file;
  std::vector<std::uint64_t*> numbers = {&rank.tensor};
  if (sizes.pipeline > 1) numbers.push_back(&rank.pipeline);
  if (sizes.expert > 1) numbers.push_back(&rank.expert);
  std::string_view rest = std::string_view(file).substr(0, file.find('/'));
  rest.remove_prefix(std::string_view(kMegatronRankStart).size());
  std::size_t read = 0;
  for (bool more = true; more; ++read) {
    const std::size_t end = std::min(rest.find('_'), rest.size());
    const std::optional<std::uint64_t> number =
        formats::NumberOf<std::uint64_t>(rest.substr(0, end));
    if (!number || read == numbers.size()) break;
    *numbers[read] = *number;
    more = end < rest.size();
    rest.remove_prefix(more ? end + 1 : end);
  }
  if (read == numbers.size() && rest.empty()) return rank;
  Refuse(file, "",
         fmt::format("the folder must be called mp_rank_ and {}, for the arguments in the file say "
                     "that there were several ranks of these kinds ({}); give it the name that "
                     "Megatron gave it",
                     numbers.size() == 3  ? "the numbers of its tensor, pipeline and expert rank"
                     : sizes.pipeline > 1 ? "the numbers of its tensor and pipeline rank"
                     : sizes.expert > 1   ? "the numbers of its tensor and expert rank"
                                          : "the number of its tensor rank",
                     TextOf(sizes)));
}

// The virtual stage that a key of a file holds: 0 for "model", 3 for "model3"; nothing for others.
std::optional<std::uint64_t> StageOf(std::string_view key) {
  constexpr std::string_view kModel = "model";
  if (key == kModel) return 0;
  return key.starts_with(kModel) ? formats::NumberOf<std::uint64_t>(key.substr(kModel.size()))
                                 : std::nullopt;
}

class MegatronRankFiles final : public ReaderOfPieces {
 public:
  explicit MegatronRankFiles(const TrainingPlace& place) {
    for (const std::string& name : place.files) ReadFile(place, name);
  }

  TrainingReading ReadModel(const ModelConfig& config, std::optional<Stack> from) const override {
    if (from && *from != Stack::kMegatron) {
      Refuse(ranks_.front().file, "",
             fmt::format("this is a file of Megatron, so the checkpoint is not from {}; leave out "
                         "--from, or say --from {}",
                         StackName(*from), StackName(Stack::kMegatron)));
    }
    RankReading reading = ReadMegatronRanks(config, sizes_, ranks_);
    for (const EqualTensors& copy : reading.copies) {
      RequireComparable(copy.first);
      RequireComparable(copy.second);
    }
    for (const auto& [pattern, count] : others_) reading.model.skipped[pattern] += count;
    return {Stack::kMegatron, std::move(reading.model), std::move(reading.copies)};
  }

 private:
  void ReadFile(const TrainingPlace& place, const std::string& name) {
    const formats::InputFile file = OpenFileOf(place, name);
    const formats::TorchSave save = formats::ReadTorchSave(file);
    const MegatronSizes sizes = Arguments(save.pickle, name).Sizes();
    if (ranks_.empty()) sizes_ = sizes;
    if (sizes != sizes_) {
      Refuse(name, "",
             fmt::format("it was saved by ranks of the sizes {}, but {} by {}; take all files from "
                         "one checkpoint",
                         TextOf(sizes), ranks_.front().file, TextOf(sizes_)));
    }
    RequireIteration(save.pickle, name);
    const MegatronRank rank = RankOf(name, sizes);
    // One virtual stage after the other, as ReadMegatronRanks counts the tensors.
    std::map<std::uint64_t, std::vector<const formats::TorchTensor*>> stages;
    for (const formats::TorchTensor& view : save.tensors) {
      const std::vector<std::string> keys = save.Path(view);
      const auto stage = keys.size() > 1 ? StageOf(keys.front()) : std::nullopt;
      // Safetensors files have no such dtype, and a model's weights neither.
      if (stage && view.type->dtype) {
        stages[*stage].push_back(&view);
      } else {
        std::string joined;
        for (const std::string& key : keys) joined += (joined.empty() ? "" : ".") + key;
        ++others_[NamePattern(joined)];
      }
    }
    if (stages.empty()) {
      Refuse(name, "",
             "it holds no weights (model); take the file that Megatron's training saved, or copy "
             "it again from where it comes from");
    }
    const std::uint32_t source =
        stored_.AddFile(place.directory / name, file, formats::Xxh3Hex(*save.text));
    for (const auto& [stage, views] : stages) {
      ranks_.push_back(rank);
      ranks_.back().virtual_stage = stage;
      for (const formats::TorchTensor* view : views) AddTensor(source, save, *view);
    }
  }

  // Pipeline ranks need not hold any copies by which files of two iterations would show.
  void RequireIteration(const formats::Pickle& pickle, const std::string& name) {
    const PickleId value = pickle.Get(pickle.root(), "iteration");
    const auto iteration = value == kNoPickle ? std::nullopt : pickle.Int(value);
    if (!iteration) return;
    if (!iteration_) iteration_ = {*iteration, name};
    if (iteration_->first == *iteration) return;
    Refuse(name, "",
           fmt::format("it is of iteration {}, but {} of iteration {}; take all files from one "
                       "checkpoint",
                       *iteration, iteration_->second, iteration_->first));
  }

  void AddTensor(std::uint32_t source, const formats::TorchSave& save,
                 const formats::TorchTensor& view) {
    const std::string in_file = save.Name(view);
    ShardedTensor& tensor = tensors_.emplace_back();
    tensor.name = WithoutWrappers(std::string_view(in_file).substr(in_file.find('.') + 1));
    tensor.dtype = *view.type->dtype;
    tensor.shape = view.shape;
    tensor.pieces.push_back(
        stored_.AddView(source, in_file, view, save.storages[view.storage], tensor.dtype));
    ranks_.back().tensors.push_back({tensor.name, tensor.shape});
    if (!view.IsContiguous()) {
      apart_.emplace(static_cast<std::uint32_t>(tensors_.size() - 1), ranks_.back().file);
    }
  }

  void RequireComparable(std::uint32_t tensor) const {
    const auto apart = apart_.find(tensor);
    if (apart == apart_.end()) return;
    const std::string& name = tensors_[tensor].name;
    Refuse(apart->second, name,
           fmt::format("tensor {} is a view whose elements do not lie one behind the other, so it "
                       "cannot be compared with the copies of other ranks; save it as "
                       "tensor.contiguous()",
                       QuoteForMessage(name)));
  }

  MegatronSizes sizes_;
  std::optional<std::pair<std::int64_t, std::string>> iteration_;  // and the first file with one
  std::vector<MegatronRank> ranks_;
  // The files of tensors whose elements do not lie one behind the other, by position.
  std::map<std::uint32_t, std::string> apart_;
  PatternCounts others_;  // tensors outside the model
};

}  // namespace

std::unique_ptr<TrainingReader> ReadMegatronRankFiles(const TrainingPlace& place) {
  return std::make_unique<MegatronRankFiles>(place);
}

}  // namespace dsv3::convert
