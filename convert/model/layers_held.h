#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"

// Which layers a checkpoint holds, and the config values that would fit them.
namespace dsv3::convert {

// How many layers a checkpoint holds; MTP layers are known by tensors that only they
// have, such as enorm.
struct LayerCounts {
  std::uint64_t main = 0;
  std::uint64_t mtp = 0;
};

// Which layers' numbers occur in the names of tensors.
class LayersHeld {
 public:
  // `prefix`: see FindNamePrefix.
  LayersHeld(const Catalog& catalog, std::string_view prefix);

  bool Holds(std::uint64_t layer) const { return held_.count(layer) != 0; }
  bool HoldsAnyFrom(std::uint64_t layer) const { return held_.lower_bound(layer) != held_.end(); }
  // How many layers follow each other from this one on.
  std::uint64_t CountFrom(std::uint64_t layer) const;
  bool HoldsIndexer(std::uint64_t layer) const { return indexers_.count(layer) != 0; }
  std::uint64_t indexers() const { return indexers_.size(); }
  bool IsMtp(std::uint64_t layer) const { return mtp_.count(layer) != 0; }

  // The number of the first layers that have a dense MLP where all behind them have routed experts;
  // nothing where the layers are of another order, or one of them has neither or both.
  std::optional<std::uint64_t> FirstDense() const;
  // How many routed experts each layer that has any holds; nothing where the layers differ or leave
  // a number out. Only experts with tensors of their own are known.
  std::optional<std::uint64_t> ExpertsOfEach() const;

  // The main layers, and behind them the MTP layers; nothing where a number is left out or a main
  // layer follows an MTP layer.
  std::optional<LayerCounts> Counts() const;

 private:
  std::set<std::uint64_t> held_;
  std::set<std::uint64_t> indexers_;
  std::set<std::uint64_t> mtp_;
  std::set<std::uint64_t> dense_;
  std::set<std::uint64_t> sparse_;
  std::map<std::uint64_t, std::vector<bool>> experts_;  // of a layer, by number
};

// "num_hidden_layers to 3 and num_nextn_predict_layers to 1": the fields that other values fit;
// empty where the config has these.
std::string FieldsForLayers(const ModelConfig& config, const LayerCounts& there);

// The end of a message about a missing tensor: the config value that would fit the tensors that are
// there, such as ", or set num_nextn_predict_layers to 1 if …". Empty where each such value would
// lose a tensor that is there.
std::string FittingValue(const ModelConfig& config, const LayersHeld& layers,
                         const ExpectedTensorView& expected);

// The same for the name of a missing tensor.
std::string FittingValue(const ModelConfig& config, const Catalog& catalog,
                         std::string_view missing);

}  // namespace dsv3::convert
