/// Conversations, over a pipe and on a terminal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "command.h"

namespace kvant::cli {
namespace {

using testing::HasSubstr;

struct TurnLine {
  int turn, prompt, generated, cached;
};

/// The lines "turn N: P new prompt tokens, G generated at ... tokens/s, C of ... in the cache".
std::vector<TurnLine> turns(const std::string& err) {
  static const std::regex kLine(
      "turn ([0-9]+): ([0-9]+) new prompt tokens, ([0-9]+) generated at [0-9.]+ tokens/s, "
      "([0-9]+) of");
  std::vector<TurnLine> result;
  for (std::sregex_iterator at(err.begin(), err.end(), kLine), end; at != end; ++at) {
    const auto number = [&](std::size_t i) { return std::stoi((*at)[i]); };
    result.push_back({number(1), number(2), number(3), number(4)});
  }
  return result;
}

TEST(Chat, FeedsOnlyWhatIsNew) {
  const Folder folder;
  const Result result = run({"run", "-m", write_chat_model(folder), "-n", "6", "--temp", "0"},
                            {.input = "First message\n\nSecond message\nThird message\n"});
  ASSERT_EQ(result.status, 0) << result.err;
  const std::vector<TurnLine> lines = turns(result.err);
  ASSERT_EQ(lines.size(), 3u) << result.err;
  int cached = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].turn, static_cast<int>(i) + 1);
    // All tokens of earlier turns stay in the cache, and this turn adds its own to them.
    EXPECT_EQ(lines[i].cached, cached + lines[i].prompt + lines[i].generated);
    cached = lines[i].cached;
  }
  EXPECT_GT(cached, 2 * lines[0].cached);
  EXPECT_THAT(result.err, HasSubstr("cache k f16 v f16"));
}

TEST(Chat, FirstAnswerIsThatOfASingleTurn) {
  const Folder folder;
  const std::string model = write_chat_model(folder);
  const Result one = run({"run", "-m", model, "-n", "8", "--chat", "-p", "Name a town"});
  const Result chat = run({"run", "-m", model, "-n", "8"}, {.input = "Name a town\n"});
  EXPECT_FALSE(one.out.empty());
  EXPECT_EQ(one.out, chat.out);
}

TEST(Chat, ResetForgets) {
  const Folder folder;
  const Result result = run({"run", "-m", write_chat_model(folder), "-n", "6", "--temp", "0"},
                            {.input = "Name a town\n/reset\nName a town\n/exit\nnever answered\n"});
  ASSERT_EQ(result.status, 0) << result.err;
  const std::vector<TurnLine> lines = turns(result.err);
  ASSERT_EQ(lines.size(), 2u) << result.err;
  EXPECT_EQ(lines[0].cached, lines[1].cached);
  EXPECT_EQ(lines[1].turn, 1);
  const std::string first = result.out.substr(0, result.out.size() / 2);
  EXPECT_EQ(result.out, first + first);
}

TEST(Chat, SaysWhenTheContextIsFull) {
  const Folder folder;
  const Result result =
      run({"run", "-m", write_chat_model(folder), "-n", "500", "-c", "64", "--temp", "0"}, {.input = "Hi\nHi again\n"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("the context of 64 tokens is full: /reset"));
  EXPECT_EQ(turns(result.err).size(), 1u) << "the second message cannot fit";
}

TEST(Chat, HelpAndUnfinishedLastLine) {
  const Folder folder;
  const Result result = run({"run", "-m", write_chat_model(folder), "-n", "2"}, {.input = "/help\nHi"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err, HasSubstr("/reset  start a new conversation"));
  EXPECT_EQ(turns(result.err).size(), 1u);
}

/// Answers of tokens that are all alike likely: which are drawn, and so when an answer ends, is up to the seed alone,
/// not to the last bits of the logits: 2,404 tokens with this one.
std::vector<std::string> endless_chat(const std::string& model) {
  return {"run",  "-m",      model, "-n",      "1000000", "-c",     "200000", "--temp",
          "1000", "--top-k", "0",   "--top-p", "1",       "--seed", "5"};
}

TEST(ChatTerminal, InterruptStopsTheAnswerNotTheProgram) {
  const Folder folder;
  TerminalRun chat(endless_chat(write_chat_model(folder)));
  for (const char* turn : {"turn 1: ", "turn 2: "}) {
    ASSERT_TRUE(chat.wait_for("> ")) << chat.output();
    chat.type("go on\n");
    ASSERT_TRUE(chat.wait_for("go on\r\n")) << chat.output();
    ASSERT_TRUE(chat.wait_for(" ")) << "no answer";
    chat.type("\x03");
    ASSERT_TRUE(chat.wait_for("stopped")) << chat.output();
    ASSERT_TRUE(chat.wait_for(turn)) << chat.output();
  }
  chat.type("/exit\n");
  EXPECT_EQ(chat.wait(), 0);
}

TEST(ChatTerminal, TwoInterruptsAtThePromptLeave) {
  const Folder folder;
  TerminalRun chat({"run", "-m", write_chat_model(folder), "-n", "1"});
  ASSERT_TRUE(chat.wait_for("> ")) << chat.output();
  chat.type("\x03");
  ASSERT_TRUE(chat.wait_for("Ctrl-C again")) << chat.output();
  ASSERT_TRUE(chat.wait_for("> ")) << chat.output();
  chat.type("\x03");
  EXPECT_EQ(chat.wait(), 0);
}

TEST(ChatTerminal, EndOfInputLeaves) {
  const Folder folder;
  TerminalRun chat({"run", "-m", write_chat_model(folder), "-n", "1"});
  ASSERT_TRUE(chat.wait_for("> ")) << chat.output();
  chat.type("\x04");
  EXPECT_EQ(chat.wait(), 0);
  EXPECT_THAT(chat.output(), HasSubstr("cache k f16 v f16"));
}

}  // namespace
}  // namespace kvant::cli
