#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "formats/finding.h"

// Scales of activations, which a statically quantised weight has beside its own scale.
namespace dsv3::convert {

// How the scale of the activations that a weight is multiplied with may be called: for X.weight
// X.input_scale (compressed-tensors, ModelOpt, vLLM) and X.activation_scale (transformers), for
// fused experts X_input_scale and X_activation_scale; and the bound of it, X.input_scale_ub
// (FBGEMM).
std::vector<std::string> ActivationScaleNames(std::string_view weight);

// The activation scales of these weights, ascending positions in the catalog.
std::vector<std::uint32_t> FindActivationScales(const Catalog& catalog,
                                                const std::vector<ScaledWeight>& weights);

// Quantised weights without an activation scale, where weights of the same place in other layers
// and experts have one, or the other way round: calibration skipped some, or tensors are lost. A
// warning of kind "uneven-activation-scales" for each such place, which names the first weight that
// lacks one.
formats::Findings FindUnevenActivationScales(const Catalog& catalog, const ScaledWeights& weights);

// Whether the tensor is the scale of the keys or values that an engine keeps in a cache (k_scale,
// v_scale). The engine chooses how it stores them, whatever form the weights have.
bool IsCacheScale(std::string_view name);

// Whether the tensor is a scale or offset of queries, keys or values in attention on INT8 (C8 of
// msmodelslim: X.fa_q.scale, X.fa_k.offset …), which belongs to the form of the weights.
bool IsAttentionScale(std::string_view name);

}  // namespace dsv3::convert
