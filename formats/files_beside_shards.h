#pragma once

#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"

// What lies in a checkpoint's directory beside its shards; an internal part of checkpoint_files.h.
// The shards of `files` are known.
namespace dsv3::formats {

// Adds the findings unlisted-shard and dead-link.
void NoteFilesLeftOut(const CheckpointListing& listing, CheckpointFiles& files);

// Divides the listing's side files into those that are copied and those that are left behind.
void TakeSideFiles(const CheckpointListing& listing, CheckpointFiles& files);

}  // namespace dsv3::formats
