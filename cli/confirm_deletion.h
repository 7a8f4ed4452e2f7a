#pragma once

#include <string>
#include <vector>

#include "convert/job/source_deletion.h"

namespace dsv3::cli {

// Throws Error (kUsage) when stdin or stderr is not a terminal, so that nobody can be asked.
void RequireSomebodyToAsk();

// Asks twice on the terminal whether these files of the source may be deleted. Returns when both
// answers are yes. `beside` is a sentence on what else goes with them; empty: nothing. Throws Error
// (kInterrupted) when an answer is no.
void ConfirmDeletion(const std::vector<convert::SourceDeletion>& deletions,
                     const std::string& beside);

}  // namespace dsv3::cli
