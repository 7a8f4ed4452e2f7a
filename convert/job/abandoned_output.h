#pragma once

#include <filesystem>

#include "convert/job/journal.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Removes all files that a job has written to its output directory, its journal last: for a job
// whose source turned out to have other digests than recorded, so that its files are of no use. A
// run that ends during the removal leaves a state from which the same command continues. The caller
// holds the lock.
void AbandonOutput(const std::filesystem::path& directory, const JournalHead& head,
                   formats::FileSystem& fs);

}  // namespace dsv3::convert
