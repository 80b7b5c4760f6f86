#include "sweep/remote.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace kvant::sweep {

// Names of members, by which they travel.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModelRow, hash, file, name, architecture, weights, bytes, layers, q_heads, kv_heads,
                                   head_dim)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CorpusRow, hash, file, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PlanHead, side, layer, kv_head, bits, parts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PlanRow, hash, file, bytes, heads)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ChannelRow, layer, kv_head, channel, mean, deviation)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MetricRow, scope, name, value)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RetrievalRow, keys, depth, trials, found, low, high)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CellRow, key, kind, model, corpus, plan, k, v, context, chunks, reference, precision,
                                   version, command, tokens, k_bpv, v_bpv, cache_bytes, constant_bytes, seconds,
                                   finished, metrics, retrieval)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Findings, models, corpora, plans, cells, channels)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Claimed, taken, settled)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Request, what, units, most, findings, text)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Reply, claimed, stop, error)

namespace {

using nlohmann::json;

template <class T>
T unpack(std::span<const std::uint8_t> bytes) {
  try {
    return json::from_cbor(bytes.begin(), bytes.end()).get<T>();
  } catch (const json::exception& e) {
    fail(ErrorCode::format, "a message between processes of the sweep: {}", e.what());
  }
}

std::vector<std::string> list(std::span<const std::string> units) { return {units.begin(), units.end()}; }

}  // namespace

std::vector<std::uint8_t> pack(const Request& request) { return json::to_cbor(json(request)); }
std::vector<std::uint8_t> pack(const Reply& reply) { return json::to_cbor(json(reply)); }
Request unpack_request(std::span<const std::uint8_t> bytes) { return unpack<Request>(bytes); }
Reply unpack_reply(std::span<const std::uint8_t> bytes) { return unpack<Reply>(bytes); }

Reply answer(Ledger& ledger, const Request& request) {
  Reply reply;
  try {
    switch (request.what) {
      case Request::What::claim:
        reply.claimed = ledger.claim(request.units, request.most);
        break;
      case Request::What::add:
        ledger.add(request.findings, request.units);
        break;
      case Request::What::fail:
        ledger.fail(request.units, request.text);
        break;
      case Request::What::end:
        break;
    }
  } catch (const Error& e) {
    reply.error = e.what();
  }
  return reply;
}

Reply RemoteLedger::checked(const Request& request) const {
  Reply reply = ask_(request);
  if (reply.stop) kvant::fail(ErrorCode::cancelled, "stopped");
  KVANT_CHECK(reply.error.empty(), ErrorCode::io, "{}", reply.error);
  return reply;
}

Claimed RemoteLedger::claim(std::span<const std::string> units, std::size_t most) {
  Request request;
  request.units = list(units);
  request.most = most;
  return checked(request).claimed;
}

void RemoteLedger::add(const Findings& findings, std::span<const std::string> units) {
  Request request;
  request.what = Request::What::add;
  request.units = list(units);
  request.findings = findings;
  checked(request);
}

void RemoteLedger::fail(std::span<const std::string> units, std::string_view why) {
  Request request;
  request.what = Request::What::fail;
  request.units = list(units);
  request.text = why;
  checked(request);
}

}  // namespace kvant::sweep
