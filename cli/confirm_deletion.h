#pragma once

#include <filesystem>

namespace dsv3::cli {

// Asks twice on the terminal whether the weight files of `input` may be deleted. Returns when both
// answers are yes. Throws Error: kUsage when stdin or stderr is not a terminal, or where they must
// not be deleted (see convert::DeletionRules); kInterrupted when an answer is no; kBadInput or kIo
// when the input cannot be read.
void ConfirmDeletion(const std::filesystem::path& input);

}  // namespace dsv3::cli
