#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tokenizer/test_vocab.h"

/// The way of the tests to their data.
namespace kvant::tokenizer::testing_data {

/// A file of the data folder: that of KVANT_DATA, or ../shared/data beside the project.
inline std::filesystem::path data_file(const std::string& name) {
  const char* folder = std::getenv("KVANT_DATA");
  return std::filesystem::path(folder != nullptr ? folder : KVANT_SOURCE_DIR "/../shared/data") / name;
}

/// A model that is part of the project.
inline std::filesystem::path model_file(const std::string& name) {
  return std::filesystem::path(KVANT_SOURCE_DIR "/models") / name;
}

}  // namespace kvant::tokenizer::testing_data

/// Ends the test as skipped where a data file is absent.
#define KVANT_NEEDS(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "missing " << (path)
