#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/layouts/layout_table.h"

// The names that DeepSeek's own inference demo gives to tensors.
namespace dsv3::convert {

// The demo's name of a Hugging Face tensor, as inference/convert.py of deepseek-ai/DeepSeek-V3 (and
// of DeepSeek-V3.2-Exp, for the indexer) makes it: a leading "model." goes; self_attn, mlp,
// weight_scale_inv and e_score_correction_bias become attn, ffn, scale and bias; then the segment
// before the last is looked up in the table, and every occurrence of it in the name is replaced.
//
// What only MTP layers have (`mtp`) the official script skips; where it is kept, enorm, hnorm,
// eh_proj and shared_head.head keep their names below "layers.N.", and everything else follows the
// table: model.layers.61.embed_tokens.weight is layers.61.embed.weight.
//
// Throws Error (kBadInput) for a tensor that the table does not know.
std::string DeepseekName(std::string_view name, bool mtp);

// The Hugging Face name of a tensor of the demo: the inverse of DeepseekName, MTP layers included.
// Throws Error (kBadInput) for a name that DeepseekName makes of none.
std::string HuggingFaceName(std::string_view demo_name);

// The same names as a layout; scales are X.scale for X.weight. Each rank of the demo holds a part
// of it.
const LayoutTable& DeepseekNames();

// The dimension along which the demo cuts a tensor, by its Hugging Face name: 0 or 1 for those of
// modules that are cut, scales included; nothing for what each rank holds whole. Routed experts are
// not cut but dealt out.
std::optional<std::size_t> DeepseekCutDimension(std::string_view name);
bool IsRoutedExpert(std::string_view name);

// "model3-mp8.safetensors"
std::string DeepseekFileName(std::uint64_t rank, std::uint64_t model_parallel);

// How many ranks the files are of, where all of them have such names for one number of ranks;
// nothing where there is no file or one has another name.
std::optional<std::uint64_t> DemoRanks(const std::vector<std::string>& files);

}  // namespace dsv3::convert
