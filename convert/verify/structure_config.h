#pragma once

#include <optional>
#include <string>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/open/open_model.h"
#include "formats/finding.h"

// config.json as VerifyStructure judges it; an internal part of structure.h.
namespace dsv3::convert {

struct StructureConfig {
  ModelConfig model;
  std::string torch_dtype;  // also from "dtype", its newer name; empty when absent
};

// The config of a checkpoint. Nothing, with a finding (missing-config, unreadable-config), where
// there is none or it has a fault.
std::optional<StructureConfig> ConfigOf(const OpenedModel& model, formats::Findings& findings);

// A quantization_config beside weights of which none is quantised ("leftover-quantization-config").
void CheckLeftoverQuantization(const ModelConfig& config, const Catalog& catalog,
                               formats::Findings& findings);

}  // namespace dsv3::convert
