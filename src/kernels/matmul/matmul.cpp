#include "kernels/matmul/matmul.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "gguf/blocks.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kTaskBytes =
    32 * 1024;  // weights of a decode task: small, as threads take them one after another
constexpr std::size_t kStreamBytes = 16 * 1024;  // the same of each stream: some pages
constexpr std::size_t kDecodeValues = 256;       // values of a row decoded at a time: 16 rows of them fit the L1 cache
constexpr std::size_t kPrepareRows = 4;          // activation rows converted by one task

bool is_float(gguf::TensorType type) { return gguf::info(type).block_values == 1; }

void decode_values(gguf::TensorType type, DecodeValues kernel, const std::byte* data, std::size_t values, float* out) {
  if (kernel != nullptr) {
    kernel(data, values, out);
  } else {
    gguf::dequantize(type, data, {out, values});
  }
}

/// Decoded rows and a packed panel.
std::size_t tile_panel_bytes(const Tile& tile) {
  return Tile::kUnit * kDecodeValues * sizeof(float) + tile.columns * tile.depth * tile.element_bytes();
}

}  // namespace

/// Parts of the buffer in use during a call.
struct Matmul::Workspace {
  ActivationBlock* blocks = nullptr;  // x as int8
  Bf16* converted = nullptr;          // x as bf16, rows `stride` apart
  std::size_t stride = 0;
  std::byte* panels = nullptr;  // for each thread decoded rows and a panel
  std::size_t panel_bytes = 0;
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
  plan(x.rows, products);
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

/// Cuts the products into tasks that do not depend on the number of threads.
void Matmul::plan(std::size_t rows, std::span<const Product> products) {
  tasks_.clear();
  for (const Product& p : products) {
    const Kernels& k = kernels(p.weights.type);
    const std::size_t row_bytes = std::max<std::size_t>(1, gguf::row_bytes(p.weights.type, p.weights.cols));
    Task::Way way = Task::Way::tiles;
    std::size_t step = tile_->columns;
    if (rows <= kDecodeRows && k.gemv != nullptr) {
      way = Task::Way::gemv;
      const std::size_t bytes = streams_ == 1 ? kTaskBytes : streams_ * kStreamBytes;
      step = std::max<std::size_t>(streams_, bytes / row_bytes / streams_ * streams_);
    } else if (rows > kDecodeRows && k.gemm != nullptr) {
      way = Task::Way::gemm;
      step = GemmArgs::kMaxRows;
    }
    for (std::size_t begin = 0; begin < p.weights.rows; begin += step) {
      tasks_.push_back({&p, begin, std::min(begin + step, p.weights.rows), way});
    }
  }
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
  w.stride = bf16 ? round_up(x.cols, 32) : x.stride;
  w.panel_bytes =
      std::max(gemm ? round_up(GemmArgs::scratch_bytes(x.rows), 64) : 0, tiles ? tile_panel_bytes(*tile_) : 0);
  const std::size_t block_bytes = int8 ? x.rows * count * sizeof(ActivationBlock) : 0;
  const std::size_t converted_bytes = bf16 ? round_up(x.rows * w.stride * sizeof(Bf16), 64) : 0;
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
      if (bf16) tile_->convert(row, x.cols, w.converted + r * w.stride);
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
                        .streams = streams_});
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

/// One panel of weight rows: decoded piece by piece along the columns, each piece used for all rows of x.
void Matmul::run_tiles(const Task& task, MatView<const float> x, const Workspace& workspace, int thread) const {
  const WeightView& w = task.product->weights;
  const MatView<float>& y = task.product->y;
  auto* rows = reinterpret_cast<float*>(workspace.panels + static_cast<std::size_t>(thread) * workspace.panel_bytes);
  float* panel = rows + Tile::kUnit * kDecodeValues;
  const std::size_t row_bytes = gguf::row_bytes(w.type, w.cols);
  const DecodeValues decode = kernels(w.type).decode;
  if (x.cols == 0) {
    for (std::size_t r = 0; r < y.rows; ++r)
      std::fill_n(y.data + r * y.stride + task.begin, task.end - task.begin, 0.0f);
  }
  for (std::size_t first = 0; first < x.cols; first += tile_->depth) {
    const std::size_t depth = std::min(tile_->depth, x.cols - first);
    for (std::size_t unit = 0; unit < task.end - task.begin; unit += Tile::kUnit) {
      const std::size_t present = std::min(Tile::kUnit, task.end - task.begin - unit);
      std::fill(rows + present * kDecodeValues, rows + Tile::kUnit * kDecodeValues, 0.0f);
      for (std::size_t k = 0; k < depth; k += kDecodeValues) {
        const std::size_t values = std::min(kDecodeValues, depth - k);
        const std::byte* data = w.data + (task.begin + unit) * row_bytes + gguf::row_bytes(w.type, first + k);
        for (std::size_t i = 0; i < present; ++i) {
          decode_values(w.type, decode, data + i * row_bytes, values, rows + i * kDecodeValues);
        }
        tile_->pack(rows, kDecodeValues, values, unit, panel + tile_->dwords(k));
      }
    }
    const void* operand = tile_->bf16 ? static_cast<const void*>(workspace.converted + first) : x.data + first;
    tile_->multiply({.x = operand,
                     .x_stride = workspace.stride,
                     .rows = x.rows,
                     .panel = panel,
                     .depth = depth,
                     .y = y.data + task.begin,
                     .y_stride = y.stride,
                     .columns = task.end - task.begin,
                     .accumulate = first != 0});
  }
}

std::size_t Matmul::workspace_bytes() const noexcept { return buffer_.size_bytes(); }

void decode_row(const WeightView& weights, std::size_t row, float* out) {
  const std::size_t bytes = gguf::row_bytes(weights.type, weights.cols);
  gguf::dequantize(weights.type, weights.data + row * bytes, {out, weights.cols});
}

}  // namespace kvant::kernels
