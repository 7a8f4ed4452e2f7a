#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dsv3::formats {

// The weights of a Huffman code as a finite state entropy stream with two states (RFC 8878, 4.1 and
// 4.2.1.2): the probabilities, then the bits. Empty where such a stream cannot say them: fewer than
// two weights, all weights equal, or 128 bytes and more. Precondition: weights are at most 12.
std::vector<std::byte> EncodeFseWeights(std::span<const std::uint8_t> weights);

}  // namespace dsv3::formats
