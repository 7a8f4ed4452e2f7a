#pragma once

#include <filesystem>
#include <vector>

#include "tests/convert/forward/npy_floats.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// The `tiny` sample with its FP8 weights and as BF16, made once for all tests of a suite.
class ForwardModelsTest : public TrainToInferTest {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    MakeSample(convert::SamplePreset::kTiny, 1, Fp8());
    Conversion(Fp8(), Bf16()).Run();
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  // The floats of a .npy file.
  std::vector<float> Array(const char* name) const { return NpyFloats(dir_ / name); }

  static std::filesystem::path Fp8() { return *shared_ / "fp8"; }
  static std::filesystem::path Bf16() { return *shared_ / "bf16"; }

 private:
  inline static TempDir* shared_ = nullptr;
};

}  // namespace dsv3::testing
