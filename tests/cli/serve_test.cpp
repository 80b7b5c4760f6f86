/// The server as clients meet it: the built command on a free port.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "command.h"

namespace kvant::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

class Serve : public testing::Test {
 protected:
  void start(std::vector<std::string> more = {}, const std::string& model = {}) {
    std::vector<std::string> arguments{"serve",
                                       "-m",
                                       model.empty() ? write_chat_model(folder_) : model,
                                       "--port",
                                       "0",
                                       "--alias",
                                       "small",
                                       "-c",
                                       "512",
                                       "--precision",
                                       "reference",
                                       "-t",
                                       "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    server_ = std::make_unique<TerminalRun>(arguments);
    ASSERT_TRUE(server_->wait_for("at http://127.0.0.1:")) << server_->output();
    ASSERT_TRUE(server_->wait_for("tokens of cache, "));
    const std::string& out = server_->output();
    port_ = std::stoi(out.substr(out.find("127.0.0.1:") + 10));
  }
  httplib::Client client() const {
    httplib::Client client("127.0.0.1", port_);
    client.set_read_timeout(60);
    return client;
  }
  /// Status and body of a POST.
  std::pair<int, json> post(const std::string& path, const json& body) const {
    const auto response = client().Post(path, body.dump(), "application/json");
    if (!response) {
      ADD_FAILURE() << path << ": no response";
      return {0, {}};
    }
    return {response->status, json::parse(response->body)};
  }
  json complete(const std::string& prompt, int tokens, const json& more = json::object()) const {
    json body = {{"prompt", prompt}, {"max_tokens", tokens}, {"temperature", 0}, {"ignore_eos", true}};
    body.update(more);
    const auto [status, answer] = post("/v1/completions", body);
    EXPECT_EQ(status, 200) << answer;
    return answer;
  }
  /// The documents of a stream and its last line.
  static std::pair<std::vector<json>, std::string> events(const std::string& text) {
    std::vector<json> documents;
    std::string last;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find("\n\n", at);
      EXPECT_NE(end, std::string::npos);
      last = text.substr(at, end - at);
      EXPECT_THAT(last, StartsWith("data: "));
      if (last != "data: [DONE]") documents.push_back(json::parse(last.substr(6)));
      at = end + 2;
    }
    return {documents, last};
  }

  Folder folder_;
  std::unique_ptr<TerminalRun> server_;
  int port_ = 0;
};

TEST_F(Serve, CompletesAsTheCommandDoes) {
  start();
  const std::string prompt = "The king gave his answer on the third day.";
  const Result expected = run({"run", "-m", kModel, "-p", prompt, "-n", "16", "--precision", "reference", "--json"});
  ASSERT_EQ(expected.status, 0) << expected.err;
  const json answer = complete(prompt, 16, {{"ignore_eos", false}});
  EXPECT_EQ(answer["choices"][0]["text"], json::parse(expected.out)["text"]);
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "small");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 16);
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
}

TEST_F(Serve, ChatsAndReusesTheConversation) {
  start();
  json messages = {{{"role", "system"}, {"content", "Be brief."}}, {{"role", "user"}, {"content", "Who are you?"}}};
  const json body = {{"messages", messages}, {"temperature", 0}, {"max_tokens", 8}};
  const auto [status, answer] = post("/v1/chat/completions", body);
  ASSERT_EQ(status, 200) << answer;
  EXPECT_THAT(answer["id"].get<std::string>(), StartsWith("chatcmpl-"));
  EXPECT_EQ(answer["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  messages.push_back(answer["choices"][0]["message"]);
  messages.back().erase("refusal");
  messages.push_back({{"role", "user"}, {"content", "And why?"}});
  const auto [again, second] =
      post("/v1/chat/completions", {{"messages", messages}, {"temperature", 0}, {"max_tokens", 8}});
  ASSERT_EQ(again, 200) << second;
  EXPECT_GT(second["usage"]["prompt_tokens_details"]["cached_tokens"], 5);
}

TEST_F(Serve, StreamsWhatItAnswersWhole) {
  start();
  const json body = {{"messages", {{{"role", "user"}, {"content", "Tell me a story."}}}},
                     {"temperature", 0},
                     {"max_tokens", 20},
                     {"ignore_eos", true}};
  const auto [status, whole] = post("/v1/chat/completions", body);
  ASSERT_EQ(status, 200);
  json streamed = body;
  streamed["stream"] = true;
  streamed["stream_options"] = {{"include_usage", true}};
  const auto response = client().Post("/v1/chat/completions", streamed.dump(), "application/json");
  ASSERT_TRUE(response);
  EXPECT_THAT(response->get_header_value("Content-Type"), StartsWith("text/event-stream"));
  const auto [documents, last] = events(response->body);
  ASSERT_GE(documents.size(), 4u);
  EXPECT_EQ(last, "data: [DONE]");
  EXPECT_EQ(documents.front()["choices"][0]["delta"]["role"], "assistant");
  std::string text;
  for (const json& document : documents) {
    EXPECT_EQ(document["id"], documents.front()["id"]);
    EXPECT_EQ(document["object"], "chat.completion.chunk");
    if (!document["choices"].empty()) text += document["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
  EXPECT_EQ(documents.back()["usage"]["completion_tokens"], 20);
  EXPECT_TRUE(documents.back()["choices"].empty());
  EXPECT_EQ(documents[documents.size() - 2]["choices"][0]["finish_reason"], "length");
}

TEST_F(Serve, SeveralAnswersStopsAndProbabilities) {
  start();
  const json two =
      complete("Once upon a time", 6,
               {{"prompt", {"Once upon a time", "The old road"}}, {"n", 2}, {"temperature", 1}, {"seed", 4}});
  ASSERT_EQ(two["choices"].size(), 4u);
  EXPECT_EQ(two["choices"][3]["index"], 3);
  EXPECT_EQ(two["usage"]["completion_tokens"], 24);
  const json free = complete("Once upon a time", 12);
  const std::string text = free["choices"][0]["text"];
  const json stopped = complete("Once upon a time", 12, {{"stop", {text.substr(5, 3)}}, {"logprobs", 2}});
  EXPECT_EQ(stopped["choices"][0]["text"], text.substr(0, text.find(text.substr(5, 3))));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
  const json& logprobs = stopped["choices"][0]["logprobs"];
  ASSERT_GE(logprobs["tokens"].size(), 1u);
  EXPECT_EQ(logprobs["tokens"].size(), logprobs["token_logprobs"].size());
  EXPECT_EQ(logprobs["top_logprobs"][0].size(), 2u);
  EXPECT_EQ(logprobs["text_offset"][0], 0);
}

TEST_F(Serve, SixteenAtATimeEqualEachAlone) {
  start({"--parallel", "16"});
  const auto prompt = [](int i) { return std::string(static_cast<std::size_t>(i), 'x') + " The road to the sea was"; };
  std::vector<std::string> alone, together(16);
  for (int i = 0; i < 16; ++i) alone.push_back(complete(prompt(7 * i), 12)["choices"][0]["text"]);
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] { together[i] = complete(prompt(7 * static_cast<int>(i)), 12)["choices"][0]["text"]; });
  }
  threads.clear();
  EXPECT_EQ(together, alone);
}

TEST_F(Serve, ErrorsHaveTheInterfacesShape) {
  start();
  const auto [status, body] = post("/v1/chat/completions", {{"messages", json::array()}});
  EXPECT_EQ(status, 400);
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_EQ(body["error"]["param"], "messages");
  const auto [missing, model] = post("/v1/completions", {{"prompt", "a"}, {"model", "gpt-9"}});
  EXPECT_EQ(missing, 404);
  EXPECT_EQ(model["error"]["code"], "model_not_found");
  const auto [too_long, length] = post("/v1/completions", {{"prompt", std::vector<int>(512, 5)}});
  EXPECT_EQ(too_long, 400);
  EXPECT_EQ(length["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(length["error"]["param"], "prompt");
  std::string words;
  for (int i = 0; i < 600; ++i) words += "old ";
  const json chat = {{"messages", {{{"role", "user"}, {"content", words}}}}};
  EXPECT_EQ(post("/v1/chat/completions", chat).second["error"]["param"], "messages");
  EXPECT_EQ(post("/v1/completions", {{"prompt", {1, 1 << 30}}}).first, 400);
  EXPECT_EQ(post("/v1/nothing", json::object()).first, 404);
  EXPECT_EQ(client().Get("/v1/completions")->status, 405);
  EXPECT_EQ(json::parse(client().Get("/v1/models")->body)["data"][0]["id"], "small");
  EXPECT_EQ(client().Get("/health")->status, 200);
}

TEST_F(Serve, TokenizesAndBack) {
  start();
  const std::string text = "The old road, at 7 o'clock.";
  const auto [status, tokens] = post("/tokenize", {{"content", text}});
  ASSERT_EQ(status, 200);
  EXPECT_GT(tokens["tokens"].size(), 4u);
  EXPECT_EQ(post("/detokenize", tokens).second["content"], text);
  EXPECT_EQ(post("/detokenize", {{"tokens", {1 << 30}}}).first, 400);
}

TEST_F(Serve, AFullQueueIsRefusedAndClientsThatLeaveMakeRoom) {
  start({"--parallel", "1", "--queue", "1"});
  const json body = {{"prompt", "a"}, {"max_tokens", 400}, {"ignore_eos", true}};
  const auto hold = [&](std::atomic<bool>& leave) {
    httplib::Client c = client();
    json streamed = body;
    streamed["stream"] = true;
    httplib::Request request;
    request.method = "POST";
    request.path = "/v1/completions";
    request.body = streamed.dump();
    request.set_header("Content-Type", "application/json");
    request.content_receiver = [&](const char*, std::size_t, std::uint64_t, std::uint64_t) { return !leave; };
    c.send(request);
  };
  std::atomic<bool> leave{false};
  std::jthread first([&] { hold(leave); }), second([&] { hold(leave); });
  int status = 200;
  for (int i = 0; i < 100 && status != 429; ++i) {
    const auto [code, answer] = post("/v1/completions", {{"prompt", {"b", "c"}}, {"max_tokens", 1}});
    status = code;
    if (status == 429) {
      EXPECT_EQ(answer["error"]["code"], "queue_full");
    }
  }
  EXPECT_EQ(status, 429);
  leave = true;
  first.join();
  second.join();
  for (int i = 0; i < 100 && status != 200; ++i) {
    status = post("/v1/completions", {{"prompt", "b"}, {"max_tokens", 1}}).first;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(status, 200);
}

/// Token 7 has an embedding that is not a number, which the cache finds when keys of the batch are stored already.
TEST_F(Serve, AnErrorOfTheModelEndsItsOwnAnswerOnly) {
  const auto file = gguf::File::open(kModel);
  const gguf::Tensor& embedding = file.tensor("token_embd.weight");
  std::vector<std::byte> broken(embedding.data.begin(), embedding.data.end());
  std::fill_n(broken.begin() + static_cast<std::ptrdiff_t>(7 * broken.size() / embedding.rows()), 2, std::byte{0x7f});
  Changes changes;
  changes.without_tensor = embedding.name;
  changes.metadata = [&](gguf::Writer& w) {
    w.add("token_embd.weight", embedding.type, embedding.shape, broken);
    w.add("output.weight", embedding.type, embedding.shape, embedding.data);  // which would be the same tensor
  };
  start({}, write_model(folder_, changes));
  const json body = {{"prompt", {11, 12, 13}}, {"max_tokens", 200}, {"temperature", 0}, {"ignore_eos", true}};
  const json alone = post("/v1/completions", body).second;
  ASSERT_EQ(alone["usage"]["completion_tokens"], 200);
  std::atomic<bool> ended{false};
  json beside;
  std::jthread other([&] {
    beside = post("/v1/completions", body).second;
    ended = true;
  });
  int failed = 0;
  do {
    const auto [status, answer] = post("/v1/completions", {{"prompt", {21, 22, 7}}, {"max_tokens", 5}});
    EXPECT_EQ(status, 500);
    EXPECT_EQ(answer["error"]["type"], "server_error");
    EXPECT_THAT(answer["error"]["message"].get<std::string>(), HasSubstr("of layer 0, KV head 0, position 2: NaN"));
    ++failed;
  } while (!ended);
  other.join();
  EXPECT_EQ(beside["choices"], alone["choices"]);
  EXPECT_GT(failed, 1);
  const std::string metrics = client().Get("/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("kvant_answers_running 0"));
}

/// A page of another site whose name leads to this machine sends that name.
TEST_F(Serve, AnswersToItsNamesOnly) {
  const auto ask = [&](const std::string& host) { return client().Get("/v1/models", {{"Host", host}}); };
  start({"--allow-host", "kvant.example"});
  for (const char* good : {"127.0.0.1", "localhost:9", "[::1]:80", "kvant.example"}) {
    EXPECT_EQ(ask(good)->status, 200) << good;
  }
  const auto refused = ask("evil.example:8080");
  EXPECT_EQ(refused->status, 403);
  const json error = json::parse(refused->body)["error"];
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("evil.example"));
  start();
  EXPECT_EQ(ask("localhost")->status, 200);
  EXPECT_EQ(ask("kvant.example")->status, 403);
  EXPECT_EQ(client().Get("/health", {{"Host", "kvant.example"}})->status, 403);
}

TEST_F(Serve, AsksForAKey) {
  start({"--api-key-file", folder_.write("keys", "alpha\n\nbeta\n")});
  EXPECT_EQ(client().Get("/v1/models")->status, 401);
  EXPECT_EQ(client().Get("/health")->status, 200);
  httplib::Client c = client();
  c.set_bearer_token_auth("beta");
  EXPECT_EQ(c.Get("/v1/models")->status, 200);
  c.set_bearer_token_auth("gamma");
  const auto refused = c.Get("/v1/models");
  EXPECT_EQ(json::parse(refused->body)["error"]["code"], "invalid_api_key");
  const Result empty = run({"serve", "-m", kModel, "--api-key-file", folder_.write("none", "\n")});
  EXPECT_EQ(empty.status, 1);
  EXPECT_THAT(empty.err, HasSubstr("no key in it"));
}

TEST_F(Serve, SavedConversationsGoOnAfterARestart) {
  std::filesystem::create_directory(folder_.path("slots"));
  const std::vector<std::string> options{"--slot-folder", folder_.path("slots"), "--cache-k",
                                         "lm4",           "--cache-v",           "lm4"};
  start(options);
  const std::string prompt = "The king gave his answer on the third day, and the old road was long.";
  const json first = complete(prompt, 20);
  const std::string all = prompt + first["choices"][0]["text"].get<std::string>();
  const json slots = json::parse(client().Get("/slots")->body)["slots"];
  ASSERT_EQ(slots.size(), 1u);
  const std::string slot = "/slots/" + std::to_string(slots[0]["id"].get<int>());
  const auto [saved, answer] = post(slot + "/save", {{"filename", "story.kv"}});
  ASSERT_EQ(saved, 200) << answer;
  const json expected = complete(all, 20);
  EXPECT_GT(expected["usage"]["prompt_tokens_details"]["cached_tokens"], 10);
  server_->signal(SIGKILL);
  server_->wait();

  start(options);
  EXPECT_EQ(post("/slots/3/restore", {{"filename", "story.kv"}}).first, 200);
  const json after = complete(all, 20);
  EXPECT_EQ(after["choices"], expected["choices"]);
  EXPECT_EQ(after["usage"], expected["usage"]) << "as much of the prompt comes from the cache";
  for (const char* bad : {"../story.kv", "/story.kv", "none.kv", ".."}) {
    EXPECT_EQ(post("/slots/0/restore", {{"filename", bad}}).first, 400) << bad;
  }
  EXPECT_EQ(post("/slots/x/save", {{"filename", "a"}}).first, 404);
  EXPECT_EQ(post("/slots/99/save", {{"filename", "a"}}).first, 400);
  ASSERT_EQ(post("/slots/3/save", {{"filename", "story.kv"}}).first, 200);

  start({"--slot-folder", folder_.path("slots")});
  const auto [other, why] = post("/slots/0/restore", {{"filename", "story.kv"}});
  EXPECT_EQ(other, 400);
  EXPECT_EQ(why["error"]["message"], "story.kv: saved with keys lm4, expected keys f16");
  start();
  EXPECT_EQ(post("/slots/0/restore", {{"filename", "story.kv"}}).first, 403);
}

TEST_F(Serve, AKilledSaveLeavesAWholeFile) {
  std::filesystem::create_directory(folder_.path("slots"));
  for (int i = 0; i < 6; ++i) {
    start({"--slot-folder", folder_.path("slots"), "--cache-k", "f32", "--cache-v", "f32"});
    if (i > 0) {
      const auto [status, why] = post("/slots/0/restore", {{"filename", "a.kv"}});
      ASSERT_EQ(status, 200) << why;
    } else {
      complete(std::string(400, 'x') + " The road", 60);
      ASSERT_EQ(post("/slots/0/save", {{"filename", "a.kv"}}).first, 200);
    }
    std::jthread saver([&] {
      httplib::Client c = client();
      while (c.Post("/slots/0/save", R"({"filename": "a.kv"})", "application/json")) {
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 7 * i));
    server_->signal(SIGKILL);
    server_->wait();
  }
  start({"--slot-folder", folder_.path("slots")});  // which takes away what the last one left unfinished
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path("slots"))) {
    ++files;
    EXPECT_EQ(entry.path().filename(), "a.kv");
  }
  EXPECT_EQ(files, 1u);
}

TEST_F(Serve, FinishesWhatRunsAfterSigterm) {
  start();
  std::string text;
  std::atomic<bool> begun{false};
  std::jthread request([&] {
    httplib::Client c = client();
    httplib::Request r;
    r.method = "POST";
    r.path = "/v1/completions";
    r.body = json{{"prompt", "a"}, {"max_tokens", 100}, {"ignore_eos", true}, {"stream", true}}.dump();
    r.set_header("Content-Type", "application/json");
    r.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
      text.append(data, size);
      begun = true;
      return true;
    };
    c.send(r);
    begun = true;
  });
  while (!begun) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server_->signal(SIGTERM);
  EXPECT_EQ(server_->wait(), 0) << server_->output();
  request.join();
  EXPECT_THAT(text, testing::EndsWith("data: [DONE]\n\n"));
}

}  // namespace
}  // namespace kvant::cli
