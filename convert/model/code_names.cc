#include "convert/model/code_names.h"

#include "convert/model/scale_names.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kColumnCodes = ".qweight";

std::string WithEnding(std::string_view name, std::string_view ending,
                       std::string_view replacement) {
  return std::string(name.substr(0, name.size() - ending.size())).append(replacement);
}

}  // namespace

std::string WeightOfCodes(std::string_view codes) {
  if (AreKeptByColumns(codes)) return WithEnding(codes, kColumnCodes, kWeight);
  return WeightNameOf(codes);
}

std::vector<std::string> OtherCodeNamesOf(std::string_view weight) {
  std::vector<std::string> names = {PackedNameOf(weight)};
  if (weight.ends_with(kWeight)) names.push_back(WithEnding(weight, kWeight, kColumnCodes));
  return names;
}

bool AreKeptByColumns(std::string_view codes) { return codes.ends_with(kColumnCodes); }

}  // namespace dsv3::convert
