#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// How a module of one model differs from the same module of another.
namespace dsv3::convert {

// What the other model's tensor is to this model's.
enum class TensorRelation {
  kScaled,        // this one times a factor, in all elements or in those that differ
  kRowsPermuted,  // the same rows in another order
  kZeroed,        // every element that differs is 0
  kValues,        // other values
  kShape,         // another shape
  kConfig,        // the tensor is the same; fields of config.json differ
};

// The field of config.json for a weight that is FP8 in one model alone.
inline constexpr char kFormField[] = "quantization_config";

// "scaled", "rows-permuted", "zeroed", "values", "shape", "config".
const char* RelationName(TensorRelation relation);

// Sums over the elements of two outputs, this model's a and the other's b.
struct ErrorSums {
  double difference = 0;  // of (a − b)²
  double a = 0;           // of a²
  double b = 0;           // of b²
  double product = 0;     // of a · b

  void Add(const ErrorSums& more) {
    difference += more.difference;
    a += more.a;
    b += more.b;
    product += more.product;
  }
  void Add(double of_a, double of_b) {
    difference += (of_a - of_b) * (of_a - of_b);
    a += of_a * of_a;
    b += of_b * of_b;
    product += of_a * of_b;
  }
  // Σ(a − b)² / Σa²: 0 where nothing differs, infinite where only a is zero or an element is not
  // finite.
  double Nmse() const;
  // 1 where both are zero, 0 where one is or an element is not finite.
  double Cosine() const;
};

struct ModuleDifference {
  std::string module;  // by its path in transformers: "model.layers.3.self_attn.q_b_proj"
  std::optional<std::uint64_t> layer;
  std::string tensor;  // of this model; empty for kConfig
  std::string file;    // of that tensor
  // On which the tensor differs; nothing where there are no ranks, or where it differs on all that
  // hold it.
  std::optional<std::uint32_t> rank = std::nullopt;
  // Whether the rank's copy differs from those of other ranks; otherwise from the other model's.
  bool of_copies = false;
  // Of the other's module on this model's input; nothing where its shapes do not fit.
  std::optional<double> nmse;
  std::optional<double> cosine;
  TensorRelation relation = TensorRelation::kValues;
  std::optional<double> factor;     // kScaled
  std::vector<std::string> config;  // kConfig: the fields
};

}  // namespace dsv3::convert
