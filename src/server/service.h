#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "server/http.h"
#include "server/request.h"
#include "server/response.h"
#include "server/scheduler.h"
#include "tokenizer/chat_template.h"

namespace kvant::server {

/// The routes: from a request's body to jobs of the scheduler, and from its replies to responses. Called from any
/// number of threads.
class Service {
 public:
  struct Options {
    std::string model;                              ///< the name that clients see
    std::size_t max_tokens = 1024;                  ///< of an answer whose request names no number
    std::function<std::size_t()> connections = {};  ///< how many are open, for the metrics
    std::filesystem::path slot_folder = {};         ///< where conversations are saved; empty: nowhere
    RequestLimits limits = {};
  };
  /// Engine and scheduler must outlive this object. A model without a known chat template serves completions only.
  Service(const engine::Engine& engine, Scheduler& scheduler, Options options);

  /// Never throws.
  HttpResponse handle(const HttpRequest& request);
  /// The body of an error of that status.
  static std::string error_body(int status, std::string_view message);

 private:
  HttpResponse route(const HttpRequest& request);
  HttpResponse chat(const HttpRequest& request);
  HttpResponse completion(const HttpRequest& request);
  HttpResponse health() const;
  HttpResponse metrics() const;
  /// POST /slots/{id}/save and restore; `rest` is what follows "/slots/".
  HttpResponse slot(std::string_view rest, const HttpRequest& request);
  HttpResponse tokenize(const HttpRequest& request) const;
  HttpResponse detokenize(const HttpRequest& request) const;

  /// Makes the answers to `prompts`, `n` to each, whole or as a stream.
  HttpResponse generate(const HttpRequest& http, const GenerationRequest& request,
                        const std::vector<std::vector<Token>>& prompts, ResponseWriter::Kind kind);
  void check_model(const std::string& name) const;
  std::vector<Token> encode(std::string_view text, bool add_bos, bool parse_special, const std::string& field) const;
  std::string new_id();

  const engine::Engine& engine_;
  Scheduler& scheduler_;
  Options options_;
  std::optional<tokenizer::ChatTemplate> template_;
  std::int64_t started_;  ///< seconds since 1970
  std::uint64_t run_;     ///< differs from run to run
  std::atomic<std::uint64_t> requests_{0};
};

}  // namespace kvant::server
