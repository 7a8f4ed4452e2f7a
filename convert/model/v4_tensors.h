#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"

// The tensors of DeepSeek-V4, under the names of its releases or under those that transformers 5
// saves. The latter begin with "model." but for the head's, have no MTP layers, and differ in five
// names. Thread-safe.
namespace dsv3::convert {

// Whether the catalog has, behind `prefix`, the names that transformers saves.
bool HasV4NamesOfTransformers(const Catalog& catalog, std::string_view prefix);

// A tensor under the name of a module of transformers, which save_pretrained writes with
// save_original_format=False and no engine reads; Catalog::kNone where there is none.
std::uint32_t FindV4ModuleName(const Catalog& catalog);

// Whether a prefix that FindNamePrefix found stands before names that transformers saves: "model.",
// or one that ends with ".model.".
bool IsV4PrefixOfTransformers(std::string_view prefix);

// The name, in a checkpoint whose prefix is `prefix`, of the tensor that V4's releases call
// `released`: with "model.", model.layers.3.attn.norm.weight of layers.3.attn.kv_norm.weight.
std::string V4Name(std::string_view prefix, std::string_view released);

// Calls `visit` for each tensor as ForEachExpected does. Precondition: config.v4.
void VisitV4Tensors(const ModelConfig& config, std::string_view prefix,
                    const std::function<void(const ExpectedTensorView&)>& visit);

}  // namespace dsv3::convert
