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

// The weights of such a stream, 255 at most; empty where it is none, and where a probability is
// less than that of one state, which the function above does not write.
std::vector<std::uint8_t> DecodeFseWeights(std::span<const std::byte> stream);

}  // namespace dsv3::formats
