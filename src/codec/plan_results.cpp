#include "codec/plan_results.h"

#include <array>
#include <cmath>
#include <cstring>
#include <string_view>

#include "base/error.h"

namespace kvant::codec {
namespace {

constexpr std::size_t kLongestText = 4096;
constexpr std::size_t kMostPositions = std::size_t{1} << 30;
constexpr std::size_t kMostRecent = std::size_t{1} << 20;
constexpr std::string_view kGoal = "kvant.plan.goal", kPredicted = "kvant.plan.predicted_kld",
                           kPositions = "kvant.plan.positions", kTrust = "kvant.plan.trust",
                           kRecent = "kvant.plan.recent";
constexpr std::string_view kCorpus = "kvant.plan.certificate.corpus";

struct Sensitivity {
  std::string_view key;
  double LayerStatistics::*member;
};
constexpr std::array kSensitivities = {Sensitivity{"kvant.plan.sensitivity.keys", &LayerStatistics::k_sensitivity},
                                       Sensitivity{"kvant.plan.sensitivity.values", &LayerStatistics::v_sensitivity}};

struct Count {
  std::string_view key;
  std::uint64_t Certificate::*member;
};
constexpr std::array kCounts = {Count{"kvant.plan.certificate.hash", &Certificate::hash},
                                Count{"kvant.plan.certificate.context", &Certificate::context},
                                Count{"kvant.plan.certificate.tokens", &Certificate::tokens}};

struct Number {
  std::string_view key;
  double Certificate::*member;
  double least, most;
};
constexpr double kLarge = 1e300;
constexpr std::array kNumbers = {
    Number{"kvant.plan.certificate.kld_mean", &Certificate::kld_mean, -kLarge, kLarge},
    Number{"kvant.plan.certificate.kld_error", &Certificate::kld_error, 0, kLarge},
    Number{"kvant.plan.certificate.kld_p99", &Certificate::kld_p99, -kLarge, kLarge},
    Number{"kvant.plan.certificate.top1", &Certificate::top1, 0, 1},
    Number{"kvant.plan.certificate.ppl_ratio", &Certificate::ppl_ratio, 0, kLarge},
    Number{"kvant.plan.certificate.ppl_ratio_lo", &Certificate::ppl_ratio_lo, 0, kLarge},
    Number{"kvant.plan.certificate.ppl_ratio_hi", &Certificate::ppl_ratio_hi, 0, kLarge},
};

/// The items of an array whose type and size must be as expected.
template <gguf::Scalar T>
std::vector<T> items(const gguf::File& file, std::string_view key, std::size_t count) {
  const gguf::Value* value = file.find(key);
  KVANT_CHECK(value != nullptr, ErrorCode::format, "{}: metadata {}: missing, expected an array", file.path(), key);
  const auto* array = std::get_if<gguf::Array>(&value->data);
  KVANT_CHECK(array != nullptr && array->item == gguf::value_type<T>(), ErrorCode::format,
              "{}: metadata {}: another type, expected array of {}", file.path(), key,
              std::is_floating_point_v<T> ? "f64" : "u64");
  KVANT_CHECK(array->count == count, ErrorCode::format, "{}: metadata {}: {} items, expected {}", file.path(), key,
              array->count, count);
  std::vector<T> out(count);
  if (count > 0) std::memcpy(out.data(), array->bytes.data(), count * sizeof(T));
  return out;
}

void check_number(double value, double least, double most, std::string_view key, const std::string& name,
                  ErrorCode code) {
  if (value >= least && value <= most) return;
  fail(code, "{}: metadata {}: {}, expected {}", name, key, value,
       least == 0 ? most == 1 ? "0 to 1" : "a finite number >= 0" : "a finite number");
}

void check_text(const std::string& text, std::string_view key, const std::string& name, ErrorCode code) {
  if (text.size() > kLongestText) {
    fail(code, "{}: metadata {}: {} bytes, expected at most {}", name, key, text.size(), kLongestText);
  }
}

void check_results(const Plan& plan, const std::string& name, ErrorCode code) {
  check_text(plan.goal, kGoal, name, code);
  if (plan.positions > kMostPositions) {
    fail(code, "{}: metadata {}: {}, expected at most {}", name, kPositions, plan.positions, kMostPositions);
  }
  if (plan.recent > kMostRecent) {
    fail(code, "{}: metadata {}: {}, expected at most {}", name, kRecent, plan.recent, kMostRecent);
  }
  check_number(plan.trust, 0, 1, kTrust, name, code);
  check_number(plan.predicted_kld, 0, kLarge, kPredicted, name, code);
  for (const LayerStatistics& layer : plan.layers) {
    for (const Sensitivity& s : kSensitivities) check_number(layer.*s.member, 0, kLarge, s.key, name, code);
  }
  for (const Certificate& certificate : plan.certificates) {
    check_text(certificate.corpus, kCorpus, name, code);
    for (const Number& n : kNumbers) check_number(certificate.*n.member, n.least, n.most, n.key, name, code);
  }
}

void check_count(std::size_t certificates, const std::string& name, ErrorCode code) {
  if (certificates > kMostCertificates) {
    fail(code, "{}: metadata {}: {} items, expected at most {}", name, kCorpus, certificates, kMostCertificates);
  }
}

}  // namespace

void read_results(const gguf::File& file, Plan& plan) {
  plan.goal = file.text(kGoal);
  plan.positions = file.integer(kPositions);
  plan.recent = file.integer(kRecent);
  plan.trust = file.number(kTrust);
  plan.predicted_kld = file.number(kPredicted);
  for (const Sensitivity& s : kSensitivities) {
    const std::vector<double> values = items<double>(file, s.key, plan.layers.size());
    for (std::size_t layer = 0; layer < values.size(); ++layer) plan.layers[layer].*s.member = values[layer];
  }
  const std::vector<std::string_view> corpora = file.texts(kCorpus);
  check_count(corpora.size(), file.path(), ErrorCode::format);
  plan.certificates.resize(corpora.size());
  for (std::size_t i = 0; i < corpora.size(); ++i) plan.certificates[i].corpus = corpora[i];
  const auto fill = [&](std::string_view key, auto member) {
    using T = std::remove_reference_t<decltype(plan.certificates[0].*member)>;
    const std::vector<T> values = items<T>(file, key, corpora.size());
    for (std::size_t i = 0; i < values.size(); ++i) plan.certificates[i].*member = values[i];
  };
  for (const Count& c : kCounts) fill(c.key, c.member);
  for (const Number& n : kNumbers) fill(n.key, n.member);
  check_results(plan, file.path(), ErrorCode::format);
}

void add_results(const Plan& plan, const std::string& name, gguf::Writer& writer) {
  check_count(plan.certificates.size(), name, ErrorCode::invalid_argument);
  check_results(plan, name, ErrorCode::invalid_argument);
  const auto column = [](const auto& rows, auto member) {
    std::vector<std::remove_cvref_t<decltype(rows[0].*member)>> values;
    values.reserve(rows.size());
    for (const auto& row : rows) values.push_back(row.*member);
    return values;
  };
  writer.set(kGoal, plan.goal);
  writer.set(kPositions, plan.positions);
  writer.set(kRecent, plan.recent);
  writer.set(kTrust, plan.trust);
  writer.set(kPredicted, plan.predicted_kld);
  for (const Sensitivity& s : kSensitivities) writer.set(s.key, column(plan.layers, s.member));
  writer.set(kCorpus, column(plan.certificates, &Certificate::corpus));
  for (const Count& c : kCounts) writer.set(c.key, column(plan.certificates, c.member));
  for (const Number& n : kNumbers) writer.set(n.key, column(plan.certificates, n.member));
}

}  // namespace kvant::codec
