#pragma once

#include "cli/option_table.h"

// One function a command: it makes the command's table, which owns the options' storage.
namespace dsv3::cli {

Command Bf16ToFp8Command();
Command Fp8ToBf16Command();
Command DequantizeCommand();
Command QuantizeCommand();
Command RepackCommand();
Command TrainToInferCommand();
Command LayoutCommand();
Command ToGgufCommand();
Command PackCommand();
Command UnpackCommand();
Command SampleCommand();
Command InspectCommand();

// dsv3-reshard.
Command ReshardCommand();
Command MergeCommand();

// dsv3-verify.
Command ChecksumCreateCommand();
Command ChecksumCheckCommand();
Command StructureCommand();
Command NumericCommand();
Command ForwardCommand();
Command CompareCommand();
Command ProvenanceCommand();
Command AllChecksCommand();
Command SignCommand();
Command VerifySignatureCommand();

}  // namespace dsv3::cli
