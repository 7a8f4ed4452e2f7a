#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "convert/model/expected_tensors.h"
#include "convert/recipes/sample.h"
#include "convert/recipes/sample_codes.h"
#include "formats/safetensors.h"

// What a sample checkpoint consists of, before a byte of it is written.
namespace dsv3::convert {

struct SampleShard {
  std::string name;
  std::string header;  // the file's first bytes
  std::vector<formats::SafetensorsTensor> tensors;
  std::uint64_t bytes = 0;  // of the whole file
};

// Where a tensor's bytes go: position in SampleModel::shards and offset from the file's start.
struct SamplePlace {
  std::uint32_t shard = 0;
  std::uint64_t offset = 0;
};

struct SampleTensor {
  std::string name;
  formats::Shape shape;  // of the values
  TensorRole role = TensorRole::kNorm;
  SampleForm form = SampleForm::kPlain;
  formats::Dtype dtype = formats::Dtype::kBF16;  // of the values, or of their codes
  std::vector<SamplePlace> parts;                // of StoredPartsOf, in its order
};

struct SampleModel {
  std::vector<SampleShard> shards;
  std::vector<SampleTensor> tensors;  // in the model's order, without scales
  std::string index;                  // text of model.safetensors.index.json
  std::vector<std::pair<std::string, std::string>> side_files;  // name, content
  std::uint64_t num_tensors = 0;                                // with scales
  std::uint64_t experts = 0;                                    // routed ones of a layer
};

SampleModel MakeSampleModel(SamplePreset preset);

}  // namespace dsv3::convert
