#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "convert/model/model_config.h"
#include "convert/open/open_model.h"

namespace dsv3::convert {

// What the values of a tensor look like. min to rms are over the finite values.
struct ValueStatistics {
  std::uint64_t values = 0;
  std::uint64_t finite = 0;
  std::uint64_t zeros = 0;  // both signs
  std::uint64_t nans = 0;
  std::uint64_t infinities = 0;
  std::uint64_t subnormals = 0;  // of the stored format; 0 for integers
  double min = 0;
  double max = 0;
  double absmax = 0;
  double mean = 0;
  double rms = 0;
};

struct TensorStatistics {
  // The values as stored: FP8 codes without their scale, booleans as 0 and 1, both parts of complex
  // numbers one by one. Nothing for the 6-bit types.
  std::optional<ValueStatistics> stored;
  // FP8 with a block scale beside it: the BF16 values that the fp8-to-bf16 conversion writes.
  std::optional<ValueStatistics> dequantized;
  std::string scale;  // name of the scale tensor; empty when there is none
  std::string note;   // one sentence on what is missing above, or empty
};

// Reads the tensor and its scale once, a few MiB at a time. Sums are formed
// in a fixed order in extended precision, so equal tensors give equal statistics on one kind of
// machine. `config` may be nullptr; it gives the block size. Throws Error (kBadInput, kIo) from
// reading.
TensorStatistics MeasureTensor(const OpenedModel& model, std::uint32_t position,
                               const ModelConfig* config);

}  // namespace dsv3::convert
