#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/utf8.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pretokenize.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/vocab.h"

namespace kvant::tokenizer {
namespace {

/// Names of the tokens that end a turn or a text in the supported model families.
constexpr std::array<std::string_view, 5> kEnds{"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>"};

/// Byte offset of the first invalid UTF-8 sequence, or text.size().
std::size_t invalid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    if (static_cast<std::uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = utf8_sequence_length(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

/// The token id under `key`, or `fallback`.
Token token_at(const gguf::File& file, std::string_view key, const Vocab& vocab, Token fallback) {
  if (file.find(key) == nullptr) return fallback;
  const std::uint64_t id = file.integer(key);
  KVANT_CHECK(id < vocab.size(), ErrorCode::format, "{}: {}: token {}, but there are only {}", file.path(), key, id,
              vocab.size());
  return static_cast<Token>(id);
}

/// The pre-tokenizer that the file names. Files from before the key existed do not say: theirs follows from the
/// architecture.
const PreTokenizer& pre_tokenizer_of(const gguf::File& file) {
  const bool qwen = file.text("general.architecture", "").starts_with("qwen");
  const std::string_view name = file.text("tokenizer.ggml.pre", qwen ? "qwen2" : "default");
  const PreTokenizer* pre = find_pre_tokenizer(name);
  KVANT_CHECK(pre != nullptr, ErrorCode::unsupported, "{}: tokenizer.ggml.pre: \"{}\" is not supported (known: {})",
              file.path(), printable(name), pre_tokenizer_names());
  return *pre;
}

Spelling spelling_of(const gguf::File& file) {
  const std::string_view model = file.text("tokenizer.ggml.model");
  if (model == "gpt2") return Spelling::byte_level;
  KVANT_CHECK(model == "llama", ErrorCode::unsupported,
              "{}: tokenizer.ggml.model: \"{}\" is not supported (known: gpt2, llama)", file.path(), printable(model));
  return Spelling::sentencepiece;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(const gguf::File& file, Spelling spelling) : vocab(file, spelling), specials(vocab) {
    const bool sentencepiece = spelling == Spelling::sentencepiece;
    // SentencePiece trains with <unk> <s> </s> first.
    const auto usual = [&](Token id) { return sentencepiece && vocab.contains(id) && vocab.is_special(id) ? id : -1; };
    bos = token_at(file, "tokenizer.ggml.bos_token_id", vocab, usual(1));
    eos = token_at(file, "tokenizer.ggml.eos_token_id", vocab, usual(2));
    const Token unknown = token_at(file, "tokenizer.ggml.unknown_token_id", vocab, usual(0));
    add_ends(token_at(file, "tokenizer.ggml.eot_token_id", vocab, -1));

    bool usually_bos = sentencepiece;
    if (sentencepiece) {
      space_prefix = file.boolean("tokenizer.ggml.add_space_prefix", true);
      encoder = std::make_unique<SentencePiece>(vocab, space_prefix, unknown);
    } else {
      const PreTokenizer& pre = pre_tokenizer_of(file);
      usually_bos = pre.adds_bos;
      encoder = std::make_unique<Bpe>(file, vocab, pre, unknown);
    }
    add_bos = bos >= 0 && file.boolean("tokenizer.ggml.add_bos_token", usually_bos);
  }

  void add_ends(Token eot) {
    ends = {eos, eot};
    for (const std::string_view name : kEnds) {
      const Token id = specials.find(name);
      if (id >= 0 && vocab.type(id) == TokenType::control) ends.push_back(id);
    }
  }

  Vocab vocab;
  SpecialTokens specials;
  std::unique_ptr<TextEncoder> encoder;
  Token bos, eos;
  std::vector<Token> ends;
  bool add_bos = false;
  bool space_prefix = false;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from(const gguf::File& file) { return Tokenizer(std::make_unique<Impl>(file, spelling_of(file))); }

std::vector<Token> Tokenizer::encode(std::string_view text, bool parse_special) const {
  const std::size_t invalid = invalid_utf8(text);
  KVANT_CHECK(invalid == text.size(), ErrorCode::invalid_argument, "text is not valid UTF-8 at byte {}", invalid);
  std::vector<Token> out;
  out.reserve(text.size() / 4 + 1);
  for (std::size_t at = 0; at < text.size();) {
    const auto [end, token] = impl_->specials.next(text, at, parse_special);
    if (end > at) impl_->encoder->encode(text.substr(at, end - at), out);
    if (token < 0) break;
    out.push_back(token);
    at = end + impl_->vocab.bytes(token).size();
  }
  return out;
}

std::vector<Token> Tokenizer::encode_prompt(std::string_view text, bool parse_special) const {
  std::vector<Token> tokens = encode(text, parse_special);
  const bool starts_with_bos = !tokens.empty() && tokens.front() == bos();
  if (add_bos() && bos() >= 0 && !starts_with_bos) tokens.insert(tokens.begin(), bos());
  return tokens;
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool special) const {
  std::string text;
  bool at_prefix = impl_->space_prefix;
  for (const Token token : tokens) {
    std::string_view bytes = piece(token, special);
    if (at_prefix && !is_special(token) && bytes.starts_with(' ')) bytes.remove_prefix(1);
    at_prefix = impl_->space_prefix && is_special(token);
    text += bytes;
  }
  return text;
}

std::string_view Tokenizer::piece(Token token, bool special) const {
  KVANT_CHECK(impl_->vocab.contains(token), ErrorCode::invalid_argument, "token {} is not in the vocabulary of {}",
              token, impl_->vocab.size());
  const TokenType type = impl_->vocab.type(token);
  const bool hidden = type == TokenType::control || type == TokenType::unknown;
  return hidden && !special ? std::string_view() : impl_->vocab.bytes(token);
}

std::size_t Tokenizer::size() const noexcept { return impl_->vocab.size(); }
Token Tokenizer::bos() const noexcept { return impl_->bos; }
Token Tokenizer::eos() const noexcept { return impl_->eos; }
bool Tokenizer::add_bos() const noexcept { return impl_->add_bos; }
bool Tokenizer::space_prefix() const noexcept { return impl_->space_prefix; }
Token Tokenizer::special(std::string_view text) const noexcept { return impl_->specials.find(text); }

bool Tokenizer::is_special(Token token) const noexcept {
  return impl_->vocab.contains(token) && impl_->vocab.is_special(token);
}

bool Tokenizer::is_end(Token token) const noexcept {
  return token >= 0 && std::find(impl_->ends.begin(), impl_->ends.end(), token) != impl_->ends.end();
}

}  // namespace kvant::tokenizer
