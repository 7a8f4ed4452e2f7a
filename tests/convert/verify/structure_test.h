#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/verify/structure.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// A whole FP8 checkpoint of a few KB whose config predicts every tensor: V3.2's layers of both
// kinds with experts and indexers, and an MTP layer, in four shards; blocks of 4 × 8, some scales
// in another shard than their weight, a ragged projection.
TinyCheckpoint SmallModelCheckpoint();

// A test spoils checkpoint_, or the files that Write made of it, and looks at the findings.
class StructureTest : public ::testing::Test {
 protected:
  std::filesystem::path in() const { return dir_ / "in"; }
  void Write() const { checkpoint_.Write(in()); }

  convert::StructureReport Verify() const { return convert::VerifyStructure({in()}); }
  // Writes and verifies.
  formats::Findings Findings() const;
  // The only finding of a written checkpoint; an empty one, and a failure, where there are others.
  formats::Finding OnlyFinding() const;

  // Adds or replaces a member of config.json.
  void SetConfig(const std::string& member, const std::string& value);
  // The index as it is, whatever becomes of the tensors.
  void KeepIndex() { checkpoint_.index_text = checkpoint_.IndexText(); }

  TempDir dir_;
  TinyCheckpoint checkpoint_ = SmallModelCheckpoint();
};

// "kind file tensor" of each finding, "warning " before those that are no errors.
std::vector<std::string> Lines(const formats::Findings& findings);

}  // namespace dsv3::testing
