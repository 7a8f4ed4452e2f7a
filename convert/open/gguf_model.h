#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/open/assembled_model.h"
#include "convert/open/open_model.h"
#include "formats/gguf_type.h"
#include "formats/gguf_value.h"
#include "formats/shape.h"

// A model in GGUF files.
namespace dsv3::convert {

// How a model lies in GGUF files. With OpenOptions::Gguf::kModelNames those of architectures that
// have names in gguf_names.h have the model's tensors under their Hugging Face names: experts taken
// from their stacks, kv_b_proj joined of its keys and values. Every other tensor has its name in
// the file. Values of quantised types are F32.
struct GgufModel : AssembledModel {
  std::uint32_t version = 3;  // of the format
  formats::GgufKeys keys;
  // Of stored tensors, by position in `stored`.
  struct Held {
    formats::GgufType type = formats::GgufType::kF32;
    formats::Shape shape;  // of the values
  };
  std::vector<Held> held;
  // Where a tensor's values lie, by position in the model's catalog.
  struct Source {
    std::uint32_t tensor = 0;  // position in `stored`
    std::uint64_t first = 0;   // element there; the others follow
    // Of kv_b_proj: `tensor` has the keys, transposed, and this one the values.
    std::optional<std::uint32_t> values = std::nullopt;
  };
  std::vector<Source> sources;
};

// Opens the file, and all others where it is one split of several. OpenOptions::name_prefix is put
// before Hugging Face names. With kOwnNames a tensor whose type is not decoded is the bytes that it
// has. Throws Error: kBadInput as OpenGgufFiles, otherwise for such a tensor, and for tensors that
// do not make one of the model; kIo.
OpenedModel OpenGguf(const std::filesystem::path& input, const OpenOptions& options);

// The type of a model's tensor as the files say it: "Q8_0"; "F16 and Q8_0" of a kv_b_proj whose
// keys have another type than its values.
std::string GgufTypesOf(const GgufModel& model, std::uint32_t tensor);

// Where an element of a model's tensor lies, for messages: "block 7 of tensor 'blk.0.attn_q.weight'
// (Q8_0), bytes [4096, 4130) of the file".
std::string GgufPlaceOf(const GgufModel& model, std::uint32_t tensor, std::uint64_t element);

}  // namespace dsv3::convert
