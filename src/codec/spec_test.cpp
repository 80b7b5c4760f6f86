#include "codec/spec.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace kvant::codec {
namespace {

using gguf::TensorType;
using testing::HasSubstr;

constexpr const char* kForms[] = {"f32",  "f16",      "bf16",     "q8_0",     "q5_1",     "q5_0",    "q4_1",
                                  "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1", "rot-q4_0"};

std::string message_of(std::string_view text) {
  try {
    parse_cache_spec(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    return e.what();
  }
  return "";
}

TEST(CacheSpec, TextFormsRoundTrip) {
  for (const char* form : kForms) EXPECT_EQ(to_string(parse_cache_spec(form)), form);
  EXPECT_EQ(parse_cache_spec("rot-q5_1"), (CacheSpec{TensorType::q5_1, true}));
  EXPECT_EQ(parse_cache_spec("bf16"), (CacheSpec{TensorType::bf16, false}));
}

TEST(CacheSpec, UnknownFormsNameAllValidOnes) {
  for (const char* text : {"", "q4", "Q4_0", "q4_k", "rot-f16", "rot-", "rot-rot-q8_0", "f16 ", "int8"}) {
    const std::string message = message_of(text);
    EXPECT_THAT(message, HasSubstr("cache type '" + std::string(text) + "'"));
    for (const char* form : kForms) EXPECT_THAT(message, HasSubstr(form));
  }
}

TEST(CacheSpec, KeysAreRefused) {
  EXPECT_THAT(message_of("q8_0,sinks=4"), HasSubstr("unknown key 'sinks'"));
  EXPECT_THAT(message_of("rot-q4_0,"), HasSubstr("unknown key ''"));
}

TEST(CacheSpec, VectorsAreWholeBlocks) {
  EXPECT_EQ(vector_bytes({TensorType::f32, false}, 128), 512u);
  EXPECT_EQ(vector_bytes({TensorType::f16, false}, 80), 192u);   // padded to 96
  EXPECT_EQ(vector_bytes({TensorType::bf16, false}, 8), 64u);    // padded to 32
  EXPECT_EQ(vector_bytes({TensorType::q8_0, true}, 80), 102u);   // 3 blocks of 34
  EXPECT_EQ(vector_bytes({TensorType::q5_1, false}, 128), 96u);  // 4 blocks of 24
  EXPECT_EQ(vector_bytes({TensorType::q5_0, false}, 64), 44u);
  EXPECT_EQ(vector_bytes({TensorType::q4_1, false}, 256), 160u);
  EXPECT_EQ(vector_bytes({TensorType::q4_0, true}, 96), 54u);
}

}  // namespace
}  // namespace kvant::codec
