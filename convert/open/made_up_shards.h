#pragma once

#include "convert/catalog/catalog.h"

namespace dsv3::convert {

// Whether a file of a catalog is a shard of MakeShards, which is a name alone: no such file is
// there or ever was.
bool IsMadeUp(const SourceFile& shard);

}  // namespace dsv3::convert
