#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"

// What tells the form of a tensor of codes: the tensors beside it and what the config says.
// Internal to convert/model.
namespace dsv3::convert {

// Refers to its arguments, which must outlive it.
class FormEvidence {
 public:
  // `module` is the name of the codes without the last component.
  FormEvidence(const Catalog& catalog, const ModelConfig& config, const CatalogTensor& codes,
               std::string_view module)
      : catalog_(catalog), config_(config), codes_(codes), module_(module) {}

  const Catalog& catalog() const { return catalog_; }
  const ModelConfig& config() const { return config_; }
  const CatalogTensor& codes() const { return codes_; }

  // The tensors beside the codes, by the last component of their names.
  std::string Name(std::string_view part) const;
  std::uint32_t Position(std::string_view part) const;  // Catalog::kNone where there is none
  const CatalogTensor* Find(std::string_view part) const;
  bool Has(std::string_view part) const { return Find(part) != nullptr; }

  // quant_method; "modelopt" where hf_quant_config.json alone describes the weights.
  std::string_view Method() const;
  // ModelOpt's name of what it did: "FP8", "NVFP4", "W4A8_AWQ" …
  std::string_view Algorithm() const;
  // "modelopt", and with the form behind it: "modelopt_fp4", "modelopt_mixed".
  bool IsModelOpt() const { return Method().starts_with("modelopt"); }
  // Whether the algorithm is one that ModelOpt and TensorRT-LLM have; true for other methods.
  bool HasKnownAlgorithm() const;
  // INT4 in bytes: "W4A8_AWQ", "W4A16_AWQ", "INT4_AWQ".
  bool IsModelOptInt4() const;
  // "MXFP4", "W4A8_MXFP4_FP8".
  bool IsModelOptMxFp4() const;
  // Whether ModelOpt left the module as it was.
  bool IsExcluded() const;
  // The width of integer codes that the config's groups agree on; 0: none, or several.
  std::uint64_t PackedBits() const;
  // The width of AWQ's and GPTQ's codes, by the shapes of their zeros; 0: not known.
  std::uint64_t BitsOfZeros() const;
  // The same of AWQ, where the config may say it.
  std::uint64_t AwqBits() const;

 private:
  const Catalog& catalog_;
  const ModelConfig& config_;
  const CatalogTensor& codes_;
  std::string_view module_;
};

}  // namespace dsv3::convert
