#include "convert/verify/gguf_key_differences.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/open/gguf_architecture.h"
#include "convert/open/gguf_config.h"
#include "convert/open/gguf_keys.h"
#include "convert/open/gguf_model.h"
#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::GgufKeys;
using formats::GgufValue;

constexpr std::size_t kNamed = 5;   // differences in the message
constexpr double kRounding = 1e-6;  // relative; other programs round elsewhere on the way to float

// A value without its kind, which other programs choose otherwise.
using PlainValue =
    std::variant<double, bool, std::string, std::vector<double>, std::vector<std::string>>;

PlainValue PlainOf(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> PlainValue {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, bool> ||
                      std::is_same_v<T, std::vector<std::string>>) {
          return held;
        } else if constexpr (std::is_arithmetic_v<T>) {
          return static_cast<double>(held);
        } else {
          return std::vector<double>(held.begin(), held.end());
        }
      },
      value);
}

bool EqualNumbers(double a, double b) {
  return a == b || std::fabs(a - b) <= kRounding * std::max(std::fabs(a), std::fabs(b));
}

bool IsSame(const PlainValue& a, const PlainValue& b) {
  if (a.index() != b.index()) return false;
  if (const auto* const number = std::get_if<double>(&a)) {
    return EqualNumbers(*number, std::get<double>(b));
  }
  if (const auto* const numbers = std::get_if<std::vector<double>>(&a)) {
    const auto& others = std::get<std::vector<double>>(b);
    return std::equal(numbers->begin(), numbers->end(), others.begin(), others.end(), EqualNumbers);
  }
  return a == b;
}

std::string Shown(const PlainValue& value) {
  if (const auto* const number = std::get_if<double>(&value)) return fmt::format("{:.7g}", *number);
  if (const auto* const truth = std::get_if<bool>(&value)) return *truth ? "true" : "false";
  if (const auto* const text = std::get_if<std::string>(&value)) return QuoteForMessage(*text);
  const auto* const numbers = std::get_if<std::vector<double>>(&value);
  return fmt::format("{} values", numbers != nullptr
                                      ? numbers->size()
                                      : std::get<std::vector<std::string>>(value).size());
}

// The keys that to-gguf writes of the model's config for a file that holds MTP layers or not; a
// sentence why there are none.
std::variant<GgufKeys, std::string> KeysOf(const OpenedModel& model, bool has_mtp) {
  try {
    const GgufTarget target = GgufTargetOf(model.config, has_mtp ? GgufMtp::kKeep : GgufMtp::kDrop);
    return ModelGgufKeys(model, target, "", 0);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    return error.message();
  }
}

// Keys that are others in files with kv_b_proj in one piece.
bool IsOfForm(std::string_view key) {
  constexpr std::array<std::string_view, 5> kKeys = {
      ".attention.head_count_kv", ".attention.key_length", ".attention.value_length",
      ".attention.key_length_mla", ".attention.value_length_mla"};
  return std::any_of(kKeys.begin(), kKeys.end(),
                     [&](std::string_view end) { return key.ends_with(end); });
}

// Whether a key changes what llama.cpp computes for a model without the feature. Other programs
// write many more keys, most of them without a meaning.
bool MattersWherePresent(std::string_view key, const PlainValue& value) {
  if (key == "expert_weights_norm") return value != PlainValue(false);
  if (key == "rope.scaling.type") return value != PlainValue(std::string("none"));
  return key == "rope.scaling.factor" && value != PlainValue(1.0);
}

std::vector<std::string> DifferencesOf(const GgufKeys& wanted, const GgufKeys& found,
                                       const std::string& architecture) {
  const std::string prefix = architecture + ".";
  const bool in_one = formats::FindGgufKey(found, prefix + "attention.key_length_mla") == nullptr;
  std::vector<std::string> differences;
  for (const auto& [key, value] : wanted) {
    if (!key.starts_with(prefix) || (in_one && IsOfForm(key))) continue;
    const GgufValue* const held = formats::FindGgufKey(found, key);
    const PlainValue plain = PlainOf(value);
    if (held != nullptr && IsSame(PlainOf(*held), plain)) continue;
    // Without the key llama.cpp takes 0.
    if (held == nullptr && plain == PlainValue(0.0)) continue;
    differences.push_back(
        held == nullptr ? fmt::format("{} is missing ({})", key, Shown(plain))
                        : fmt::format("{} is {} ({})", key, Shown(PlainOf(*held)), Shown(plain)));
  }
  for (const auto& [key, value] : found) {
    if (!key.starts_with(prefix) || formats::FindGgufKey(wanted, key) != nullptr) continue;
    const PlainValue plain = PlainOf(value);
    if (!MattersWherePresent(std::string_view(key).substr(prefix.size()), plain)) continue;
    differences.push_back(fmt::format("{} is {} (absent)", key, Shown(plain)));
  }
  return differences;
}

}  // namespace

std::optional<formats::Finding> CompareGgufKeys(const OpenedModel& model, const OpenedModel& gguf) {
  const std::string architecture(GgufArchitectureOf(*gguf.gguf));
  const std::string& file = gguf.gguf->stored.files().front().name;
  if (!model.config.known || !ReadGgufConfig(*gguf.gguf).known) return std::nullopt;
  const auto finding = [&](std::string_view problem) {
    return formats::Finding{formats::Severity::kWarning, "different-keys", file, "",
                            fmt::format("{}: {}", formats::ShownPath(file), problem)};
  };
  const bool has_mtp =
      formats::GgufNumber(gguf.gguf->keys, architecture + ".nextn_predict_layers").value_or(0) > 0;
  const std::variant<GgufKeys, std::string> made = KeysOf(model, has_mtp);
  if (const auto* const why = std::get_if<std::string>(&made)) {
    return finding(fmt::format("its keys were not compared with config.json: {}", *why));
  }
  const auto& keys = std::get<GgufKeys>(made);
  const auto& wanted =
      std::get<std::string>(*formats::FindGgufKey(keys, formats::kGgufArchitectureKey));
  if (wanted != architecture) {
    return finding(fmt::format("its architecture is {}, and that of config.json is {}",
                               QuoteForMessage(architecture), wanted));
  }
  std::vector<std::string> differences = DifferencesOf(keys, gguf.gguf->keys, architecture);
  if (differences.empty()) return std::nullopt;
  const std::size_t count = differences.size();
  if (count > kNamed) {
    differences.resize(kNamed);
    differences.push_back(fmt::format("and {} more", count - kNamed));
  }
  return finding(fmt::format(
      "{} not what config.json says (in brackets), and llama.cpp computes by the keys: {}",
      count == 1 ? "a key is" : fmt::format("{} keys are", count), fmt::join(differences, "; ")));
}

}  // namespace dsv3::convert
