#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <vector>

#include "tests/convert/layouts/element_model.h"
#include "tests/formats/support/dcp_text.h"

// Training checkpoints of a few kB: the tensors of a model under Hugging Face's names, in F32, each
// element its number, beside the model's config.json; and some of an optimizer.
namespace dsv3::testing {

using convert::testing::ElementModel;

// The files of torch.save that pytorch_model.bin.index.json lists.
void WriteTorchFiles(const ElementModel& model, std::size_t files,
                     const std::filesystem::path& directory);

// One file of torch.save.
void WriteTorchFile(const ElementModel& model, const std::filesystem::path& path);

// A directory of torch.distributed.checkpoint: three files of neighbouring tensors, halves of some
// in a fourth one, and a last one of the optimizer alone, whose other half is in the first. `edit`
// changes what .metadata says.
inline constexpr char kOptimizerFile[] = "__9_0.distcp";
void WriteDcp(const ElementModel& model, const std::filesystem::path& directory,
              const std::function<void(std::vector<DcpTensorText>&)>& edit = {});

// The same as safetensors of two ranks with two files each, the halves of every tensor on both.
void WriteDcpSafetensors(const ElementModel& model, const std::filesystem::path& directory);

}  // namespace dsv3::testing
