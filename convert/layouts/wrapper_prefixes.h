#pragma once

#include <string>
#include <string_view>

// What trainers' wrappers add to the names of tensors. Thread-safe.
namespace dsv3::convert {

// The name without the segments that wrappers of single modules put anywhere: torch.compile
// ("_orig_mod"), activation checkpointing and FSDP.
std::string WithoutWrappedModules(std::string_view name);

// Whether the name has such segments.
bool HasWrappedModules(std::string_view name);

// Whether a text is empty or what wrappers of the whole model put before its names, such as
// "module." (DDP) and "model." or "state_dict." (a dictionary that holds the model's).
bool IsWrapperPrefix(std::string_view text);

// The name without wrapped modules, and without `prefix` where it begins with it.
std::string CanonicalName(std::string_view name, std::string_view prefix);

// The name without wrapped modules, and without all segments before it that wrappers of the whole
// model add. For stacks whose own names begin with no such segment.
std::string WithoutWrappers(std::string_view name);

}  // namespace dsv3::convert
