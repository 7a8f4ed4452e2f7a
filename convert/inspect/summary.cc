#include "convert/inspect/summary.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/inspect/name_groups.h"
#include "convert/model/scale_names.h"
#include "formats/hash/split_mix.h"

namespace dsv3::convert {
namespace {

// Tensors of one group: rows of its numbers.
struct Rows {
  std::uint32_t group = 0;
  std::vector<std::uint32_t> rows;
};

// Gives small consecutive slots to numbers, in ascending order of the numbers.
class Slots {
 public:
  explicit Slots(std::vector<std::uint32_t> numbers) : numbers_(std::move(numbers)) {
    const std::uint32_t largest = *std::max_element(numbers_.begin(), numbers_.end());
    if (largest / 2 > numbers_.size() + kAlwaysDense) {
      std::sort(numbers_.begin(), numbers_.end());
      numbers_.erase(std::unique(numbers_.begin(), numbers_.end()), numbers_.end());
      for (std::uint32_t i = 0; i < numbers_.size(); ++i) sparse_[numbers_[i]] = i;
      return;
    }
    dense_.assign(std::size_t{largest} + 1, 0);
    for (const std::uint32_t n : numbers_) dense_[n] = 1;
    numbers_.clear();
    for (std::uint32_t n = 0; n <= largest; ++n) {
      if (dense_[n] == 0) continue;
      dense_[n] = static_cast<std::uint32_t>(numbers_.size());
      numbers_.push_back(n);
    }
  }

  std::uint32_t Of(std::uint32_t number) const {
    return dense_.empty() ? sparse_.at(number) : dense_[number];
  }
  const std::vector<std::uint32_t>& numbers() const { return numbers_; }

 private:
  static constexpr std::uint32_t kAlwaysDense = 4096;
  std::vector<std::uint32_t> numbers_;  // by slot
  std::vector<std::uint32_t> dense_;
  std::unordered_map<std::uint32_t, std::uint32_t> sparse_;
};

// "61", "[3-60]", "[0-2,5]".
std::string RangeName(const std::vector<std::uint32_t>& numbers) {
  if (numbers.size() == 1) return std::to_string(numbers[0]);
  std::string name = "[";
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (i > 0) name += ',';
    name += std::to_string(numbers[i]);
    if (last > i) name += fmt::format("{}{}", last == i + 1 ? "," : "-", numbers[last]);
    i = last + 1;
  }
  return name + "]";
}

class TreeBuilder {
 public:
  explicit TreeBuilder(const std::vector<NameGroup>& groups) : groups_(groups) {}

  SummaryNode Build() {
    std::vector<Rows> all;
    for (std::uint32_t g = 0; g < groups_.size(); ++g) {
      Rows rows{g, std::vector<std::uint32_t>(groups_[g].tensors)};
      for (std::uint32_t r = 0; r < rows.rows.size(); ++r) rows.rows[r] = r;
      all.push_back(std::move(rows));
    }
    SummaryNode root;
    AddChildren(root, std::move(all), 0, 0, 1);
    return root;
  }

 private:
  const NameGroup& GroupOf(const Rows& rows) const { return groups_[rows.group]; }

  // Adds what lies below `parent`: `items` agree in their first `depth` components, of which
  // `number` are numbers. All of it is `times` times in the checkpoint.
  void AddChildren(SummaryNode& parent, std::vector<Rows> items, std::size_t depth,
                   std::size_t number, std::uint64_t times) {
    std::map<std::string_view, std::vector<Rows>> by_component;
    for (Rows& item : items) {
      by_component[GroupOf(item).components[depth]].push_back(std::move(item));
    }
    items.clear();
    for (auto& [component, below] : by_component) {
      if (component == NameGroup::kNumber) {
        AddRanges(parent, below, depth, number, times);
      } else {
        AddComponent(parent, NameGroup::WordOf(component), SummaryNode::Kind::kGroup,
                     std::move(below), depth + 1, number, times);
      }
    }
    FoldScales(parent);
    for (const SummaryNode& child : parent.children) {
      parent.tensors += child.tensors;
      parent.parameters += child.parameters;
      parent.bytes += child.bytes;
    }
  }

  // Adds the child `name` for items that agree in `depth` components; those that end there become
  // tensors of that name.
  void AddComponent(SummaryNode& parent, std::string name, SummaryNode::Kind kind,
                    std::vector<Rows> items, std::size_t depth, std::size_t number,
                    std::uint64_t times) {
    std::vector<Rows> longer;
    for (Rows& item : items) {
      if (GroupOf(item).components.size() > depth) {
        longer.push_back(std::move(item));
      } else {
        AddTensor(parent, name, GroupOf(item), times);
      }
    }
    if (longer.empty()) return;
    SummaryNode node;
    node.kind = kind;
    node.name = std::move(name);
    AddChildren(node, std::move(longer), depth, number, times);
    parent.children.push_back(std::move(node));
  }

  void AddTensor(SummaryNode& parent, const std::string& name, const NameGroup& group,
                 std::uint64_t times) {
    SummaryNode node;
    node.kind = SummaryNode::Kind::kTensor;
    node.name = name;
    node.dtype = group.dtype;
    node.shape = group.shape;
    node.tensors = group.scale ? 0 : times;
    node.parameters = times * group.parameters;
    node.bytes = times * group.bytes;
    parent.children.push_back(std::move(node));
  }

  // Numbers whose subtrees are equal become one child. Two subtrees are equal when they hold the
  // same groups with the same further numbers; sums of hashes tell, so no order matters.
  void AddRanges(SummaryNode& parent, const std::vector<Rows>& items, std::size_t depth,
                 std::size_t number, std::uint64_t times) {
    const auto number_of = [&](const NameGroup& group, std::uint32_t row) {
      return group.numbers[row * group.num_numbers + number];
    };
    std::vector<std::uint32_t> present;
    for (const Rows& item : items) {
      for (const std::uint32_t row : item.rows) present.push_back(number_of(GroupOf(item), row));
    }
    const Slots slots(std::move(present));
    std::vector<std::uint64_t> signatures(slots.numbers().size(), 0);
    for (const Rows& item : items) {
      const NameGroup& group = GroupOf(item);
      for (const std::uint32_t row : item.rows) {
        std::uint64_t hash = item.group + 1;
        for (std::size_t i = number + 1; i < group.num_numbers; ++i) {
          hash = formats::SplitMix(hash * formats::kSplitMixStep +
                                   group.numbers[row * group.num_numbers + i]);
        }
        signatures[slots.Of(number_of(group, row))] += formats::SplitMix(hash);
      }
    }

    constexpr std::uint32_t kNotFirst = UINT32_MAX;
    std::vector<std::vector<std::uint32_t>> members;  // numbers of each class
    std::vector<std::uint32_t> class_of_first(signatures.size(), kNotFirst);
    std::unordered_map<std::uint64_t, std::uint32_t> classes;
    for (std::uint32_t slot = 0; slot < signatures.size(); ++slot) {
      const auto next = static_cast<std::uint32_t>(members.size());
      const auto [entry, is_new] = classes.try_emplace(signatures[slot], next);
      if (is_new) {
        members.emplace_back();
        class_of_first[slot] = next;
      }
      members[entry->second].push_back(slots.numbers()[slot]);
    }
    // The first number of each class represents the class.
    std::vector<std::vector<Rows>> below(members.size());
    for (const Rows& item : items) {
      for (const std::uint32_t row : item.rows) {
        const std::uint32_t c = class_of_first[slots.Of(number_of(GroupOf(item), row))];
        if (c == kNotFirst) continue;
        if (below[c].empty() || below[c].back().group != item.group) {
          below[c].push_back({item.group, {}});
        }
        below[c].back().rows.push_back(row);
      }
    }
    for (std::size_t c = 0; c < members.size(); ++c) {
      AddComponent(parent, RangeName(members[c]), SummaryNode::Kind::kRange, std::move(below[c]),
                   depth + 1, number + 1, times * members[c].size());
    }
  }

  // Puts scales beside the tensor that they belong to.
  void FoldScales(SummaryNode& parent) {
    auto& children = parent.children;
    const auto is_tensor = [](const SummaryNode& n) {
      return n.kind == SummaryNode::Kind::kTensor;
    };
    const auto weight_of = [&](const std::string& scale) {
      for (const std::string& name : CodeNamesOf(scale)) {
        const auto found = std::find_if(children.begin(), children.end(), [&](const auto& n) {
          return is_tensor(n) && n.name == name;
        });
        if (found != children.end()) return found;
      }
      return children.end();
    };
    // Scales are the tensors without parameters of their own.
    for (std::size_t i = 0; i < children.size();) {
      const bool scale = is_tensor(children[i]) && children[i].tensors == 0;
      const auto weight = scale ? weight_of(children[i].name) : children.end();
      if (weight == children.end()) {
        ++i;
        continue;
      }
      weight->bytes += children[i].bytes;
      weight->scales.push_back({children[i].name, children[i].dtype, std::move(children[i].shape)});
      children.erase(children.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  const std::vector<NameGroup>& groups_;
};

// How many tensors of a group belong to multi-token prediction.
std::uint64_t CountMtp(const NameGroup& group, const ModelConfig* config) {
  if (group.components[0] == "mtp") return group.tensors;
  const std::size_t position = group.NumberAfter("layers");
  if (config == nullptr || config->num_hidden_layers == 0 || position == group.num_numbers) {
    return 0;
  }
  std::uint64_t count = 0;
  for (std::size_t i = position; i < group.numbers.size(); i += group.num_numbers) {
    if (group.numbers[i] >= config->num_hidden_layers) ++count;
  }
  return count;
}

bool IsEmbedding(const NameGroup& group) {
  const std::size_t size = group.components.size();
  return size >= 2 && group.shape.size() == 2 && group.components[size - 1] == "weight" &&
         (group.components[size - 2] == "embed_tokens" || group.components[size - 2] == "embed");
}

void AddTotals(const std::vector<NameGroup>& groups, const ModelConfig* config, Summary& summary) {
  std::map<formats::Dtype, DtypeTotal> dtypes;
  std::uint64_t routed = 0;         // parameters of routed experts
  std::uint64_t not_looked_up = 0;  // rows of the embedding that a token does not read
  for (const NameGroup& group : groups) {
    const std::uint64_t elements = group.tensors * group.elements;
    const std::uint64_t bytes = group.tensors * group.bytes;
    DtypeTotal& total = dtypes[group.dtype];
    total.dtype = group.dtype;
    total.tensors += group.tensors;
    total.elements += elements;
    total.bytes += bytes;
    summary.tensors += group.tensors;
    summary.tensor_bytes += bytes;
    const std::uint64_t mtp = CountMtp(group, config);
    summary.mtp_tensors += mtp;
    summary.mtp_bytes += mtp * group.bytes;
    if (group.scale) {
      summary.scales += group.tensors;
      summary.scale_elements += elements;
      summary.scale_bytes += bytes;
      continue;
    }
    const std::uint64_t main = (group.tensors - mtp) * group.parameters;
    summary.parameters += main;
    summary.mtp_parameters += mtp * group.parameters;
    if (group.NumberAfter("experts") < group.num_numbers) routed += main;
    if (IsEmbedding(group) && main > 0) not_looked_up += main - group.shape[1];
  }
  for (const auto& [dtype, total] : dtypes) summary.dtypes.push_back(total);
  std::stable_sort(summary.dtypes.begin(), summary.dtypes.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  if (config != nullptr && config->n_routed_experts > 0 && config->num_experts_per_tok > 0 &&
      config->num_experts_per_tok <= config->n_routed_experts && routed > 0) {
    const std::uint64_t chosen = routed / config->n_routed_experts * config->num_experts_per_tok;
    summary.activated_parameters = summary.parameters - routed - not_looked_up + chosen;
  }
}

}  // namespace

Summary Summarize(const Catalog& catalog, const ModelConfig* config) {
  const std::vector<NameGroup> groups = GroupNames(catalog, config);
  Summary summary;
  if (!groups.empty()) summary.root = TreeBuilder(groups).Build();
  AddTotals(groups, config, summary);
  summary.files = catalog.files().size();
  for (const SourceFile& file : catalog.files()) summary.file_bytes += file.bytes;
  return summary;
}

}  // namespace dsv3::convert
