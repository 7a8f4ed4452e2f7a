#include "convert/recipes/sample_model.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/recipes/sample_config.h"
#include "convert/recipes/sample_presets.h"
#include "convert/recipes/sample_tokenizer.h"
#include "formats/json/json_writer.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

// Which tensors lie in which shards: two runs of shards, each cut into equal shares of bytes, and a
// tensor belongs to the share in which its first byte lies. A cut nearly always falls inside a
// weight, so that the weight's scale, which follows it, begins the next shard.
class ShardAssignment {
 public:
  ShardAssignment(std::uint64_t body_bytes, std::uint64_t mtp_bytes, const SampleSizes& sizes)
      : body_{0, body_bytes, 0, sizes.body_shards},
        mtp_{0, mtp_bytes, sizes.body_shards, sizes.mtp_shards} {}

  std::uint32_t Next(bool mtp, std::uint64_t bytes) {
    Run& run = mtp ? mtp_ : body_;
    const std::uint64_t share = run.offset * run.num / run.bytes;
    run.offset += bytes;
    return run.first + static_cast<std::uint32_t>(share);
  }

 private:
  struct Run {
    std::uint64_t offset, bytes;
    std::uint32_t first, num;
  };
  Run body_;
  Run mtp_;
};

// A tensor of the model, and the tensors that store it.
struct Stored {
  TensorRole role = TensorRole::kNorm;
  SampleForm form = SampleForm::kPlain;
  bool mtp = false;
  std::string name;
  formats::Shape shape;
  std::vector<StoredPart> parts;
};

std::vector<Stored> StoredTensors(const SampleTraits& traits, const std::string& config) {
  std::vector<Stored> stored;
  const auto add = [&](ExpectedTensor& tensor, SampleForm form) {
    Stored& to = stored.emplace_back();
    to.role = tensor.role;
    to.form = form;
    to.mtp = tensor.mtp;
    to.parts = StoredPartsOf(form, tensor.name, tensor.shape, PlainDtypeOf(traits, tensor));
    to.name = std::move(tensor.name);
    to.shape = std::move(tensor.shape);
  };
  for (ExpectedTensor& tensor : ExpectedTensors(ParseModelConfig(config, "config.json"))) {
    tensor.name.insert(0, NamePrefixOf(traits.family));
    add(tensor, FormOf(traits, tensor.role));
  }
  for (ExpectedTensor& tensor : TensorsBeside(traits)) add(tensor, SampleForm::kPlain);
  return stored;
}

std::uint64_t BytesOf(const std::vector<StoredPart>& parts) {
  std::uint64_t bytes = 0;
  for (const StoredPart& part : parts) bytes += formats::NumBytes(part.dtype, part.shape).value();
  return bytes;
}

// `shard_of` has the shard of each part, one tensor after the other.
std::vector<SampleTensor> PlaceTensors(const std::vector<Stored>& stored,
                                       const std::vector<std::uint32_t>& shard_of,
                                       const SampleModel& model) {
  std::vector<std::map<std::string_view, std::uint64_t>> begins(model.shards.size());
  for (std::size_t i = 0; i < model.shards.size(); ++i) {
    for (const auto& tensor : model.shards[i].tensors) begins[i][tensor.name] = tensor.begin;
  }
  std::vector<SampleTensor> tensors;
  std::size_t next = 0;
  for (const Stored& from : stored) {
    SampleTensor tensor{from.name, from.shape, from.role, from.form, from.parts[0].dtype, {}};
    for (const StoredPart& part : from.parts) {
      const std::uint32_t shard = shard_of[next++];
      tensor.parts.push_back(
          {shard, model.shards[shard].header.size() + begins[shard].at(part.name)});
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void FinishShard(SampleShard& shard) {
  formats::LayOutTensors(shard.tensors);
  shard.header = formats::SerializeSafetensorsHeader(shard.tensors, {{"format", "pt"}});
  shard.bytes = shard.header.size() + (shard.tensors.empty() ? 0 : shard.tensors.back().end);
}

std::string MakeIndex(const std::vector<SampleShard>& shards) {
  formats::ShardIndex index;
  index.total_size = 0;
  for (const SampleShard& shard : shards) {
    const auto position = static_cast<std::uint32_t>(index.files.size());
    index.files.push_back(shard.name);
    *index.total_size += shard.bytes - shard.header.size();
    for (const auto& tensor : shard.tensors) index.weight_map.emplace_back(tensor.name, position);
  }
  std::sort(index.weight_map.begin(), index.weight_map.end());
  return formats::SerializeShardIndex(index);
}

std::string GenerationConfig() {
  formats::JsonWriter json(2);
  json.BeginObject();
  json.Bool("_from_model_config", true);
  json.Uint("bos_token_id", 0);
  json.Uint("eos_token_id", 1);
  json.EndObject();
  return json.Take() + "\n";
}

std::string ShardName(std::uint32_t number, std::uint32_t total, int digits) {
  if (digits == 0) return fmt::format("model-{}-of-{}.safetensors", number, total);
  return fmt::format("model-{:05}-of-{:0{}}.safetensors", number, total, digits);
}

}  // namespace

SampleModel MakeSampleModel(SamplePreset preset) {
  const SampleTraits& traits = TraitsOf(preset);
  const SampleSizes& sizes = *traits.sizes;
  const std::string config = SampleConfig(preset);
  const std::vector<Stored> stored = StoredTensors(traits, config);
  std::uint64_t bytes[2] = {0, 0};
  for (const Stored& tensor : stored) bytes[tensor.mtp ? 1 : 0] += BytesOf(tensor.parts);

  SampleModel model;
  const std::uint32_t num_shards = sizes.body_shards + sizes.mtp_shards;
  for (std::uint32_t i = 0; i < num_shards; ++i) {
    model.shards.push_back({ShardName(i + 1, num_shards, sizes.shard_digits), {}, {}, 0});
  }
  ShardAssignment assignment(bytes[0], bytes[1], sizes);
  std::vector<std::uint32_t> shard_of;  // of each part
  for (const Stored& tensor : stored) {
    for (const StoredPart& part : tensor.parts) {
      const std::uint32_t shard =
          assignment.Next(tensor.mtp, formats::NumBytes(part.dtype, part.shape).value());
      model.shards[shard].tensors.push_back({part.name, part.dtype, part.shape, 0, 0});
      shard_of.push_back(shard);
    }
  }
  model.num_tensors = shard_of.size();
  for (SampleShard& shard : model.shards) FinishShard(shard);
  // Only now, with the shards laid out, places are known. Sparse files need none.
  if (preset != SamplePreset::kV3Shapes) model.tensors = PlaceTensors(stored, shard_of, model);

  model.experts = sizes.n_routed_experts;
  model.index = MakeIndex(model.shards);
  model.side_files = {{"config.json", config},
                      {"generation_config.json", GenerationConfig()},
                      {"tokenizer.json", SampleTokenizer()},
                      {"tokenizer_config.json", SampleTokenizerConfig()}};
  for (auto& description : SampleDescriptions(preset)) {
    model.side_files.push_back(std::move(description));
  }
  return model;
}

}  // namespace dsv3::convert
