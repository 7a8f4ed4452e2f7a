#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "convert/layouts/row_pieces.h"

// A layout as a table of rules between its names and Hugging Face names, which ReadLayout and
// WriteLayout read in their two directions. Immutable and thread-safe.
namespace dsv3::convert {

// Which rows of the layout's tensor (of a block of it, where its first axes count layers or
// experts) a tensor of the model is; columns where the rule transposes.
enum class RuleRows {
  kAll,
  kUpper,   // the first: the tensor that another one follows, such as gate before up
  kLower,   // the last
  kEven,    // of two tensors whose rows take turns, the one that begins
  kOdd,     // and the other
  kPadded,  // the first, and any number of rows may follow that are no tensor's
};

enum class RuleLayers { kAll, kDense, kMoe };

// How the shape of the layout's tensor shows the axes that count layers and experts, for a block
// [rows, columns].
enum class RuleAxes {
  kApart,   // [blocks, rows, columns]
  kInRows,  // [blocks · rows, columns]
  kFolded,  // [rows, blocks · columns], though the elements are those of [blocks, rows, columns]
};

// "mlp.experts.{E}.up_proj.weight" ↔ "mlp.experts.linear_fc1.weight", kLower.
//
// {E} is an expert's number. Where `model` has {E} and `stack` has not, the layout's tensor holds
// all experts along its first axis.
struct NameRule {
  std::string_view model;
  std::string_view stack;
  RuleRows rows = RuleRows::kAll;
  // The variant of the layout that has this name; empty for its usual name. Of the rules for one
  // tensor, those of variants come first. Those of one variant stand together: each is for a piece
  // of the tensor, and all of them hold it.
  std::string_view variant = {};
  RuleLayers layers = RuleLayers::kAll;
  RowPiece piece = RowPiece::kAll;
  bool transposed = false;
  RuleAxes axes = RuleAxes::kApart;
};

// What the names of a layer begin with. {L} is the layer's number, {K} that of an MTP layer among
// the MTP layers. A prefix of main layers without a number is that of tensors that hold all of them
// along their first axis.
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
  // … and contains none of these.
  std::vector<std::string_view> ignored;
  std::vector<NameRule> outside;  // whole names
  std::vector<NameRule> layer;    // behind the prefix of a layer, main or MTP
  std::vector<NameRule> mtp;      // behind mtp_prefix: what MTP layers alone have
  std::vector<LayerPrefix> main_prefixes;
  std::vector<LayerPrefix> mtp_prefixes;
  std::string_view mtp_prefix;
  std::vector<CopyRule> copies;
  // The layout's name of a tensor that no rule before it is for, by its Hugging Face name and
  // whether it is of an MTP layer; Error where there is none. Null: there is none for any tensor.
  std::string (*rename)(std::string_view name, bool mtp) = nullptr;
  // A tensor is stored as F32 if its name contains one of these, whatever the dtype of the others.
  std::vector<std::string_view> f32_names = {};
};

// Whether a tensor of the layout is the model's, by its name.
bool IsOfModel(const LayoutTable& table, std::string_view name);

bool IsStoredAsF32(const LayoutTable& table, std::string_view name);

}  // namespace dsv3::convert
