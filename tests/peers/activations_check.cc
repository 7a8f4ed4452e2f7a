// dsv3-activations-check f32|ue8m0 COLS: quantises the rows of COLS floats on standard input, and
// writes for each row the values of its codes and then its scales, as floats, to standard output.
// For comparison with other programs' arithmetic; the arguments are trusted.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "quant/activations.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const bool ue8m0 = std::string_view(argv[1]) == "ue8m0";
  std::vector<float> row(std::strtoull(argv[2], nullptr, 10));
  if (row.empty()) return 2;
  std::vector<float> scales((row.size() - 1) / dsv3::quant::kActivationGroup + 1);
  while (std::fread(row.data(), sizeof(float), row.size(), stdin) == row.size()) {
    dsv3::quant::QuantizeActivations(row, ue8m0, scales.data());
    if (std::fwrite(row.data(), sizeof(float), row.size(), stdout) != row.size()) return 4;
    if (std::fwrite(scales.data(), sizeof(float), scales.size(), stdout) != scales.size()) return 4;
  }
  return std::fflush(stdout) == 0 ? 0 : 4;
}
