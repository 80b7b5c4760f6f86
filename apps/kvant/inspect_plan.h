#pragma once
#include <string>

#include "codec/plan.h"
#include "gguf/reader.h"

namespace kvant::app {

/// Whether a GGUF file is a plan.
bool is_plan(const gguf::File& file);

/// What a plan was made for and from, what it asks and promises, its certificate, its layers and a chart of their bits,
/// for 100 columns.
std::string plan_text(const gguf::File& file, const codec::Plan& plan, bool colour);
/// The same as a JSON document.
std::string plan_json(const gguf::File& file, const codec::Plan& plan);

/// Certificates, one row for each.
std::string certificate_table(const codec::Plan& plan, bool colour);
/// Bits and parts of each layer and head, and the chart; empty for a plan without codes.
std::string layers_text(const codec::Plan& plan, bool colour);

}  // namespace kvant::app
