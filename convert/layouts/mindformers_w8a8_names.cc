#include "convert/layouts/mindformers_w8a8_names.h"

#include <algorithm>
#include <array>
#include <deque>
#include <iterator>
#include <string>
#include <unordered_set>
#include <utility>

#include "convert/layouts/layout_names.h"
#include "convert/layouts/read_layout.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";
constexpr std::string_view kSecondBias = ".second_bias";
constexpr std::array<std::string_view, 2> kColumns = {".weight_scale", ".weight_offset"};
constexpr std::array<std::string_view, 2> kVectors = {".deq_scale", ".quant_bias"};
constexpr std::array<std::string_view, 2> kNumbers = {".input_scale", ".input_offset"};

// A module of the model, and what the network calls it.
struct Module {
  std::string_view model;
  std::string_view network;
  RowPiece piece = RowPiece::kAll;
};

// Quantised statically.
constexpr std::array<Module, 4> kAttention = {{
    {"self_attn.q_a_proj", "attention.q2l_proj"},
    {"self_attn.q_b_proj", "attention.l2q_proj", RowPiece::kQuerySorted},
    {"self_attn.kv_a_proj_with_mqa", "attention.kv2l", RowPiece::kLatentSorted},
    {"self_attn.o_proj", "attention.wo"},
}};

// With scales of activations by token.
constexpr std::array<Module, 9> kMlps = {{
    {"mlp.gate_proj", "feed_forward.w1"},
    {"mlp.down_proj", "feed_forward.w2"},
    {"mlp.up_proj", "feed_forward.w3"},
    {"mlp.shared_experts.gate_proj", "feed_forward.shared_experts.w1"},
    {"mlp.shared_experts.down_proj", "feed_forward.shared_experts.w2"},
    {"mlp.shared_experts.up_proj", "feed_forward.shared_experts.w3"},
    {"mlp.experts.{E}.gate_proj", "feed_forward.routed_experts.ffn.w1"},
    {"mlp.experts.{E}.down_proj", "feed_forward.routed_experts.ffn.w2"},
    {"mlp.experts.{E}.up_proj", "feed_forward.routed_experts.ffn.w3"},
}};

class Rules {
 public:
  std::vector<NameRule> Make() {
    for (const Module& module : kAttention) AddModule(module);
    for (const Module& module : kMlps) AddModule(module);
    // What is added before a product whose activations are quantised.
    Add("input_layernorm.bias", "attention.q2l_proj.quant_op.beta");
    Add("input_layernorm.second_bias", "attention.kv2l.quant_op.beta");
    Add("self_attn.q_a_layernorm.bias", "attention.l2q_proj.quant_op.beta");
    return std::move(rules_);
  }

 private:
  void AddModule(const Module& module) {
    const std::string model(module.model);
    const std::string network(module.network);
    const bool is_expert = module.model.find("{E}") != std::string_view::npos;
    NameRule& weight = Add(model + ".weight", network + "._layer.weight", module.piece);
    weight.variant = kW8A8Variant;
    weight.transposed = is_expert;
    const bool is_attention = network.starts_with("attention.");
    if (is_attention) {
      Add(model + ".deq_scale", network + "._layer.matmul.dequant_scale", module.piece);
      Add(model + ".quant_bias", network + "._layer.matmul.quant_bias", module.piece);
      Add(model + ".input_scale", network + ".quant_op.input_scale");
      Add(model + ".input_offset", network + ".quant_op.input_zp");
    } else {
      for (const std::string_view column : kColumns) {
        Add(model + std::string(column), network + "._layer.matmul" + std::string(column));
      }
    }
  }

  NameRule& Add(std::string model, std::string network, RowPiece piece = RowPiece::kAll) {
    NameRule& rule = rules_.emplace_back();
    rule.model = Kept(std::move(model));
    rule.stack = Kept(std::move(network));
    rule.piece = piece;
    return rule;
  }

  // The names of rules live as long as the program, as those of all tables do.
  static std::string_view Kept(std::string name) {
    static std::deque<std::string> names;
    return names.emplace_back(std::move(name));
  }

  std::vector<NameRule> rules_;
};

// msmodelslim's tensors beside a tensor of the model, with the shapes that MindFormers gives them:
// those of columns [rows, 1] have one dimension.
std::vector<StackTensor> W8A8TensorsBeside(const StackTensor& tensor) {
  std::vector<StackTensor> beside;
  if (!tensor.name.ends_with(kWeight)) return beside;
  const std::string module = tensor.name.substr(0, tensor.name.size() - kWeight.size());
  if (tensor.shape.size() == 1) {
    beside.push_back({module + ".bias", tensor.shape});
    if (module.ends_with("input_layernorm")) {
      beside.push_back({SecondW8A8Bias(beside.front().name), tensor.shape});
    }
    return beside;
  }
  for (const auto& parts : {kColumns, kVectors}) {
    for (const std::string_view part : parts) {
      beside.push_back({module + std::string(part), {tensor.shape[0]}});
    }
  }
  for (const std::string_view part : kNumbers) beside.push_back({module + std::string(part), {1}});
  return beside;
}

}  // namespace

std::vector<NameRule> WithW8A8Rules(const std::vector<NameRule>& rules) {
  static const std::vector<NameRule> own = Rules().Make();
  std::vector<NameRule> all = own;
  all.insert(all.end(), rules.begin(), rules.end());
  return all;
}

std::string SecondW8A8Bias(std::string_view bias) {
  return std::string(bias.substr(0, bias.size() - kBias.size())).append(kSecondBias);
}

std::string FirstW8A8Bias(std::string_view name) {
  if (!name.ends_with(kSecondBias)) return "";
  return std::string(name.substr(0, name.size() - kSecondBias.size())).append(kBias);
}

bool IsW8A8Column(std::string_view name) {
  return std::any_of(kColumns.begin(), kColumns.end(),
                     [&](std::string_view column) { return name.ends_with(column); });
}

LayoutReading ReadW8A8Layout(const LayoutTable& table, const ModelConfig& config,
                             const std::vector<StackTensor>& stack) {
  const LayoutNames names(table, config);
  std::unordered_set<std::string_view> held;
  for (const StackTensor& tensor : stack) held.insert(tensor.name);
  const auto is_held = [&](const StackTensor& tensor) {
    const std::vector<LayoutPlaces> places = names.PlacesOf(tensor.name);
    return std::any_of(places.begin(), places.end(), [&](const LayoutPlaces& of) {
      return std::any_of(of.pieces.begin(), of.pieces.end(),
                         [&](const LayoutPlace& piece) { return held.contains(piece.name); });
    });
  };
  std::vector<StackTensor> model;
  for (StackTensor& predicted : ModelTensorsOf(config)) {
    const std::vector<StackTensor> beside = W8A8TensorsBeside(predicted);
    model.push_back(std::move(predicted));
    std::copy_if(beside.begin(), beside.end(), std::back_inserter(model), is_held);
  }
  LayoutReading reading = ReadLayout(table, config, model, stack);
  for (ComposedTensor& tensor : reading.tensors) {
    if (IsW8A8Column(tensor.name)) tensor.shape.push_back(1);
  }
  return reading;
}

}  // namespace dsv3::convert
