#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// Files beside the weights that a copy of a checkpoint does not need, or that would be wrong in it.
namespace dsv3::formats {

enum class LeftBehindKind {
  kOtherWeights,       // the same weights in another format: *.bin, *.gguf, original/, ...
  kAdapter,            // adapter_*: changes to a model, which a loader would apply
  kTrainingState,      // of an optimizer, a scheduler, random generators
  kOtherIndex,         // an index of other weight files
  kChecksums,          // digests of files that the output does not have
  kSystemRecord,       // files that operating systems and downloaders keep for themselves
  kUntrueDescription,  // no longer true of the output; only a conversion knows which these are
};

struct LeftBehind {
  std::string name;  // relative, '/' between components
  LeftBehindKind kind = LeftBehindKind::kOtherWeights;
  std::uint64_t bytes = 0;
};

// "other-weights", "adapter", ...: stable.
std::string_view LeftBehindKindName(LeftBehindKind kind);

// The kind of a file by its relative name; nothing for one that belongs to every copy. Case does
// not matter. Never kUntrueDescription.
std::optional<LeftBehindKind> KindOfLeftBehind(std::string_view relative_name);

}  // namespace dsv3::formats
