#pragma once
#include "codec/plan.h"

namespace kvant::compat {

/// The plan in plan-1.gguf, in every field. All numbers are exact in binary, so that it is the same everywhere.
codec::Plan plan_fixture();

}  // namespace kvant::compat
