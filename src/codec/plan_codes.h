#pragma once
#include <string>

#include "base/error.h"
#include "codec/plan.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

namespace kvant::codec {

/// The codes of a plan in its file. kvant.plan.codes.{keys,values} tell whether a side has any; then each layer N has
/// the tensors blk.N.{key,value}_{transform,inverse}, BF16 [head_dim, coded_dims, kv_heads], and
/// blk.N.{key,value}_parts, I32 [4, kMostParts, kv_heads]: dims, kind (0 lm, 1 uni), bits and norm (0 f16, 1 log8) of
/// each part, zeros behind the last. Sides without codes have their type, in kvant.plan.{k,v}_type.

/// Reads what plan.codes, k_type and v_type are; plan.model is known and valid. Throws format.
void read_codes(const gguf::File& file, Plan& plan);
/// Adds them to a file that refers to the plan until it is written. Throws invalid_argument when they are not valid.
void add_codes(const Plan& plan, const std::string& name, gguf::Writer& writer);

}  // namespace kvant::codec
