#pragma once

#include <filesystem>
#include <string>

#include "formats/job_journal.h"

// What is said of a job that is under way or was interrupted, and what continues it.
namespace dsv3::formats {

// What the job in a directory makes: the directory, or of DIRECTORY "m.gguf.partial" the file
// m.gguf, which with its manifest is made there.
std::filesystem::path OutputOfJob(const std::filesystem::path& directory);
// The directory in which a job makes this file, or made it when it was interrupted; empty where
// there is none. Throws Error (kIo).
std::filesystem::path UnfinishedJobOf(const std::filesystem::path& file);

// "a conversion (to-gguf) into m.gguf is under way or was interrupted; 1 of 4 files are complete:
// wait for it, or continue it with: COMMAND", of the job in a directory.
std::string DescribeUnfinishedJob(const JobProgress& job, const std::filesystem::path& directory);

// The command that runs a recipe: "dsv3-reshard merge".
std::string CommandOfRecipe(const std::string& recipe);

}  // namespace dsv3::formats
