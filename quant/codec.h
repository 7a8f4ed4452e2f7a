#pragma once

#include <cstdint>

// Scalar definitions of the number formats: these are the truth that every vector kernel must equal
// bit for bit. All functions are pure and thread-safe, and do not depend on the floating-point
// environment (rounding mode, FTZ, DAZ). Formats: OCP 8-bit Floating Point Specification 1.0
// (E4M3, E5M2), OCP Microscaling Formats 1.0 (E8M0, E2M1), IEEE 754 (binary16, binary32), and
// arXiv 2206.02915 (FNUZ).
namespace dsv3::quant {

// F8_E4M3 ("fn"): 1 sign, 4 exponent (bias 7), 3 mantissa bits. Largest 448 (0x7E); subnormals are
// m·2^-9; 0x7F and 0xFF are NaN; no infinity; 0x80 is −0. Exact in float. NaN gives a quiet NaN
// with the code's sign.
float DecodeE4M3(std::uint8_t code);

// F8_E5M2: 1 sign, 5 exponent (bias 15), 2 mantissa bits, with infinities and NaNs like IEEE.
float DecodeE5M2(std::uint8_t code);

// F8_E4M3FNUZ and F8_E5M2FNUZ: as E4M3 and E5M2, with biases 8 and 16, but 0x80 is the only NaN
// (there is no −0) and every other code is finite. Largest 240 and 57344; NaN gives a quiet NaN
// without a sign.
float DecodeE4M3Fnuz(std::uint8_t code);
float DecodeE5M2Fnuz(std::uint8_t code);

// F4 (E2M1): 1 sign, 2 exponent (bias 1), 1 mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
// negatives, −0 included. `code` is below 16.
float DecodeE2M1(std::uint8_t code);

// F8_E8M0: 2^(code − 127), exact (code 0 is the float subnormal 2^-127); 0xFF is NaN. No zero, no
// sign.
float DecodeE8M0(std::uint8_t code);

// BF16: the upper half of a float. NaN payloads and signs are kept.
float DecodeBF16(std::uint16_t bits);

// F16 (IEEE binary16): exact, subnormals included. NaN payloads are kept, shifted.
float DecodeF16(std::uint16_t bits);

// Round to nearest, ties to even. Overflow gives infinity; NaN gives 0x7FC0 with the sign kept.
// Subnormal results are rounded like all others.
std::uint16_t EncodeBF16(float value);
std::uint16_t EncodeF16(float value);  // NaN gives 0x7E00 with the sign kept

// Round to nearest, ties to even, as torch's CPU cast does: no saturation; beyond 464 (and at
// infinities) the result is NaN (0x7F with the sign). NaN gives 0x7F with the sign.
std::uint8_t EncodeE4M3(float value);

inline constexpr float kE4M3Max = 448.0F;

}  // namespace dsv3::quant
