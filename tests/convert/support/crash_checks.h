#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/support/recording_file_system.h"

// What tests of power cuts look at.
namespace dsv3::testing {

// As ReadTree gives it.
using Tree = std::map<std::string, std::string>;

bool IsShard(const std::string& name);

Tree TreeOrNothing(const std::filesystem::path& directory);

// What a reader may count on at any moment: `generations` are the complete outputs that may stand
// there, the one that is replaced and the one that is made.
void ExpectNothingHalfDone(const Tree& tree, const std::vector<Tree>& generations);

// Calls `visit` for every different state of the recorded directory that a power cut can leave,
// made in `state`; most cuts lose nothing that another has not lost. The files in state/in get the
// times `in_times`. Passes over what is in `seen`, and adds what it finds. Visits every
// `stride`th state. Ends after a visit with a failure, which says where the cut was.
void ForEachCrash(const RecordingFileSystem& recorder, const std::filesystem::path& state,
                  const std::map<std::string, std::filesystem::file_time_type>& in_times,
                  std::set<Tree>& seen,
                  const std::function<void(const std::filesystem::path& state)>& visit,
                  std::size_t stride = 1);

void ExpectSameTree(const Tree& tree, const Tree& expected);

}  // namespace dsv3::testing
