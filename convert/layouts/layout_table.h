#pragma once

#include <string_view>
#include <vector>

// A layout as a table of rules between its names and Hugging Face names, which ReadLayout and
// WriteLayout read in their two directions. Immutable and thread-safe.
namespace dsv3::convert {

// Which rows of the layout's tensor a tensor of the model is.
enum class RuleRows {
  kAll,
  kUpper,   // the first: the tensor that the next one follows, such as gate before up
  kLower,   // the last
  kPadded,  // the first, and any number of rows may follow that are no tensor's
};

enum class RuleLayers { kAll, kDense, kMoe };

// "mlp.experts.{E}.up_proj.weight" ↔ "mlp.experts.linear_fc1.weight", kLower.
//
// {E} is an expert's number. Where `model` has {E} and `stack` has not, the layout's tensor holds
// all experts along its first axis.
struct NameRule {
  std::string_view model;
  std::string_view stack;
  RuleRows rows = RuleRows::kAll;
  // The variant of the layout that has this name; empty for its usual name. Of several rules for
  // one tensor, those of variants come first.
  std::string_view variant = {};
  RuleLayers layers = RuleLayers::kAll;
};

// What the names of a layer begin with. {L} is the layer's number, {K} that of an MTP layer among
// the MTP layers. A prefix without a number is that of tensors that hold all main layers along
// their first axis.
struct LayerPrefix {
  std::string_view text;
  std::string_view variant = {};
};

// A tensor of MTP layers that the layout does not hold, since it is that of the main model.
struct CopyRule {
  std::string_view mtp;   // behind the layer's number
  std::string_view main;  // whole
  std::string_view tied;  // the same where the config ties head and embedding
};

struct LayoutTable {
  std::string_view title;  // "Megatron-Core"
  // A tensor is the model's if its name begins with one of these …
  std::vector<std::string_view> model_prefixes;
  // … and does not contain this; empty: nothing is ignored.
  std::string_view ignored;
  std::vector<NameRule> outside;  // whole names
  std::vector<NameRule> layer;    // behind the prefix of a layer, main or MTP
  std::vector<NameRule> mtp;      // behind mtp_prefix: what MTP layers alone have
  std::vector<LayerPrefix> main_prefixes;
  std::vector<LayerPrefix> mtp_prefixes;
  std::string_view mtp_prefix;
  std::vector<CopyRule> copies;
  // Whether a tensor without a rule has its Hugging Face name.
  bool keeps_names = false;
};

}  // namespace dsv3::convert
