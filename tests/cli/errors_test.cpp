/// Whatever a person gets wrong, the command says so in one line and with the right exit status.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/file_io.h"
#include "command.h"

namespace kvant::cli {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

std::filesystem::path data_file(const std::string& name) {
  const char* data = std::getenv("KVANT_DATA");
  return std::filesystem::path(data != nullptr ? data : KVANT_SOURCE_DIR "/../shared/data") / name;
}

Result complete(const std::string& model, const std::string& prompt = "Once") {
  return run({"run", "-m", model, "-p", prompt, "-n", "1"});
}

TEST(Errors, MissingModel) {
  expect_error(complete("/nowhere/model.gguf"), 1, {"kvant: error: /nowhere/model.gguf: ", "No such file"});
}

TEST(Errors, ModelIsAFolder) {
  const Folder folder;
  expect_error(complete(folder.path("")), 1, {folder.path(""), "not a regular file"});
}

TEST(Errors, NotAGguf) {
  const Folder folder;
  const std::string path = folder.write("notes.gguf", "Dear diary,\nnothing happened today.\n");
  expect_error(complete(path), 1, {path + ": not a GGUF file"});
  expect_error(run({"inspect", path}), 1, {path + ": not a GGUF file"});
}

TEST(Errors, EmptyModel) {
  const Folder folder;
  const std::string path = folder.write("empty.gguf", "");
  expect_error(complete(path), 1, {path + ": "});
}

TEST(Errors, LfsPointer) {
  const Folder folder;
  const std::string path = folder.write("model.gguf",
                                        "version https://git-lfs.github.com/spec/v1\n"
                                        "oid sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
                                        "size 1234567\n");
  expect_error(run({"inspect", path}), 1, {path + ": ", "git-lfs"});
}

TEST(Errors, LfsPointerFromTheWild) {
  const auto path = data_file("gguf/NOT-A-GGUF.lfs-pointer.ggml-vocab-llama-bpe.gguf");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "missing: " << path;
  expect_error(run({"inspect", path.string()}), 1, {"git-lfs"});
}

TEST(Errors, TruncatedModel) {
  const Folder folder;
  const std::string whole = read_text(kModel);
  for (const std::size_t size :
       {std::size_t{3}, std::size_t{20}, std::size_t{5000}, whole.size() / 2, whole.size() - 1}) {
    SCOPED_TRACE(size);
    const std::string path = folder.write("cut.gguf", std::string_view(whole).substr(0, size));
    expect_error(complete(path), 1, {path + ": "});
  }
}

TEST(Errors, VersionOfTheFuture) {
  const Folder folder;
  std::string bytes = read_text(kModel);
  bytes[4] = 9;
  const std::string path = folder.write("v9.gguf", bytes);
  expect_error(run({"inspect", path}), 1, {path + ": ", "version 9"});
}

TEST(Errors, AnotherArchitecture) {
  const Folder folder;
  Changes changes;
  changes.without_keys = {"general.architecture"};
  changes.metadata = [](gguf::Writer& w) { w.set("general.architecture", "mamba"); };
  const std::string path = write_model(folder, changes);
  expect_error(complete(path), 1, {path + ": ", "mamba"});
}

TEST(Errors, AbsentTensor) {
  const Folder folder;
  Changes changes;
  changes.without_tensor = "blk.3.ffn_up.weight";
  const std::string path = write_model(folder, changes);
  expect_error(complete(path), 1, {path + ": ", "blk.3.ffn_up.weight"});
}

TEST(Errors, WrongShape) {
  const Folder folder;
  Changes changes;
  changes.reshaped_tensor = "blk.2.attn_k.weight";
  const std::string path = write_model(folder, changes);
  expect_error(complete(path), 1, {path + ": ", "blk.2.attn_k.weight", "[256,127]", "[256,128]"});
}

TEST(Errors, ContextTooLargeForMemory) {
  expect_error(run({"run", "-m", kModel, "-p", "x", "-c", "3000000000"}), 1, {"3000000000 tokens", "GiB"});
}

TEST(Errors, ContextThatNobodyCanMean) {
  expect_error(run({"run", "-m", kModel, "-p", "x", "-c", "1000000000000"}), 1, {"1000000000000"});
}

TEST(Errors, UnknownCacheType) {
  for (const char* option : {"--cache-k", "--cache-v"}) {
    expect_error(run({"perplexity", "-m", kModel, "-p", "x", option, "q9_0"}), 1,
                 {option, "q9_0", "f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0", "rot-q4_0"});
  }
}

TEST(Errors, UnknownCacheKey) {
  expect_error(run({"run", "-m", kModel, "-p", "x", "--cache-k", "q8_0,wings=2"}), 1, {"--cache-k", "wings"});
}

TEST(Errors, InvalidUtf8) {
  expect_error(complete(kModel, "abc\xff"), 1, {"-p: byte 3 (0xff) is not valid UTF-8"});
  const Folder folder;
  const std::string path = folder.write("latin1.txt", "caf\xe9 au lait");
  expect_error(run({"run", "-m", kModel, "-f", path}), 1, {path + ": byte 3 (0xe9)"});
  expect_error(run({"tokenize", "-m", kModel, "-f", path}), 1, {path + ": byte 3"});
}

TEST(Errors, InvalidUtf8InAChat) {
  const Folder folder;
  const Result result = run({"run", "-m", write_chat_model(folder), "-c", "64"}, {.input = "\xff\n"});
  expect_error(result, 1, {"standard input", "\\xff", "not valid UTF-8"});
}

TEST(Errors, EmptyPrompt) { expect_error(complete(kModel, ""), 1, {"-p: the text is empty"}); }

TEST(Errors, EmptyTextFile) {
  const Folder folder;
  const std::string path = folder.write("empty.txt", "");
  for (const char* command : {"run", "tokenize", "perplexity"}) {
    expect_error(run({command, "-m", kModel, "-f", path}), 1, {path + ": the text is empty"});
  }
  expect_error(run({"tokenize", "-m", kModel, "-f", "-"}), 1, {"standard input: the text is empty"});
}

TEST(Errors, MissingTextFile) {
  expect_error(run({"perplexity", "-m", kModel, "-f", "/nowhere/text"}), 1, {"/nowhere/text: ", "No such file"});
}

TEST(Errors, TextShorterThanAWindow) {
  expect_error(run({"perplexity", "-m", kModel, "-p", "Far too short.", "-c", "256"}), 1,
               {"-p: ", "tokens, less than one window of 256"});
}

TEST(Errors, PromptLongerThanTheContext) {
  expect_error(run({"run", "-m", kModel, "-p", "one two three four five six seven", "-c", "4"}), 1,
               {"-p: ", "do not fit a context of 4"});
}

TEST(Errors, OutputFolderThatIsNone) {
  expect_error(run({"inspect", kModel, "-o", "/nowhere/out.txt"}), 1, {"/nowhere/out.txt: cannot write"});
  // Known before the work starts: the text would be an error of its own.
  expect_error(run({"perplexity", "-m", kModel, "-f", "/missing", "-o", "/proc/out"}), 1, {"/proc/out: cannot write"});
}

TEST(Errors, FullDisk) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "missing: /dev/full";
  expect_error(run({"inspect", kModel}, {.output_file = "/dev/full"}), 1, {"standard output: cannot write"});
  expect_error(run({"run", "-m", kModel, "-p", "x", "-n", "500"}, {.output_file = "/dev/full"}), 1,
               {"standard output"});
}

TEST(Errors, IdsThatAreNone) {
  expect_error(run({"tokenize", "-m", kModel, "-p", "12 dog 7", "--decode"}), 1, {"-p: 'dog' is not a token id"});
  expect_error(run({"tokenize", "-m", kModel, "-p", "12 4096", "--decode"}), 1, {"'4096'", "0 to 4095"});
  expect_error(run({"tokenize", "-m", kModel, "-p", "-1", "--decode"}), 1, {"'-1'"});
}

TEST(Errors, NoChatTemplate) {
  expect_error(run({"run", "-m", kModel, "-p", "Hi", "--chat"}), 1, {kModel, "chat template"});
}

TEST(Errors, UnknownChatTemplate) {
  const Folder folder;
  Changes changes;
  changes.metadata = [](gguf::Writer& w) { w.set("tokenizer.chat_template", "{{ 'Human says: ' + messages }}"); };
  const std::string path = write_model(folder, changes);
  expect_error(run({"run", "-m", path}, {.input = "Hi\n"}), 1, {path + ": chat template not recognised"});
}

TEST(Errors, SamplingOutOfRange) {
  expect_error(run({"run", "-m", kModel, "-p", "x", "--temp", "-1"}), 1, {"temperature", "-1"});
  expect_error(run({"run", "-m", kModel, "-p", "x", "--temp", "1", "--top-p", "7"}), 1, {"top-p", "7"});
}

TEST(Errors, InstructionSetThatIsNone) {
  Setting setting;
  setting.variables = {{"KVANT_ISA", "mmx"}};
  expect_error(run({"run", "-m", kModel, "-p", "x"}, setting), 1, {"KVANT_ISA=mmx", "scalar"});
}

TEST(Usage, NumbersThatAreNone) {
  const std::vector<std::vector<std::string>> bad = {
      {"-t", "0x"}, {"-t", "0"},  {"-t", "-2"},   {"-t", "99999999999"}, {"-c", "0"},     {"-c", "4k"},
      {"-c", "-1"}, {"-n", "-5"}, {"-n", "many"}, {"--temp", "warm"},    {"--seed", "-1"}};
  for (const auto& option : bad) {
    SCOPED_TRACE(option[0] + " " + option[1]);
    expect_error(run({"run", "-m", kModel, "-p", "x", option[0], option[1]}), 2, {option[1], "kvant run --help"});
  }
  expect_error(run({"perplexity", "-m", kModel, "-p", "x", "-c", "1"}), 2, {"kvant perplexity --help"});
  expect_error(run({"bench", "-m", kModel, "-d", "0,x"}), 2, {"kvant bench --help"});
  expect_error(run({"bench", "-m", kModel, "-r", "0"}), 2, {"kvant bench --help"});
}

TEST(Usage, UnknownOptionOrCommand) {
  expect_error(run({"run", "-m", kModel, "-p", "x", "--turbo"}), 2, {"--turbo"});
  expect_error(run({"dance"}), 2, {"kvant --help"});
  expect_error(run({}), 2, {"kvant --help"});
}

TEST(Usage, MissingOrConflictingOptions) {
  expect_error(run({"run", "-p", "x"}), 2, {"--model is required"});
  expect_error(run({"run", "-m", kModel, "-p", "x", "-f", "y"}), 2, {"--prompt", "--file"});
  expect_error(run({"tokenize", "-m", kModel}), 2, {"-p or -f is required"});
  expect_error(run({"perplexity", "-m", kModel}), 2, {"-f or -p is required"});
  expect_error(run({"inspect"}), 2, {"FILE is required"});
  expect_error(run({"run", "-m", kModel, "--json"}), 2, {"--json needs -p or -f"});
  expect_error(run({"run", "-m", kModel, "-p", "x", "--system", "Be brief."}), 2, {"--system needs --chat"});
  expect_error(run({"run", "-m", kModel, "-p", "x", "--precision", "exact"}), 2, {"exact"});
}

}  // namespace
}  // namespace kvant::cli
