#include "codec/spec.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace kvant::codec {
namespace {

using gguf::TensorType;
using testing::HasSubstr;

constexpr const char* kForms[] = {"f32",      "f16",  "bf16",     "q8_0",     "q5_1",     "q5_0",
                                  "q4_1",     "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1",
                                  "rot-q4_0", "lm1",  "lm6",      "uni2",     "uni8"};

std::string message_of(std::string_view text, PageSide side = PageSide::key) {
  try {
    parse_cache_spec(text, side);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    return e.what();
  }
  return "";
}

TEST(CacheSpec, TextFormsRoundTrip) {
  for (const char* form : kForms) EXPECT_EQ(to_string(parse_cache_spec(form)), form);
  EXPECT_EQ(to_string(parse_cache_spec("flex:0:6:0:0:0")), "flex:0:6:0:0:0");
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

TEST(CacheSpec, SettingsRoundTrip) {
  for (const char* text :
       {"lm4,anchor=none", "lm3,anchor=mean,scale=plan,plan=a/b.gguf", "uni8,scale=none,group=32,norm=log8",
        "lm4,scale=weights,sinks=4,recent=128", "f32,anchor=bias", "q4_0,anchor=static,plan=p",
        "rot-q8_0,scale=weights", "flex,perms=p.bin", "flex:1:9:4:1:1,perms=p.bin", "flex,plan=p", "lm2,norm=log8",
        "plan,plan=p.gguf", "plan,anchor=bias,sinks=4,recent=64,plan=p"}) {
    EXPECT_EQ(to_string(parse_cache_spec(text)), text);
  }
  for (const char* text : {"lm4", "lm4,anchor=none,group=64,norm=log8,shape=none,sinks=1,recent=2", "f16,anchor=bias",
                           "uni4,anchor=mean,plan=p", "plan,anchor=none,plan=p"}) {
    EXPECT_EQ(to_string(parse_cache_spec(text, PageSide::value), PageSide::value), text);
  }
}

TEST(CacheSpec, DefaultsAreTheBestWithoutCalibration) {
  const CacheSpec keys = parse_cache_spec("lm4"), values = parse_cache_spec("lm4", PageSide::value);
  EXPECT_EQ(keys.anchor, Anchor::bias);
  EXPECT_EQ(keys.scale, PairScale::automatic);
  EXPECT_EQ(keys.bits, 4);
  EXPECT_EQ(values.anchor, Anchor::bias);
  EXPECT_EQ(values.scale, PairScale::none);
  EXPECT_EQ(keys.shape, Shape::none);
  EXPECT_EQ(values.shape, Shape::weights);
  EXPECT_EQ(parse_cache_spec("lm4,anchor=bias,scale=auto,sinks=0"), keys);
  EXPECT_EQ(parse_cache_spec("q8_0").anchor, Anchor::none);
  const CacheSpec planned = parse_cache_spec("plan,plan=p");
  EXPECT_EQ(planned.coding, CacheSpec::Coding::plan);
  EXPECT_EQ(planned.anchor, Anchor::mean);
  EXPECT_EQ(planned.scale, PairScale::none);
  EXPECT_FALSE(planned.coded());
}

TEST(CacheSpec, WrongSettingsAreNamed) {
  EXPECT_THAT(message_of("q8_0,bits=4"),
              HasSubstr("unknown key 'bits', expected one of anchor scale sinks recent plan"));
  EXPECT_THAT(message_of("lm4,bits=4"), HasSubstr("anchor scale sinks recent plan shape group norm"));
  EXPECT_THAT(message_of("lm4,scale=auto", PageSide::value),
              HasSubstr("unknown key 'scale', expected one of anchor sinks recent plan shape group norm"));
  EXPECT_THAT(message_of("rot-q4_0,"), HasSubstr("unknown key ''"));
  EXPECT_THAT(message_of("lm4,anchor"), HasSubstr("anchor=, expected one of none static bias mean"));
  EXPECT_THAT(message_of("lm4,scale=2"), HasSubstr("scale=2, expected one of none weights auto plan"));
  EXPECT_THAT(message_of("lm4,group=48"), HasSubstr("group=48, expected 32 64 128 256"));
  EXPECT_THAT(message_of("lm4,sinks=-1"), HasSubstr("sinks=-1, expected 0 to 1048576"));
  EXPECT_THAT(message_of("lm4,recent=9999999999999999999999"), HasSubstr("expected 0 to 1048576"));
  EXPECT_THAT(message_of("lm4,anchor=mean"), HasSubstr("anchor=mean needs plan=FILE"));
  EXPECT_THAT(message_of("lm4,anchor=static"), HasSubstr("anchor=static needs plan=FILE"));
  EXPECT_THAT(message_of("lm4,scale=plan"), HasSubstr("scale=plan needs plan=FILE"));
  EXPECT_THAT(message_of("lm4,plan="), HasSubstr("key 'plan' has no value"));
  EXPECT_THAT(message_of("lm4,anchor=static", PageSide::value), HasSubstr("anchor=static needs plan=FILE"));
  EXPECT_THAT(message_of("plan"), HasSubstr("plan needs plan=FILE"));
  EXPECT_THAT(message_of("plan,plan="), HasSubstr("key 'plan' has no value"));
  for (const char* key : {"scale=plan", "group=64", "norm=f16", "shape=none", "perms=p"}) {
    EXPECT_THAT(message_of(fmt::format("plan,plan=p,{}", key)), HasSubstr("expected one of anchor sinks recent plan"));
  }
  EXPECT_THAT(message_of("flex:0:6:0:0:0", PageSide::value), HasSubstr("flex is for keys"));
  EXPECT_THAT(message_of("flex:1:9:4:1:1"), HasSubstr("a split needs perms=FILE"));
  EXPECT_THAT(message_of("flex"), HasSubstr("needs perms=FILE"));
  EXPECT_THAT(message_of("flex,plan=p,perms=q"), HasSubstr("perms=FILE and plan=FILE, expected one of them"));
  EXPECT_THAT(message_of("flex:0:6:0:0:0,sinks=1"), HasSubstr("unknown key 'sinks', expected one of perms plan"));
  for (const char* text : {"lm0", "lm7", "uni1", "uni9", "lm", "lm04x", "uni"}) {
    EXPECT_THAT(message_of(text), HasSubstr("unknown, expected one of")) << text;
  }
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
