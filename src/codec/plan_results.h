#pragma once
#include <string>

#include "codec/plan.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

namespace kvant::codec {

/// The numbers of a plan that are metadata of its file: kvant.plan.goal and predicted_kld; sensitivity.{keys,values},
/// f64 for each layer; and arrays certificate.*, with one item for each certificate.

inline constexpr std::size_t kMostCertificates = 256;

/// Reads them into a plan whose model is known and whose layers are there. Throws format.
void read_results(const gguf::File& file, Plan& plan);
/// Adds them to a file. Throws invalid_argument when they are not valid.
void add_results(const Plan& plan, const std::string& name, gguf::Writer& writer);

}  // namespace kvant::codec
