// dsv3-eplb-check: balances each line "replicas groups nodes gpus load…" of the standard input and
// prints its physical experts' logical ones as a line. For comparison with the published algorithm.

#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "convert/parallel/eplb.h"

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    dsv3::convert::EplbSizes sizes;
    in >> sizes.replicas >> sizes.groups >> sizes.nodes >> sizes.gpus;
    std::vector<double> load;
    for (double value = 0; in >> value;) load.push_back(value);
    std::string text;
    for (const std::uint32_t expert : dsv3::convert::Rebalance(load, sizes).physical_to_logical) {
      text += (text.empty() ? "" : " ") + std::to_string(expert);
    }
    std::cout << text << '\n';
  }
  return 0;
}
