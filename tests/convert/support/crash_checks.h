#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

// What tests of power cuts look at.
namespace dsv3::testing {

// As ReadTree gives it.
using Tree = std::map<std::string, std::string>;

bool IsShard(const std::string& name);

Tree TreeOrNothing(const std::filesystem::path& directory);

// What a reader may count on at any moment: `generations` are the complete outputs that may stand
// there, the one that is replaced and the one that is made.
void ExpectNothingHalfDone(const Tree& tree, const std::vector<Tree>& generations);

void ExpectSameTree(const Tree& tree, const Tree& expected);

}  // namespace dsv3::testing
