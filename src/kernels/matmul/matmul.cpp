#include "kernels/matmul/matmul.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "gguf/blocks.h"

namespace kvant::kernels {
namespace {

// Weights of a decode task at most, and tasks of each thread at least: threads end together.
constexpr std::size_t kTaskBytes = 128 * 1024, kTasksPerThread = 4;
// Weights whose quarters are streams: many, as each stream begins with a wait for memory. Tasks in a row go on with
// them.
constexpr std::size_t kBandBytes = 2048 * 1024;
constexpr std::size_t kDecodeValues = 256;  // values of a row decoded at a time: 16 rows of them fit the L1 cache
constexpr std::size_t kPrepareRows = 4;     // activation rows converted by one task
constexpr std::size_t kTilesPerThread = 3;  // tasks of tiles at least, so that threads end together

bool is_float(gguf::TensorType type) { return gguf::info(type).block_values == 1; }

void decode_values(gguf::TensorType type, DecodeValues kernel, const std::byte* data, std::size_t values, float* out) {
  if (kernel != nullptr) {
    kernel(data, values, out);
  } else {
    gguf::dequantize(type, data, {out, values});
  }
}

/// Decoded rows, a packed panel, and sums of n rows of x and some panels.
std::size_t tile_scratch_bytes(const Tile& tile, std::size_t n, std::size_t panels) {
  return Tile::kUnit * kDecodeValues * sizeof(float) + tile.columns * tile.depth * tile.element_bytes() +
         n * panels * tile.columns * sizeof(float);
}

}  // namespace

/// Parts of the buffer in use during a call.
struct Matmul::Workspace {
  ActivationBlock* blocks = nullptr;  // x as int8
  Bf16* converted = nullptr;          // x as bf16, laid out for the tile
  std::byte* panels = nullptr;        // for each thread decoded rows and a panel
  std::size_t panel_bytes = 0;
};

/// Of one thread.
struct Matmul::TileScratch {
  float* rows;   // [Tile::kUnit, kDecodeValues], decoded
  float* panel;  // packed
  float* sums;   // [panels of the task][rows of x, Tile::columns]
};

Matmul::Matmul(Isa isa, Precision precision)
    : tile_(&find_tile(isa, precision == Precision::fast)),
      quantize_(pick(quantize_activations_kernels(), isa).function),
      streams_(reads_faster_in_streams() ? GemvArgs::kStreams : 1) {
  for (const gguf::TypeInfo& type : gguf::all_types()) {
    Kernels& k = kernels_[static_cast<std::size_t>(type.type)];
    if (precision == Precision::fast) {
      k.gemv = find(gemv_kernels(), type.type, isa);
      k.gemm = find(gemm_kernels(), type.type, isa);
    }
    k.decode = find(decode_kernels(), type.type, isa);
  }
}

void Matmul::operator()(ThreadPool& pool, MatView<const float> x, std::span<const Product> products) {
  if (x.rows == 0) return;
  for (const Product& p : products) {
    KVANT_ASSERT(p.weights.cols == x.cols && p.y.rows == x.rows && p.y.cols == p.weights.rows);
  }
  plan(x.rows, products, static_cast<std::size_t>(pool.threads()));
  const Workspace workspace = prepare(pool, x);
  pool.run(tasks_.size(), [&](std::size_t i, int thread) {
    switch (tasks_[i].way) {
      case Task::Way::gemv:
        return run_gemv(tasks_[i], x, workspace);
      case Task::Way::gemm:
        return run_gemm(tasks_[i], x, workspace, thread);
      case Task::Way::tiles:
        return run_tiles(tasks_[i], x, workspace, thread);
    }
  });
}

/// Cuts the products into tasks. The results do not depend on where.
void Matmul::plan(std::size_t rows, std::span<const Product> products, std::size_t threads) {
  tasks_.clear();
  std::size_t panels = 0;
  for (const Product& p : products) panels += (p.weights.rows + tile_->columns - 1) / tile_->columns;
  panels_ = std::clamp<std::size_t>(panels / (kTilesPerThread * threads), 1, tile_->panels);
  for (const Product& p : products) {
    const Kernels& k = kernels(p.weights.type);
    Task::Way way = Task::Way::tiles;
    std::size_t step = panels_ * tile_->columns;
    if (rows <= kDecodeRows && k.gemv != nullptr) {
      plan_gemv(p, threads);
      continue;
    }
    if (rows > kDecodeRows && rows < tile_->beats_int8_from && k.gemm != nullptr) {
      way = Task::Way::gemm;
      step = GemmArgs::kMaxRows;
    }
    for (std::size_t begin = 0; begin < p.weights.rows; begin += step) {
      tasks_.push_back({&p, begin, std::min(begin + step, p.weights.rows), way});
    }
  }
}

/// Bands of rows, each of some streams, and tasks along them.
void Matmul::plan_gemv(const Product& p, std::size_t threads) {
  const std::size_t row_bytes = std::max<std::size_t>(1, gguf::row_bytes(p.weights.type, p.weights.cols));
  const std::size_t share = (p.weights.rows + threads - 1) / threads;
  const std::size_t band = std::max(streams_, std::min(share, kBandBytes / row_bytes) / streams_ * streams_);
  const std::size_t task = std::min(kTaskBytes / row_bytes, share / kTasksPerThread);
  const std::size_t step = std::max<std::size_t>(1, task / streams_);
  const auto push = [&](std::size_t first, std::size_t count, std::size_t streams) {
    for (std::size_t o = 0; o < count; o += step) {
      tasks_.push_back({&p, first + o, first + std::min(o + step, count), Task::Way::gemv, streams, count});
    }
  };
  std::size_t begin = 0;
  for (std::size_t left = p.weights.rows; left >= streams_; left = p.weights.rows - begin) {
    const std::size_t apart = std::min(band, left) / streams_;
    push(begin, apart, streams_);
    begin += apart * streams_;
  }
  push(begin, p.weights.rows - begin, 1);
}

/// Lays out the buffer and converts x as the tasks need it.
Matmul::Workspace Matmul::prepare(ThreadPool& pool, MatView<const float> x) {
  bool gemv = false, gemm = false, tiles = false;
  for (const Task& t : tasks_) {
    gemv = gemv || (t.way == Task::Way::gemv && !is_float(t.product->weights.type));
    gemm = gemm || t.way == Task::Way::gemm;
    tiles = tiles || t.way == Task::Way::tiles;
  }
  const bool int8 = gemv || gemm;  // never both: they differ in the number of rows
  const bool bf16 = tiles && tile_->bf16;
  const std::size_t count = activation_blocks(x.cols);
  Workspace w;
  w.panel_bytes = std::max(gemm ? round_up(GemmArgs::scratch_bytes(x.rows), 64) : 0,
                           tiles ? round_up(tile_scratch_bytes(*tile_, x.rows, panels_), 64) : 0);
  const std::size_t block_bytes = int8 ? x.rows * count * sizeof(ActivationBlock) : 0;
  const std::size_t piece = tile_->piece(x.rows), pieces = (x.cols + tile_->depth - 1) / tile_->depth;
  const std::size_t converted_bytes = bf16 ? round_up(pieces * piece * sizeof(Bf16), 64) : 0;
  const std::size_t needed = block_bytes + converted_bytes + static_cast<std::size_t>(pool.threads()) * w.panel_bytes;
  if (buffer_.size() < needed) buffer_ = AlignedBuffer<std::byte>(needed);
  w.blocks = reinterpret_cast<ActivationBlock*>(buffer_.data());
  w.converted = reinterpret_cast<Bf16*>(buffer_.data() + block_bytes);
  w.panels = buffer_.data() + block_bytes + converted_bytes;
  if (!int8 && !bf16) return w;
  pool.for_ranges(x.rows, kPrepareRows, [&](std::size_t begin, std::size_t end, int) {
    for (std::size_t r = begin; r < end; ++r) {
      const float* row = x.data + r * x.stride;
      if (gemv) quantize_(row, x.cols, w.blocks + r * count, 1);
      if (gemm) quantize_(row, x.cols, w.blocks + r, x.rows);
      if (bf16) tile_->convert(row, x.cols, piece, w.converted + tile_->row(r));
    }
  });
  return w;
}

void Matmul::run_gemv(const Task& task, MatView<const float> x, const Workspace& workspace) const {
  const WeightView& w = task.product->weights;
  const MatView<float>& y = task.product->y;
  kernels(w.type).gemv({.weights = w.data + task.begin * gguf::row_bytes(w.type, w.cols),
                        .rows = task.end - task.begin,
                        .cols = w.cols,
                        .x = x,
                        .blocks = workspace.blocks,
                        .y = y.data + task.begin,
                        .y_stride = y.stride,
                        .streams = task.streams,
                        .apart = task.apart});
}

void Matmul::run_gemm(const Task& task, MatView<const float> x, const Workspace& workspace, int thread) const {
  const WeightView& w = task.product->weights;
  const MatView<float>& y = task.product->y;
  kernels(w.type).gemm({.weights = w.data + task.begin * gguf::row_bytes(w.type, w.cols),
                        .rows = task.end - task.begin,
                        .cols = w.cols,
                        .blocks = workspace.blocks,
                        .n = x.rows,
                        .y = y.data + task.begin,
                        .y_stride = y.stride,
                        .scratch = workspace.panels + static_cast<std::size_t>(thread) * workspace.panel_bytes});
}

/// Packs `depth` columns from `first` on of up to Tile::columns weight rows from `begin` on.
void Matmul::fill_panel(const WeightView& w, std::size_t begin, std::size_t count, std::size_t first, std::size_t depth,
                        const TileScratch& scratch) const {
  const std::size_t row_bytes = gguf::row_bytes(w.type, w.cols);
  const DecodeValues decode = kernels(w.type).decode;
  for (std::size_t unit = 0; unit < count; unit += Tile::kUnit) {
    const std::size_t present = std::min(Tile::kUnit, count - unit);
    std::fill(scratch.rows + present * kDecodeValues, scratch.rows + Tile::kUnit * kDecodeValues, 0.0f);
    for (std::size_t k = 0; k < depth; k += kDecodeValues) {
      const std::size_t values = std::min(kDecodeValues, depth - k);
      const std::byte* data = w.data + (begin + unit) * row_bytes + gguf::row_bytes(w.type, first + k);
      for (std::size_t i = 0; i < present; ++i) {
        decode_values(w.type, decode, data + i * row_bytes, values, scratch.rows + i * kDecodeValues);
      }
      tile_->pack(scratch.rows, kDecodeValues, values, unit, scratch.panel + tile_->dwords(k));
    }
  }
}

/// Some panels of weight rows: decoded piece by piece along the columns. A piece of all rows of x, which stays in the
/// L2 cache, meets all panels.
void Matmul::run_tiles(const Task& task, MatView<const float> x, const Workspace& workspace, int thread) const {
  auto* memory = reinterpret_cast<float*>(workspace.panels + static_cast<std::size_t>(thread) * workspace.panel_bytes);
  float* panel = memory + Tile::kUnit * kDecodeValues;
  const TileScratch scratch{memory, panel, panel + tile_->dwords(tile_->depth)};
  const WeightView& w = task.product->weights;
  const std::size_t n = x.rows, columns = tile_->columns;
  if (x.cols == 0) std::fill_n(scratch.sums, n * panels_ * columns, 0.0f);
  for (std::size_t first = 0; first < x.cols; first += tile_->depth) {
    const std::size_t depth = std::min(tile_->depth, x.cols - first);
    const Bf16* piece = workspace.converted + first / tile_->depth * tile_->piece(n);
    for (std::size_t begin = task.begin; begin < task.end; begin += columns) {
      const std::size_t count = std::min(columns, task.end - begin);
      fill_panel(w, begin, count, first, depth, scratch);
      const std::size_t left = std::min(tile_->depth, x.cols - first - depth);
      const std::size_t row_bytes = gguf::row_bytes(w.type, w.cols);
      tile_->multiply({.x = tile_->bf16 ? static_cast<const void*>(piece) : x.data + first,
                       .x_stride = tile_->bf16 ? tile_->depth : x.stride,
                       .rows = n,
                       .panel = panel,
                       .depth = depth,
                       .sums = scratch.sums + (begin - task.begin) * n,
                       .accumulate = first != 0,
                       .next = {w.data + begin * row_bytes + gguf::row_bytes(w.type, first + depth), row_bytes, count,
                                gguf::row_bytes(w.type, left)}});
    }
  }
  const MatView<float>& y = task.product->y;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t begin = task.begin; begin < task.end; begin += columns) {
      std::copy_n(scratch.sums + (begin - task.begin) * n + r * columns, std::min(columns, task.end - begin),
                  y.data + r * y.stride + begin);
    }
  }
}

std::size_t Matmul::workspace_bytes() const noexcept { return buffer_.size_bytes(); }

void decode_row(const WeightView& weights, std::size_t row, float* out) {
  const std::size_t bytes = gguf::row_bytes(weights.type, weights.cols);
  gguf::dequantize(weights.type, weights.data + row * bytes, {out, weights.cols});
}

}  // namespace kvant::kernels
