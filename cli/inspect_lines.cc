#include "cli/inspect_lines.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include "cli/units.h"
#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::cli {
namespace {

using convert::SummaryNode;

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

// Tensors that share a line: their names are equal but for component `varying`.
struct Leaf {
  std::vector<std::string> components;
  std::size_t varying = kNone;
  std::vector<std::string> variants;  // of that component
  const SummaryNode* node = nullptr;
  std::uint64_t times = 1;  // tensors of node's kind on this line
};

bool SameScales(const SummaryNode& a, const SummaryNode& b) {
  return std::equal(a.scales.begin(), a.scales.end(), b.scales.begin(), b.scales.end(),
                    [](const auto& x, const auto& y) {
                      return x.name == y.name && x.dtype == y.dtype && x.shape == y.shape;
                    });
}

bool SameKind(const SummaryNode& a, const SummaryNode& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.tensors == b.tensors && a.bytes == b.bytes &&
         SameScales(a, b);
}

// Where two names differ, when it is one component, a word on both sides.
std::size_t OnlyDifference(const Leaf& a, const Leaf& b) {
  if (a.components.size() != b.components.size()) return kNone;
  std::size_t difference = kNone;
  for (std::size_t i = 0; i < a.components.size(); ++i) {
    if (a.components[i] == b.components[i]) continue;
    if (difference != kNone) return kNone;
    difference = i;
  }
  const auto is_range = [](const std::string& c) {
    return !c.empty() && (c[0] == '[' || (c[0] >= '0' && c[0] <= '9'));
  };
  if (difference == kNone || is_range(a.components[difference]) ||
      is_range(b.components[difference])) {
    return kNone;
  }
  return difference;
}

// The common end of all variants, from an underscore on: "_proj" for "gate_proj" and "up_proj".
std::string_view SharedEnd(const std::vector<std::string>& variants) {
  const std::string_view first = variants.front();
  for (std::size_t i = first.find('_'); i != std::string_view::npos; i = first.find('_', i + 1)) {
    const std::string_view end = first.substr(i);
    if (std::all_of(variants.begin(), variants.end(), [&](const std::string& v) {
          return v.size() > end.size() && v.ends_with(end);
        })) {
      return end;
    }
  }
  return "";
}

// Words without a common end are short enough for one line only when they are simple.
bool GoTogether(const std::vector<std::string>& variants) {
  return !SharedEnd(variants).empty() ||
         std::all_of(variants.begin(), variants.end(),
                     [](const std::string& v) { return v.find('_') == std::string::npos; });
}

bool Merge(Leaf& into, const Leaf& leaf) {
  if (!SameKind(*into.node, *leaf.node)) return false;
  const std::size_t difference = OnlyDifference(into, leaf);
  if (difference == kNone || (into.varying != kNone && into.varying != difference)) return false;
  std::vector<std::string> variants = into.variants;
  if (variants.empty()) variants.push_back(into.components[difference]);
  variants.push_back(leaf.components[difference]);
  if (!GoTogether(variants)) return false;
  into.variants = std::move(variants);
  into.varying = difference;
  ++into.times;
  return true;
}

void AddLeaf(std::vector<Leaf>& leaves, Leaf leaf) {
  // Only near neighbours, so that the time stays linear.
  constexpr std::size_t kNear = 16;
  const std::size_t first = leaves.size() > kNear ? leaves.size() - kNear : 0;
  for (std::size_t i = first; i < leaves.size(); ++i) {
    if (Merge(leaves[i], leaf)) return;
  }
  leaves.push_back(std::move(leaf));
}

// "{gate,up}_proj".
std::string Braces(const std::vector<std::string>& variants) {
  const std::string_view shared = SharedEnd(variants);
  std::string text = "{";
  for (const std::string& variant : variants) {
    if (text.size() > 1) text += ',';
    text += std::string_view(variant).substr(0, variant.size() - shared.size());
  }
  return text.append("}").append(shared);
}

// A long list of numbers is cut, since a line should stay one.
std::string ShortComponent(const std::string& component) {
  constexpr std::size_t kLongest = 48;
  std::string text = Printable(component);
  if (component.empty() || component[0] != '[' || text.size() <= kLongest) return text;
  const std::size_t comma = text.rfind(',', kLongest);
  return text.substr(0, comma == std::string::npos ? kLongest : comma) + ",…]";
}

std::string NameOf(const Leaf& leaf) {
  std::string name;
  for (std::size_t i = 0; i < leaf.components.size(); ++i) {
    if (i > 0) name += '.';
    name +=
        i == leaf.varying ? Printable(Braces(leaf.variants)) : ShortComponent(leaf.components[i]);
  }
  return name;
}

InspectLine LineOf(const Leaf& leaf, bool indented) {
  const SummaryNode& node = *leaf.node;
  InspectLine line;
  line.indented = indented;
  line.name = NameOf(leaf);
  line.dtype = formats::DtypeName(node.dtype);
  for (const auto& scale : node.scales) {
    line.dtype += " + ";
    line.dtype += formats::DtypeName(scale.dtype);
  }
  line.shape = formats::ShapeToString(node.shape);
  line.tensors = leaf.times * node.tensors;
  line.parameters = leaf.times * node.parameters;
  line.bytes = leaf.times * node.bytes;
  return line;
}

class LineBuilder {
 public:
  std::vector<InspectLine> Build(const SummaryNode& root) {
    for (const SummaryNode& child : root.children) Visit(child, {});
    Flush(/*indented=*/false);
    return std::move(lines_);
  }

 private:
  static bool IsHeading(const SummaryNode& node) {
    return node.kind == SummaryNode::Kind::kRange && node.children.size() > 1;
  }

  void Visit(const SummaryNode& node, std::vector<std::string> path) {
    path.push_back(node.name);
    if (IsHeading(node)) {
      Flush(/*indented=*/false);
      Leaf name;
      name.components = std::move(path);
      InspectLine heading;
      heading.heading = true;
      heading.name = NameOf(name);
      heading.tensors = node.tensors;
      heading.parameters = node.parameters;
      heading.bytes = node.bytes;
      lines_.push_back(std::move(heading));
      for (const SummaryNode& child : node.children) Collect(child, {});
      Flush(/*indented=*/true);
      return;
    }
    if (node.kind == SummaryNode::Kind::kTensor) AddTensor(node, path);
    for (const SummaryNode& child : node.children) Visit(child, path);
  }

  void Collect(const SummaryNode& node, std::vector<std::string> path) {
    path.push_back(node.name);
    if (node.kind == SummaryNode::Kind::kTensor) AddTensor(node, path);
    for (const SummaryNode& child : node.children) Collect(child, path);
  }

  void AddTensor(const SummaryNode& node, const std::vector<std::string>& path) {
    Leaf leaf;
    leaf.components = path;
    leaf.node = &node;
    AddLeaf(leaves_, std::move(leaf));
  }

  void Flush(bool indented) {
    for (const Leaf& leaf : leaves_) lines_.push_back(LineOf(leaf, indented));
    leaves_.clear();
  }

  std::vector<Leaf> leaves_;
  std::vector<InspectLine> lines_;
};

}  // namespace

std::vector<InspectLine> InspectLines(const SummaryNode& root) { return LineBuilder().Build(root); }

}  // namespace dsv3::cli
