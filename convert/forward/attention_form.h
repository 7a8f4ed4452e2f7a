#pragma once

// How attention is computed; an internal part of forward.h.
namespace dsv3::convert {

// The form in which attention is computed; the values are the same but for rounding.
enum class AttentionForm {
  kNaive,     // keys and values of every head, as engines prefill
  kAbsorbed,  // queries and results in the space of the latents, as engines decode
};

}  // namespace dsv3::convert
