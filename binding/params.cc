// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "params.h"

#include <utility>

namespace ternflash {

namespace {

int64_t packed_bytes(int64_t rows, int64_t cols) { return rows * ((cols + 3) / 4); }

// Rows of whole units of 64, which some devices fill.
int64_t code_count(int64_t rows, int64_t cols) { return rows * ((cols + 63) / 64 * 64); }

// Elements reachable through a shape and strides.
int64_t strided_length(int rank, const int64_t* shape, const int64_t* strides) {
  int64_t last = 0;
  for (int axis = 0; axis < rank; axis++) last += (shape[axis] - 1) * strides[axis];
  return last + 1;
}

int64_t product(int rank, const int64_t* shape) {
  int64_t result = 1;
  for (int axis = 0; axis < rank; axis++) result *= shape[axis];
  return result;
}

GatedActivation gated_activation_kind(const Args& args) {
  const std::string kind = args.text("kind");
  if (kind == "swiglu") return GatedActivation::SWIGLU;
  if (kind == "relu2Glu") return GatedActivation::RELU2_GLU;
  return kind == "geglu" ? GatedActivation::GEGLU : GatedActivation::GEGLU_TANH;
}

DropoutMask dropout_mask(const Args& args) {
  DropoutMask mask;
  mask.threshold = static_cast<uint32_t>(args.integer("threshold"));
  if (mask.threshold > 65535) args.fail("threshold", "at most 65535");
  mask.seed = static_cast<uint64_t>(args.integer("seed"));
  mask.offset = static_cast<uint64_t>(args.integer("offset"));
  return mask;
}

CrossEntropyRule cross_entropy_rule(const Args& args) {
  CrossEntropyRule rule;
  const std::string reduction = args.text("reduction");
  rule.ignore_index = static_cast<int32_t>(args.integer("ignoreIndex"));
  rule.reduction = reduction == "mean" ? Reduction::MEAN : reduction == "sum" ? Reduction::SUM : Reduction::NONE;
  rule.label_smoothing = args.number("labelSmoothing");
  rule.z_loss = args.number("zLoss");
  rule.softcap = args.number("softcap");
  return rule;
}

int64_t loss_length(const CrossEntropyRule& rule, int64_t rows) { return rule.reduction == Reduction::NONE ? rows : 1; }

LinearCrossEntropyShape linear_cross_entropy_shape(const Args& args) {
  LinearCrossEntropyShape shape;
  shape.rows = args.integer("rows");
  shape.vocabulary = args.integer("vocabulary");
  shape.features = args.integer("features");
  shape.block_rows = args.integer("blockRows");
  shape.block_cols = args.integer("blockCols");
  if (shape.block_rows < 1 || shape.block_cols < 1) args.fail("blockRows and blockCols", "at least 1");
  return shape;
}

TernaryMethod ternary_method(const Args& args) {
  const std::string method = args.text("method");
  if (method == "twn") return TernaryMethod::TWN;
  if (method == "percentile") return TernaryMethod::PERCENTILE;
  if (method == "meanStd") return TernaryMethod::MEAN_STD;
  return method == "threshold" ? TernaryMethod::THRESHOLD : TernaryMethod::ABSMEAN;
}

// One scale, or one for each row.
Tensor scale_tensor(const Args& args, const char* name, int64_t rows) {
  const Tensor scale = args.tensor(name, 1);
  if (scale.length != 1 && scale.length != rows) args.fail(name, "one scale or one for each row");
  return scale;
}

KeyPages key_pages(const Args& args, int64_t batch) {
  KeyPages pages{};
  if (!args.has("pages")) return pages;
  const Args given = args.object("pages");
  pages.per_entry = given.integer("perEntry");
  pages.size = given.integer("size");
  pages.count = given.integer("count");
  if (pages.size < 1 || pages.size % 16 != 0) args.fail("pages", "a size that is a multiple of 16");
  pages.table = given.tensor("table", batch * pages.per_entry);
  return pages;
}

AttentionShape attention_shape(const Args& args) {
  AttentionShape shape{};
  shape.batch = args.integer("batch");
  shape.queries = args.integer("queries");
  shape.keys = args.integer("keys");
  shape.heads = args.integer("heads");
  shape.key_heads = args.integer("keyHeads");
  shape.head_dim = args.integer("headDim");
  shape.key_capacity = args.integer("keyCapacity");
  shape.total_queries = shape.batch * shape.queries;
  shape.total_keys = shape.batch * shape.key_capacity;
  if (args.has("packed")) {
    const Args packed = args.object("packed");
    shape.cu_seqlens = packed.tensor("cuSeqlens", 2 * (shape.batch + 1));
    shape.total_queries = packed.integer("totalQueries");
    shape.total_keys = packed.integer("totalKeys");
  }
  if (args.has("keyLengths")) {
    const Args lengths = args.object("keyLengths");
    shape.held_keys = lengths.tensor("held", shape.batch);
    shape.added_keys = lengths.integer("added");
  }
  shape.pages = key_pages(args, shape.batch);
  if (shape.pages.table.data) {
    shape.total_keys = shape.pages.count * shape.pages.size;
    if (shape.keys > shape.pages.per_entry * shape.pages.size) args.fail("keys", "as many as there are pages for");
  }
  shape.scale = args.number("scale");
  shape.softcap = args.number("softcap");
  shape.alibi_per_batch = args.flag("alibiPerBatch");
  shape.alibi_slopes = args.optional_tensor("alibiSlopes", (shape.alibi_per_batch ? shape.batch : 1) * shape.heads);
  shape.top_left = args.flag("topLeft");
  shape.window_left = args.integer("windowLeft");
  shape.window_right = args.integer("windowRight");
  shape.sinks = args.optional_tensor("sinks", shape.heads);
  shape.dropout = dropout_mask(args.object("dropout"));
  return shape;
}

}  // namespace

void read(const Args& args, Call<FillParams>& call) {
  call.params.out = args.tensor("out", 0);
  call.params.value = args.number("value");
}

void read(const Args& args, Call<CastParams>& call) {
  call.params.x = args.tensor("x", 0);
  call.params.out = args.tensor("out", call.params.x.length);
}

void read(const Args& args, Call<TransposeParams>& call) {
  TransposeParams& p = call.params;
  p.rank = args.integers("shape", p.shape, MAX_RANK);
  if (args.integers("strides", p.strides, MAX_RANK) != p.rank) args.fail("strides", "as many as axes");
  p.x = args.tensor("x", strided_length(p.rank, p.shape, p.strides));
  p.out = args.tensor("out", product(p.rank, p.shape));
}

void read(const Args& args, Call<BinaryParams>& call) {
  BinaryParams& p = call.params;
  p.kind = args.text("kind") == "add" ? BinaryKind::ADD : BinaryKind::MUL;
  p.rank = args.integers("shape", p.shape, MAX_RANK);
  if (args.integers("aStrides", p.a_strides, MAX_RANK) != p.rank) args.fail("aStrides", "as many as axes");
  if (args.integers("bStrides", p.b_strides, MAX_RANK) != p.rank) args.fail("bStrides", "as many as axes");
  p.a = args.tensor("a", strided_length(p.rank, p.shape, p.a_strides));
  p.b = args.tensor("b", strided_length(p.rank, p.shape, p.b_strides));
  p.out = args.tensor("out", product(p.rank, p.shape));
}

void read(const Args& args, Call<ScaleParams>& call) {
  ScaleParams& p = call.params;
  p.x = args.tensor("x", 0);
  p.out = args.tensor("out", p.x.length);
  p.factor = args.number("factor");
  p.factor_tensor = args.optional_tensor("factorTensor", 1);
}

void read(const Args& args, Call<SumParams>& call) {
  SumParams& p = call.params;
  p.outer = args.integer("outer");
  p.reduce = args.integer("reduce");
  p.inner = args.integer("inner");
  p.factor = args.number("factor");
  p.x = args.tensor("x", p.outer * p.reduce * p.inner);
  p.out = args.tensor("out", p.outer * p.inner);
}

void read(const Args& args, Call<SoftmaxParams>& call) {
  SoftmaxParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.x = args.tensor("x", p.rows * p.cols);
  p.out = args.tensor("out", p.rows * p.cols);
}

void read(const Args& args, Call<SoftmaxBackwardParams>& call) {
  SoftmaxBackwardParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.out = args.tensor("out", p.rows * p.cols);
  p.d_out = args.tensor("dOut", p.rows * p.cols);
  p.d_x = args.tensor("dX", p.rows * p.cols);
}

void read(const Args& args, Call<ArgmaxParams>& call) {
  ArgmaxParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.x = args.tensor("x", p.rows * p.cols);
  p.out = args.tensor("out", p.rows);
}

void read(const Args& args, Call<MatmulParams>& call) {
  MatmulParams& p = call.params;
  p.m = args.integer("m");
  p.n = args.integer("n");
  p.k = args.integer("k");
  p.transpose_a = args.flag("transposeA");
  p.transpose_b = args.flag("transposeB");
  p.a = args.tensor("a", p.m * p.k);
  p.b = args.tensor("b", p.n * p.k);
  p.bias = args.optional_tensor("bias", p.n);
  p.out = args.tensor("out", p.m * p.n);
}

void read(const Args& args, Call<EmbeddingParams>& call) {
  EmbeddingParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.vocabulary = args.integer("vocabulary");
  p.weight = args.tensor("weight", p.vocabulary * p.cols);
  p.ids = args.tensor("ids", p.rows);
  p.out = args.tensor("out", p.rows * p.cols);
}

void read(const Args& args, Call<EmbeddingBackwardParams>& call) {
  EmbeddingBackwardParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.vocabulary = args.integer("vocabulary");
  p.d_out = args.tensor("dOut", p.rows * p.cols);
  p.ids = args.tensor("ids", p.rows);
  p.d_weight = args.tensor("dWeight", p.vocabulary * p.cols);
}

void read(const Args& args, Call<RmsNormParams>& call) {
  RmsNormParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.eps = args.number("eps");
  p.x = args.tensor("x", p.rows * p.cols);
  p.residual = args.optional_tensor("residual", p.rows * p.cols);
  if (p.residual.data) p.sum = args.tensor("sum", p.rows * p.cols);
  p.weight = args.optional_tensor("weight", p.cols);
  p.out = args.tensor("out", p.rows * p.cols);
  p.rstd = args.tensor("rstd", p.rows);
}

void read(const Args& args, Call<RmsNormBackwardParams>& call) {
  RmsNormBackwardParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.d_out = args.tensor("dOut", p.rows * p.cols);
  p.d_sum = args.optional_tensor("dSum", p.rows * p.cols);
  p.x = args.tensor("x", p.rows * p.cols);
  p.weight = args.optional_tensor("weight", p.cols);
  p.rstd = args.tensor("rstd", p.rows);
  p.d_x = args.tensor("dX", p.rows * p.cols);
  p.d_weight = args.optional_tensor("dWeight", p.cols);
}

void read(const Args& args, Call<LayerNormParams>& call) {
  LayerNormParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.eps = args.number("eps");
  p.x = args.tensor("x", p.rows * p.cols);
  p.residual = args.optional_tensor("residual", p.rows * p.cols);
  if (p.residual.data) p.sum = args.tensor("sum", p.rows * p.cols);
  p.weight = args.optional_tensor("weight", p.cols);
  p.bias = args.optional_tensor("bias", p.cols);
  p.out = args.tensor("out", p.rows * p.cols);
  p.mean = args.tensor("mean", p.rows);
  p.rstd = args.tensor("rstd", p.rows);
}

void read(const Args& args, Call<LayerNormBackwardParams>& call) {
  LayerNormBackwardParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.d_out = args.tensor("dOut", p.rows * p.cols);
  p.d_sum = args.optional_tensor("dSum", p.rows * p.cols);
  p.x = args.tensor("x", p.rows * p.cols);
  p.weight = args.optional_tensor("weight", p.cols);
  p.mean = args.tensor("mean", p.rows);
  p.rstd = args.tensor("rstd", p.rows);
  p.d_x = args.tensor("dX", p.rows * p.cols);
  p.d_weight = args.optional_tensor("dWeight", p.cols);
  p.d_bias = args.optional_tensor("dBias", p.cols);
}

void read(const Args& args, Call<DropoutParams>& call) {
  call.params.mask = dropout_mask(args);
  call.params.x = args.tensor("x", 0);
  call.params.out = args.tensor("out", call.params.x.length);
}

void read(const Args& args, Call<RopeParams>& call) {
  RopeParams& p = call.params;
  p.tokens = args.integer("tokens");
  p.heads = args.integer("heads");
  p.head_dim = args.integer("headDim");
  const std::vector<double> frequencies = args.numbers("frequencies");
  p.pairs = static_cast<int64_t>(frequencies.size());
  if (p.pairs > MAX_ROPE_PAIRS || 2 * p.pairs > p.head_dim) args.fail("frequencies", "a shorter list");
  for (int64_t pair = 0; pair < p.pairs; pair++) p.frequencies[pair] = frequencies[static_cast<size_t>(pair)];
  p.interleaved = args.flag("interleaved");
  p.inverse = args.flag("inverse");
  p.x = args.tensor("x", p.tokens * p.heads * p.head_dim);
  p.positions = args.tensor("positions", p.tokens);
  p.out = args.tensor("out", p.tokens * p.heads * p.head_dim);
}

void read(const Args& args, Call<GatedActivationParams>& call) {
  GatedActivationParams& p = call.params;
  p.kind = gated_activation_kind(args);
  p.gate = args.tensor("gate", 0);
  p.up = args.tensor("up", p.gate.length);
  p.out = args.tensor("out", p.gate.length);
}

void read(const Args& args, Call<GatedActivationBackwardParams>& call) {
  GatedActivationBackwardParams& p = call.params;
  p.kind = gated_activation_kind(args);
  p.gate = args.tensor("gate", 0);
  p.up = args.tensor("up", p.gate.length);
  p.d_out = args.tensor("dOut", p.gate.length);
  p.d_gate = args.tensor("dGate", p.gate.length);
  p.d_up = args.tensor("dUp", p.gate.length);
}

void read(const Args& args, Call<CrossEntropyParams>& call) {
  CrossEntropyParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.rule = cross_entropy_rule(args);
  p.logits = args.tensor("logits", p.rows * p.cols);
  p.targets = args.tensor("targets", p.rows);
  p.loss = args.tensor("loss", loss_length(p.rule, p.rows));
  p.count = args.tensor("count", 1);
  p.statistics = args.tensor("statistics", 2 * p.rows);
}

void read(const Args& args, Call<CrossEntropyBackwardParams>& call) {
  CrossEntropyBackwardParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.rule = cross_entropy_rule(args);
  p.logits = args.tensor("logits", p.rows * p.cols);
  p.targets = args.tensor("targets", p.rows);
  p.count = args.tensor("count", 1);
  p.statistics = args.tensor("statistics", 2 * p.rows);
  p.d_loss = args.tensor("dLoss", loss_length(p.rule, p.rows));
  p.d_logits = args.tensor("dLogits", p.rows * p.cols);
}

void read(const Args& args, Call<LinearCrossEntropyParams>& call) {
  LinearCrossEntropyParams& p = call.params;
  const LinearCrossEntropyShape s = p.shape = linear_cross_entropy_shape(args);
  p.rule = cross_entropy_rule(args);
  p.x = args.tensor("x", s.rows * s.features);
  p.weight = args.tensor("weight", s.vocabulary * s.features);
  p.bias = args.optional_tensor("bias", s.vocabulary);
  p.targets = args.tensor("targets", s.rows);
  p.loss = args.tensor("loss", loss_length(p.rule, s.rows));
  p.count = args.tensor("count", 1);
  p.statistics = args.tensor("statistics", 2 * s.rows);
  p.workspace = args.tensor("workspace", s.block_rows * (s.block_cols + LOSS_ROW_FLOATS));
}

void read(const Args& args, Call<LinearCrossEntropyBackwardParams>& call) {
  LinearCrossEntropyBackwardParams& p = call.params;
  const LinearCrossEntropyShape s = p.shape = linear_cross_entropy_shape(args);
  p.rule = cross_entropy_rule(args);
  p.x = args.tensor("x", s.rows * s.features);
  p.weight = args.tensor("weight", s.vocabulary * s.features);
  p.bias = args.optional_tensor("bias", s.vocabulary);
  p.targets = args.tensor("targets", s.rows);
  p.count = args.tensor("count", 1);
  p.statistics = args.tensor("statistics", 2 * s.rows);
  p.d_loss = args.tensor("dLoss", loss_length(p.rule, s.rows));
  p.d_x = args.optional_tensor("dX", s.rows * s.features);
  p.d_weight = args.optional_tensor("dWeight", s.vocabulary * s.features);
  p.d_bias = args.optional_tensor("dBias", s.vocabulary);
  p.workspace = args.tensor("workspace", s.block_rows * (s.block_cols + LOSS_ROW_FLOATS));
  p.d_x_sum = args.optional_tensor("dXSum", s.rows * s.features);
  p.d_weight_sum = args.optional_tensor("dWeightSum", s.block_cols * s.features);
  p.d_bias_sum = args.optional_tensor("dBiasSum", s.block_cols);
}

void read(const Args& args, Call<QuantizeTernaryParams>& call) {
  QuantizeTernaryParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.method = ternary_method(args);
  p.parameter = args.number("parameter");
  p.weight = args.tensor("weight", p.rows * p.cols);
  p.packed = args.tensor("packed", packed_bytes(p.rows, p.cols));
  p.scale = scale_tensor(args, "scale", p.rows);
}

void read(const Args& args, Call<DequantizeTernaryParams>& call) {
  DequantizeTernaryParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.packed = args.tensor("packed", packed_bytes(p.rows, p.cols));
  p.scale = scale_tensor(args, "scale", p.rows);
  p.out = args.tensor("out", p.rows * p.cols);
}

void read(const Args& args, Call<QuantizeActivationsParams>& call) {
  QuantizeActivationsParams& p = call.params;
  p.rows = args.integer("rows");
  p.cols = args.integer("cols");
  p.x = args.tensor("x", p.rows * p.cols);
  p.codes = args.tensor("codes", code_count(p.rows, p.cols));
  p.scales = args.tensor("scales", p.rows);
}

void read(const Args& args, Call<TernaryMatmulInt8Params>& call) {
  TernaryMatmulInt8Params& p = call.params;
  p.m = args.integer("m");
  p.n = args.integer("n");
  p.k = args.integer("k");
  p.codes = args.tensor("codes", code_count(p.m, p.k));
  p.activation_scales = args.tensor("activationScales", p.m);
  p.packed = args.tensor("packed", packed_bytes(p.n, p.k));
  p.weight_scale = scale_tensor(args, "weightScale", p.n);
  p.bias = args.optional_tensor("bias", p.n);
  p.out = args.tensor("out", p.m * p.n);
  if (!args.has("also")) return;
  for (const Args& each : args.objects("also")) {
    TernaryProduct product;
    product.n = each.integer("n");
    product.packed = each.tensor("packed", packed_bytes(product.n, p.k));
    product.weight_scale = scale_tensor(each, "weightScale", product.n);
    product.bias = each.optional_tensor("bias", product.n);
    product.out = each.tensor("out", p.m * product.n);
    if (product.out.dtype != p.out.dtype) each.fail("out", "the dtype of the first product");
    call.products.push_back(product);
  }
  p.also = call.products.data();
  p.also_count = call.products.size();
}

void read(const Args& args, Call<TernaryMatmulParams>& call) {
  TernaryMatmulParams& p = call.params;
  p.m = args.integer("m");
  p.n = args.integer("n");
  p.k = args.integer("k");
  p.x = args.tensor("x", p.m * p.k);
  p.packed = args.tensor("packed", packed_bytes(p.n, p.k));
  p.weight_scale = scale_tensor(args, "weightScale", p.n);
  p.bias = args.optional_tensor("bias", p.n);
  p.out = args.tensor("out", p.m * p.n);
}

void read(const Args& args, Call<TernaryMatmulBackwardParams>& call) {
  TernaryMatmulBackwardParams& p = call.params;
  p.m = args.integer("m");
  p.n = args.integer("n");
  p.k = args.integer("k");
  p.d_out = args.tensor("dOut", p.m * p.n);
  p.packed = args.tensor("packed", packed_bytes(p.n, p.k));
  p.weight_scale = scale_tensor(args, "weightScale", p.n);
  p.d_x = args.tensor("dX", p.m * p.k);
}

void read(const Args& args, Call<BitLinearWeightBackwardParams>& call) {
  BitLinearWeightBackwardParams& p = call.params;
  p.m = args.integer("m");
  p.n = args.integer("n");
  p.k = args.integer("k");
  p.d_out = args.tensor("dOut", p.m * p.n);
  p.codes = args.tensor("codes", code_count(p.m, p.k));
  p.activation_scales = args.tensor("activationScales", p.m);
  p.d_weight = args.tensor("dWeight", p.n * p.k);
}

void read(const Args& args, Call<FlashAttentionParams>& call) {
  FlashAttentionParams& p = call.params;
  const AttentionShape s = p.shape = attention_shape(args);
  const int64_t query_length = s.total_queries * s.heads * s.head_dim;
  const int64_t key_length = s.total_keys * s.key_heads * s.head_dim;
  p.q = args.tensor("q", query_length);
  p.k = args.tensor("k", key_length);
  p.v = args.tensor("v", key_length);
  if (p.k.dtype == DType::INT8) {
    p.key_scales = args.tensor("keyScales", s.total_keys * s.key_heads);
    p.value_scales = args.tensor("valueScales", s.total_keys * s.key_heads);
  }
  p.out = args.tensor("out", query_length);
  p.lse = args.tensor("lse", s.total_queries * s.heads);
}

void read(const Args& args, Call<FlashAttentionBackwardParams>& call) {
  FlashAttentionBackwardParams& p = call.params;
  const AttentionShape s = p.shape = attention_shape(args);
  const int64_t query_length = s.total_queries * s.heads * s.head_dim;
  const int64_t key_length = s.total_keys * s.key_heads * s.head_dim;
  const int64_t row_count = s.total_queries * s.heads;
  p.q = args.tensor("q", query_length);
  p.k = args.tensor("k", key_length);
  p.v = args.tensor("v", key_length);
  p.out = args.tensor("out", query_length);
  p.lse = args.tensor("lse", row_count);
  p.d_out = args.tensor("dOut", query_length);
  p.d_lse = args.optional_tensor("dLse", row_count);
  p.d_q = args.tensor("dQ", query_length);
  p.d_k = args.tensor("dK", key_length);
  p.d_v = args.tensor("dV", key_length);
  p.d_sinks = args.optional_tensor("dSinks", s.heads);
  p.delta = args.tensor("delta", row_count);
  p.deterministic = args.flag("deterministic");
}

void read(const Args& args, Call<MergeAttentionStatesParams>& call) {
  MergeAttentionStatesParams& p = call.params;
  p.batch = args.integer("batch");
  p.queries = args.integer("queries");
  p.heads = args.integer("heads");
  p.head_dim = args.integer("headDim");
  const int64_t row_count = p.batch * p.queries * p.heads;
  p.out_a = args.tensor("outA", row_count * p.head_dim);
  p.lse_a = args.tensor("lseA", row_count);
  p.out_b = args.tensor("outB", row_count * p.head_dim);
  p.lse_b = args.tensor("lseB", row_count);
  p.out = args.tensor("out", row_count * p.head_dim);
  p.lse = args.tensor("lse", row_count);
}

void read(const Args& args, Call<MergeAttentionStatesBackwardParams>& call) {
  MergeAttentionStatesBackwardParams& p = call.params;
  p.batch = args.integer("batch");
  p.queries = args.integer("queries");
  p.heads = args.integer("heads");
  p.head_dim = args.integer("headDim");
  const int64_t row_count = p.batch * p.queries * p.heads;
  p.out_a = args.tensor("outA", row_count * p.head_dim);
  p.lse_a = args.tensor("lseA", row_count);
  p.out_b = args.tensor("outB", row_count * p.head_dim);
  p.lse_b = args.tensor("lseB", row_count);
  p.d_out = args.tensor("dOut", row_count * p.head_dim);
  p.d_lse = args.optional_tensor("dLse", row_count);
  p.d_out_a = args.tensor("dOutA", row_count * p.head_dim);
  p.d_lse_a = args.tensor("dLseA", row_count);
  p.d_out_b = args.tensor("dOutB", row_count * p.head_dim);
  p.d_lse_b = args.tensor("dLseB", row_count);
}

void read(const Args& args, Call<KvCacheAppendParams>& call) {
  KvCacheAppendParams& p = call.params;
  p.batch = args.integer("batch");
  p.rows = args.integer("rows");
  p.row_size = args.integer("rowSize");
  p.head_dim = args.integer("headDim");
  p.capacity = args.integer("capacity");
  p.pages = key_pages(args, p.batch);
  const bool paged = p.pages.table.data != nullptr;
  if (paged && p.capacity > p.pages.per_entry * p.pages.size) args.fail("capacity", "as much as there are pages for");
  const int64_t cache_rows = paged ? p.pages.count * p.pages.size : p.batch * p.capacity;
  if (args.has("position")) {
    p.positions = args.tensor("position", p.batch);
  } else {
    p.position = args.integer("position");
    if (p.position < 0 || p.position + p.rows > p.capacity) args.fail("position", "room in the cache");
  }
  p.x = args.tensor("x", p.batch * p.rows * p.row_size);
  p.cache = args.tensor("cache", cache_rows * p.row_size);
  if (p.cache.dtype == DType::INT8 && p.x.dtype != DType::INT8)
    p.scales = args.tensor("scales", cache_rows * (p.row_size / p.head_dim));
}

void read(const Args& args, Call<AdamWParams>& call) {
  AdamWParams& p = call.params;
  call.numbers = args.numbers("weightDecays");
  call.tensors.push_back(args.tensors("parameters"));
  call.tensors.push_back(args.tensors("gradients"));
  call.tensors.push_back(args.tensors("firstMoments"));
  call.tensors.push_back(args.tensors("secondMoments"));
  call.tensors.push_back(args.optional_tensors("masters"));
  p.count = call.numbers.size();
  for (const std::vector<Tensor>& list : call.tensors) {
    if (list.size() != p.count) args.fail("parameters", "lists of equal length");
    for (size_t i = 0; i < p.count; i++)
      if (list[i].data && list[i].length != call.tensors[0][i].length)
        args.fail("gradients", "tensors of their parameter's length");
  }
  p.parameters = call.tensors[0].data();
  p.gradients = call.tensors[1].data();
  p.first_moments = call.tensors[2].data();
  p.second_moments = call.tensors[3].data();
  p.masters = call.tensors[4].data();
  p.weight_decays = call.numbers.data();
  p.coefficient = args.optional_tensor("coefficient", 1);
  p.learning_rate = args.number("learningRate");
  p.beta1 = args.number("beta1");
  p.beta2 = args.number("beta2");
  p.eps = args.number("eps");
  p.step = args.integer("step");
}

void read(const Args& args, Call<GlobalNormParams>& call) {
  GlobalNormParams& p = call.params;
  call.tensors.push_back(args.tensors("tensors"));
  p.count = call.tensors[0].size();
  p.tensors = call.tensors[0].data();
  p.norm = args.tensor("norm", 1);
  p.coefficient = args.tensor("coefficient", 1);
  p.max_norm = args.number("maxNorm");
  p.factor = args.number("factor");
}

}  // namespace ternflash
