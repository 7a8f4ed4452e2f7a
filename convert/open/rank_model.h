#pragma once

#include <string>

#include "convert/open/rank_directory.h"
#include "convert/open/whole_model.h"

// The model that rank shards hold. Internal to OpenWholeModel.
namespace dsv3::convert {

// Puts the tensors of the original headers together from the ranks' slices and fills the model: all
// but source.directory and source.side_files. Throws Error as OpenWholeModel does.
WholeModel PutTogether(RankDirectory ranks);

}  // namespace dsv3::convert
