#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file_io.h"
#include "tokenizer/test_data.h"

namespace kvant::tokenizer {
namespace {

using testing::HasSubstr;
using testing_data::data_file;
using testing_data::TestVocab;

ChatTemplate of(const std::string& source) {
  auto vocab = TestVocab::all_bytes();
  vocab.extra.set("tokenizer.chat_template", std::string_view(source));
  return ChatTemplate::from(vocab.file());
}

const std::vector<Message> kQuestion{{"user", "Hi"}};
const std::vector<Message> kConversation{
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello."}, {"user", " Bye "}};

void expect_qwen(const ChatTemplate& chat, const std::string& system) {
  EXPECT_EQ(chat.kind(), ChatTemplate::Kind::chatml);
  EXPECT_EQ(chat.default_system(), system);
  const std::string opening = "<|im_start|>system\n" + system + "<|im_end|>\n";
  EXPECT_EQ(chat.render(kQuestion, true), opening + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.render(kQuestion, false), opening + "<|im_start|>user\nHi<|im_end|>\n");
  EXPECT_EQ(chat.render(kConversation, true),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n Bye <|im_end|>\n<|im_start|>assistant\n");
  const std::vector<Message> late{{"user", "a"}, {"system", "b"}, {"assistant", "c"}};
  EXPECT_EQ(chat.render(late, false), opening + "<|im_start|>user\na<|im_end|>\n<|im_start|>system\nb<|im_end|>\n" +
                                          "<|im_start|>assistant\nc<|im_end|>\n");
}

TEST(ChatTemplate, Qwen2) {
  const auto path = data_file("vocab/ggml-vocab-qwen2.gguf");
  KVANT_NEEDS(path);
  expect_qwen(ChatTemplate::from(gguf::File::open(path)), "You are a helpful assistant");
}

TEST(ChatTemplate, Qwen25) {
  const auto path = data_file("reference/Qwen-Qwen2.5-7B-Instruct.jinja");
  KVANT_NEEDS(path);
  expect_qwen(of(read_text(path.string())), "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
}

TEST(ChatTemplate, ChatMlWithoutADefault) {
  const auto chat = of("{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>'}}");
  EXPECT_EQ(chat.default_system(), "");
  EXPECT_EQ(chat.render(kQuestion, true), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, DefaultSystemIsReadOutOfItsLiteral) {
  EXPECT_EQ(of(R"({{ '<|im_start|>system\nIt\'s \\boxed{}.\nTwo\tlines<|im_end|>\n' }})").default_system(),
            "It's \\boxed{}.\nTwo\tlines");
  EXPECT_EQ(of(R"({{ "<|im_start|>system\nIt's fine<|im_end|>\n" }})").default_system(), "It's fine");
  EXPECT_EQ(of("{% if x %}<|im_start|>system\nPlain text<|im_end|>\n{% endif %}").default_system(), "Plain text");
  // Places where the conversation's own message goes.
  EXPECT_EQ(of(R"({{ '<|im_start|>system\n' + m + '<|im_end|>\n' }})").default_system(), "");
  EXPECT_EQ(of("<|im_start|>system\n{{ m }}<|im_end|>\n").default_system(), "");
  EXPECT_EQ(of(R"({{ '<|im_start|>system\n' }}{{ '<|im_start|>system\nDefault<|im_end|>' }})").default_system(),
            "Default");
}

TEST(ChatTemplate, EarlierReasoningIsDropped) {
  const auto chat = of("{{ '<|im_start|>' }}{{ '<|im_end|>' }}{% if '</think>' in content %}");
  const std::vector<Message> messages{
      {"user", "a"}, {"assistant", "<think>\nhm\n</think>\n\nb"}, {"user", "c"}, {"assistant", "<think>x</think>d"}};
  EXPECT_EQ(chat.render(messages, false),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
            "<|im_start|>assistant\n<think>x</think>d<|im_end|>\n");
}

TEST(ChatTemplate, Llama3) {
  const auto chat = of("{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim }}");
  EXPECT_EQ(chat.kind(), ChatTemplate::Kind::llama3);
  EXPECT_EQ(chat.render(kConversation, true),
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, Llama2) {
  const auto chat = of("{% set content = '<<SYS>>\\n' + system %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}");
  EXPECT_EQ(chat.kind(), ChatTemplate::Kind::llama2);
  EXPECT_EQ(chat.render(kQuestion, true), "[INST] Hi [/INST]");
  EXPECT_EQ(chat.render(kConversation, true),
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]");
}

TEST(ChatTemplate, Mistral) {
  const auto chat = of("{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ message['content'] + eos_token }}");
  EXPECT_EQ(chat.kind(), ChatTemplate::Kind::mistral);
  EXPECT_EQ(chat.render(kConversation, true), "[INST] Be brief.\n\nHi [/INST]Hello.</s>[INST]  Bye  [/INST]");
  const auto newer = of("{{ '[INST] ' + message['content'] + '[/INST]' }}{{ ' ' + message['content'] + eos_token }}");
  EXPECT_EQ(newer.render(kConversation, true), "[INST] Be brief.\n\nHi[/INST] Hello.</s>[INST]  Bye [/INST]");
}

TEST(ChatTemplate, UnknownOnesAreReported) {
  const auto refused = [](const std::string& source, ErrorCode code, const std::string& part) {
    try {
      of(source);
      ADD_FAILURE() << source;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code);
      EXPECT_THAT(e.what(), HasSubstr(part));
    }
  };
  const std::string start(60, 'x');
  refused(start + "rest", ErrorCode::unsupported, "made-up.gguf: chat template not recognised: \"" + start + "...\"");
  refused("<|im_start|>user<|im_sep|>", ErrorCode::unsupported, "not recognised");
  refused("", ErrorCode::unsupported, "not recognised");
  auto vocab = TestVocab::all_bytes();
  EXPECT_THROW(ChatTemplate::from(vocab.file()), Error);
}

TEST(ChatTemplate, RolesAreChecked) {
  const auto chatml = of("<|im_start|><|im_end|>");
  EXPECT_THROW(chatml.render(std::vector<Message>{{"tool", "x"}}, true), Error);
  const auto mistral = of("[INST]");
  EXPECT_THROW(mistral.render(std::vector<Message>{{"user", "x"}, {"system", "y"}}, true), Error);
}

}  // namespace
}  // namespace kvant::tokenizer
