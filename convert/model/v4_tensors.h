#pragma once

#include <functional>
#include <string_view>

#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"

// The tensors of DeepSeek-V4. Internal to convert/model. Thread-safe.
namespace dsv3::convert {

// Calls `visit` for each tensor as ForEachExpected does. Precondition: config.v4.
void VisitV4Tensors(const ModelConfig& config, std::string_view prefix,
                    const std::function<void(const ExpectedTensorView&)>& visit);

}  // namespace dsv3::convert
