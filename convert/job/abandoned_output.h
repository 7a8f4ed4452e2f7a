#pragma once

#include <filesystem>

#include "convert/job/journal.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Takes back all that a job has written to its output directory, its journal last: for a job whose
// source turned out not to be what it was told of, so that nothing can become of what is there. A
// run that is ended on the way leaves what the same command goes on from. The caller holds the
// lock.
void AbandonOutput(const std::filesystem::path& directory, const JournalHead& head,
                   formats::FileSystem& fs);

}  // namespace dsv3::convert
