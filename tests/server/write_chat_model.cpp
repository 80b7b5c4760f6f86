/// write_chat_model FILE: the model of the repository with a ChatML template, for the tests of this folder.
#include <cstdio>

#include "base/error.h"
#include "base/file_io.h"
#include "integration/test_models.h"

int main(int argc, char** argv) try {
  using namespace kvant;
  KVANT_CHECK(argc == 2, ErrorCode::invalid_argument, "usage: write_chat_model FILE");
  const auto file = gguf::File::open(integration::own_model("standin-a-q8_0.gguf").string());
  AtomicFile out(argv[1]);
  out.write(integration::with_changes(file, "tokenizer.chat_template", [](gguf::Writer& w) {
    w.set(
        "tokenizer.chat_template",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  }));
  out.commit();
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
