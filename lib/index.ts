// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Everything that `import { … } from 'ternflash'` gives.
 *
 * @module ternflash
 */

export type { DType, FloatDType, TensorData } from './dtype.js';
export { capture, CapturedGraph, type CaptureOptions } from './capture.js';
export { Tensor, arange, full, ones, randn, tensor, tensorFromRaw, uniform, zeros } from './tensor.js';
export type { NestedArray, RandomOptions, TensorOptions, TensorValues } from './tensor.js';
export {
  discardTransfer,
  pendingTransfers,
  receiveTensor,
  reclaimTransfers,
  type TensorMessage,
  type TensorTransfer,
  type TransferTotal,
} from './transfer.js';
export {
  Device,
  device,
  devices,
  emptyCache,
  getDefaultDevice,
  getThreads,
  memory,
  resetPeakMemory,
  setDefaultDevice,
  setMemoryLimit,
  setThreads,
} from './device.js';
export type { DeviceMemory, DeviceName, DeviceReport } from './device.js';
export * from './errors.js';
export { Generator, defaultGenerator, manualSeed } from './random.js';
export type { RandomState } from './random.js';
export { keep, tidy } from './scope.js';
export { leakReport, liveTensors, trackTensors, type LiveTensors } from './tracking.js';
export { noGrad, isGradEnabled } from './autograd/tape.js';
export { grad, valueAndGrad } from './autograd/engine.js';
export { checkpoint, checkpointWith, type CheckpointOptions } from './autograd/checkpoint.js';
export type { Offload } from './autograd/held-tensor.js';
export { add, mul } from './ops/binary.js';
export { bitLinear } from './ops/bit-linear.js';
export { cast } from './ops/cast.js';
export { crossEntropy, type CrossEntropyOptions } from './ops/cross-entropy.js';
export { dropout } from './ops/dropout.js';
export { embedding } from './ops/embedding.js';
export { flashAttention, type FlashAttentionOptions } from './ops/flash-attention.js';
export { flashAttentionVarlen, type FlashAttentionVarlenOptions } from './ops/flash-attention-varlen.js';
export { flashAttentionWithKvCache, type KvCache, type KvCacheAttentionOptions } from './ops/kv-cache.js';
export { geglu, relu2Glu, swiglu, type GegluOptions } from './ops/gated-activation.js';
export { layerNorm, type LayerNormOptions } from './ops/layer-norm.js';
export { linear } from './ops/linear.js';
export { linearCrossEntropy, type LinearCrossEntropyOptions } from './ops/linear-cross-entropy.js';
export { mergeAttentionStates } from './ops/merge-attention-states.js';
export {
  dequantizeTernary,
  quantizeTernary,
  type QuantizeTernaryOptions,
  type TernaryMethod,
} from './ops/quantize-ternary.js';
export { reshape } from './ops/reshape.js';
export { rmsNorm, type NormedSum, type RmsNormOptions } from './ops/rms-norm.js';
export { rope, type RopeOptions } from './ops/rope.js';
export type { RopeScaling } from './ops/rope-scaling.js';
export { scale } from './ops/scale.js';
export { argmax, softmax } from './ops/softmax.js';
export { mean, sum, type ReduceOptions } from './ops/sum.js';
export { ternaryMatmul, type TernaryMatmulOptions } from './ops/ternary-matmul.js';
export { TernaryTensor, type TernaryStatistics } from './ops/ternary-tensor.js';
export { transpose } from './ops/transpose.js';
export { Module } from './nn/module.js';
export { Linear, TernaryLinear, type LinearOptions } from './nn/linear.js';
export { applyLora, loadLora, LoraAdapter, loraState, mergeLora, saveLora, type LoraOptions } from './nn/lora.js';
export { LayerNorm, type LayerNormModuleOptions } from './nn/layer-norm.js';
export { quantizeModel, quantizeWeights, type QuantizeModelOptions } from './nn/quantize-model.js';
export { QuantizationSummary, type PreservedSummary, type QuantizedSummary } from './nn/quantization-summary.js';
export { RMSNorm } from './nn/rms-norm.js';
export { DecodingCache, type CacheOptions, type LayerCache } from './nn/decoding-cache.js';
export {
  Attention,
  MLP,
  TransformerBlock,
  type LayerConfig,
  type PackedDocuments,
  type Placement,
} from './nn/transformer.js';
export { memoryReductionFactor, type CheckpointConfig } from './nn/checkpoint-config.js';
export { CausalLM, type CausalLMConfig, type CausalLMOptions } from './models/causal-lm.js';
export {
  generate,
  generateBatch,
  type GenerateBatchOptions,
  type GeneratedToken,
  type GenerateOptions,
} from './models/generate.js';
export { convertModel, type Conversion, type ConvertModelOptions, type Difference } from './models/convert-model.js';
export { exportModel, type ExportModelOptions } from './models/export-model.js';
export { loadModel, type LoadModelOptions } from './models/load-model.js';
export { sample, type SamplingOptions } from './models/sampling.js';
export { AdamW, type AdamWOptions, type AdamWState, type ParameterGroup } from './train/adamw.js';
export { readTrainingCheckpoint, type CheckpointContent } from './train/checkpoint-folder.js';
export { bf16, fp16, fp32, trainingConfig, type MixedPrecisionConfig, type TrainingConfig } from './train/config.js';
export {
  TokenDataset,
  batchTensors,
  type Batch,
  type BatchSource,
  type Json,
  type TokenArray,
  type TokenBatch,
  type TokenDatasetOptions,
} from './train/data.js';
export { DocumentDataset, type DocumentBatch, type DocumentDatasetOptions } from './train/document-dataset.js';
export { documentEncoder, type DocumentEncoder, type TrainingDocument } from './train/documents.js';
export { encodeConversation, type EncodedDocument } from './train/conversation.js';
export { clipGradNorm, gradNorm, type GradNormOptions } from './train/grad-norm.js';
export { LossScaler, type LossScaleConfig, type LossScalerState } from './train/loss-scaler.js';
export { meanLoss } from './train/mean-loss.js';
export { warmupCosine, type WarmupCosineOptions } from './train/schedule.js';
export { Trainer } from './train/trainer.js';
export type {
  EvaluationOptions,
  LossModel,
  SaveOptions,
  StepReport,
  TrainerOptions,
  TrainOptions,
  TrainResult,
} from './train/trainer-options.js';
export { estimateMemory, type MemoryEstimate, type MemoryEstimateOptions } from './train/estimate-memory.js';
export { readJsonl, type JsonLine } from './formats/jsonl.js';
export { readSafetensors, writeSafetensors, type SafetensorsFile } from './formats/safetensors.js';
export { encodeTernary, type TernaryLayout } from './formats/encode-ternary.js';
export { openGguf } from './formats/gguf.js';
export type { GgufNumber, GgufNumbers, GgufNumberType, GgufValue } from './formats/gguf-values.js';
export { writeGguf, type GgufContent, type GgufTensor, type GgufTernary } from './formats/gguf-writer.js';
export { openSafetensors } from './formats/open-safetensors.js';
export { openTensors } from './formats/open-tensors.js';
export { readFloats } from './formats/read-floats.js';
export { readTernary, type ReadTernaryOptions, type StoredTernary } from './formats/read-ternary.js';
export type { StoredTensor, TensorFile } from './formats/stored-tensor.js';
export { Tokenizer, type DecodeOptions, type EncodeOptions } from './text/tokenizer.js';
export type { ChatMessage, ChatTemplateOptions } from './text/chat-template.js';
export { generateText, type GenerateTextOptions } from './text/generate-text.js';
export { TextStream, type TextStreamOptions } from './text/text-stream.js';
