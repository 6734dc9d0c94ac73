// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { DeviceName } from '../device.js';
import type { FloatDType } from '../dtype.js';
import { OptionError } from '../errors.js';
import type { CausalLM } from '../models/causal-lm.js';
import { contextLengthOf, loadModel } from '../models/load-model.js';
import { tokenizerPlace } from '../models/text-files.js';
import { TernaryLinear } from '../nn/linear.js';
import { applyLora, mergeLora, saveLora } from '../nn/lora.js';
import { manualSeed } from '../random.js';
import { Tokenizer } from '../text/tokenizer.js';
import { bf16, fp16, fp32, type MixedPrecisionConfig } from '../train/config.js';
import { DocumentDataset } from '../train/document-dataset.js';
import { documentEncoder } from '../train/documents.js';
import { warmupCosine } from '../train/schedule.js';
import { Trainer } from '../train/trainer.js';
import type { TrainResult } from '../train/trainer-options.js';
import { WrongCall, type Command, type Context } from './command.js';
import { lossCurve } from './loss-curve.js';
import { RunFolder } from './run-folder.js';
import { readTrainOptions, TRAIN_HELP, TRAIN_OPTIONS, type TrainSettings } from './train-options.js';
import { TrainingDisplay } from './training-display.js';

const PRECISION: Record<FloatDType, () => MixedPrecisionConfig> = { float32: fp32, float16: fp16, bfloat16: bf16 };

interface Data {
  train: DocumentDataset;
  evaluation: DocumentDataset | null;
}

/** Where a run tells how it goes. */
interface Voice {
  /** Tells what is neither an error nor the result. */
  tell(line: string): void;
  isJson: boolean;
  isQuiet: boolean;
}

/** `ternflash train`. */
export const train: Command = {
  async run(args, context) {
    const { values } = parseArgs({ args, options: TRAIN_OPTIONS });
    if (values.help) {
      context.out.write(TRAIN_HELP);
      return 0;
    }
    const isQuiet = values.quiet ?? false;
    const voice: Voice = {
      tell: (line) => void (isQuiet || context.errors.write(`${line}\n`)),
      isJson: values.json ?? false,
      isQuiet,
    };
    if (!values.out) throw new WrongCall('expected --out, got none');
    const folder = new RunFolder(values.out);
    const options = await folder.options(values);
    const given = readTrainOptions(options);
    const tokenizer = await Tokenizer.load(await tokenizerPlace(given.model));
    const settings = { ...given, sequenceLength: given.sequenceLength ?? (await defaultSequenceLength(given)) };
    const data = await readData(settings, tokenizer, context.signal);
    const model = await loadModel(settings.model, {
      ...(settings.device !== null && { device: settings.device as DeviceName }),
      ...(settings.dtype !== null && { dtype: settings.dtype as FloatDType }),
      trainable: settings.lora === null,
      onWarning: (warning) => voice.tell(`warning: ${warning}`),
    });
    try {
      context.signal.throwIfAborted(); // while it was loaded
      prepareModel(model, settings, data);
      await folder.enter(options);
      await runTraining({ settings, tokenizer, data, model, folder, voice, context });
      return 0;
    } finally {
      model.dispose();
    }
  },
};

/** Settings of which none is left open. */
type SettledSettings = TrainSettings & { sequenceLength: number };

async function defaultSequenceLength({ model, batchTokens }: TrainSettings): Promise<number> {
  return Math.min(2048, batchTokens, (await contextLengthOf(model)) || Infinity);
}

async function readData(settings: SettledSettings, tokenizer: Tokenizer, signal: AbortSignal): Promise<Data> {
  const {
    batchTokens: maxTokens,
    sequenceLength: maxSequenceLength,
    longDocuments,
    seed,
    length,
    evaluation,
  } = settings;
  const options = { encoder: documentEncoder(tokenizer), maxTokens, maxSequenceLength, longDocuments, seed, signal };
  const all = await DocumentDataset.read(settings.data, { ...options, ...('epochs' in length && length) });
  if ('file' in evaluation) return { train: all, evaluation: await DocumentDataset.read(evaluation.file, options) };
  const [rest, held] = all.split(evaluation.share);
  return { train: rest, evaluation: held };
}

interface Run {
  settings: SettledSettings;
  tokenizer: Tokenizer;
  data: Data;
  model: CausalLM;
  folder: RunFolder;
  voice: Voice;
  context: Context;
}

async function runTraining(run: Run): Promise<void> {
  const { settings, data, model, voice, context } = run;
  const steps =
    'steps' in settings.length
      ? settings.length.steps
      : Math.ceil(data.train.countBatches(settings.length.epochs) / settings.accumulate);
  const display = new TrainingDisplay(context.errors, steps);
  const trainer = makeTrainer(run, steps, display);
  try {
    const from = await trainer.resume();
    voice.tell(
      `${settings.model}: ${model.config.layers} layers of ${model.config.hidden} in ${model.config.dtype} on ${model.device.id}; ` +
        `${model.parameterCount()} numbers are trained${settings.lora ? ', those of adapters' : ''}`,
    );
    voice.tell(
      `${data.train.documents} documents, ${data.train.tokens} tokens, ${data.train.targets} targets; ` +
        `${data.evaluation?.documents ?? 0} documents to evaluate with; ${from === 0 ? `${steps} steps` : `step ${from} of ${steps}`}`,
    );
    const result = await trainer.train({ steps, signal: context.signal });
    display.clear();
    if (!voice.isJson && !voice.isQuiet && context.errors.isTTY) await showCurve(run);
    if (result.reason === 'aborted') {
      voice.tell(
        `stopped at step ${result.step} of ${steps}; to go on: ternflash train --out ${settings.out} --resume`,
      );
      return writeEnd(run, result, []);
    }
    writeEnd(run, result, await saveResult(run, trainer));
  } finally {
    display.clear();
    trainer.dispose();
  }
}

function prepareModel(
  model: CausalLM,
  { lora, seed, sequenceLength }: SettledSettings,
  { train, evaluation }: Data,
): void {
  const largest = Math.max(train.largestToken, evaluation?.largestToken ?? 0);
  const { vocabulary, contextLength } = model.config;
  if (largest >= vocabulary) {
    throw new OptionError(
      `train: expected a tokenizer of the model's ${vocabulary} tokens, got one that makes token ${largest}`,
    );
  }
  if (contextLength !== 0 && sequenceLength > contextLength) {
    throw new OptionError(
      `train: expected a sequence length of at most ${contextLength}, the model's context, got ${sequenceLength}`,
    );
  }
  manualSeed(seed);
  if (lora) {
    const { targets, ...options } = lora;
    applyLora(model, { ...options, ...(targets && { targets }) });
  }
  model.train();
}

function makeTrainer(
  { settings, data, model, folder, voice, context }: Run,
  steps: number,
  display: TrainingDisplay,
): Trainer {
  const { learningRate: peak, warmup, evalEvery, saveEvery, batchTokens, sequenceLength } = settings;
  const { evaluation } = data;
  return new Trainer({
    model,
    data: data.train,
    batchSize: Math.ceil(batchTokens / sequenceLength),
    maxSequenceLength: sequenceLength,
    gradientAccumulation: settings.accumulate,
    mixedPrecision: PRECISION[model.config.dtype](),
    learningRate: warmupCosine({
      peak,
      warmup: Math.min(steps, warmup ?? Math.min(100, Math.ceil(steps * 0.03))),
      total: steps,
    }),
    optimizer: { weightDecay: settings.weightDecay },
    ...(evaluation && {
      evaluation: { data: () => evaluation.pass(), ...(evalEvery !== null && { every: evalEvery }) },
    }),
    // What the adapters are on is in its own files.
    save: { folder: folder.file('checkpoints'), every: saveEvery, weights: settings.lora ? 'trained' : 'all' },
    metrics: folder.file('metrics.jsonl'),
    onStep: (report) => {
      if (voice.isJson) context.out.write(`${JSON.stringify(report)}\n`);
      else if (!voice.isQuiet) display.step(report);
    },
  });
}

/** The losses of the whole run, also of what was before it was resumed. */
async function showCurve({ folder, context }: Run): Promise<void> {
  const lines = (await readFile(folder.file('metrics.jsonl'), 'utf8')).trimEnd().split('\n');
  const losses = lines.map((line) => (JSON.parse(line) as { loss?: number | null }).loss ?? NaN);
  const curve = lossCurve(losses, { width: (context.errors.columns ?? 80) - 1 });
  if (curve.length > 0) context.errors.write(`training loss, nats a token\n${curve.join('\n')}\n`);
}

/** Writes what was trained; gives the files. */
async function saveResult(
  { settings, tokenizer, model, folder, voice, data }: Run,
  trainer: Trainer,
): Promise<string[]> {
  const files: string[] = [];
  const saveModel = async (): Promise<void> => {
    const file = folder.file('model.safetensors');
    await model.save(file);
    await folder.copyTokenizer(settings.model, tokenizer.stopTokens);
    files.push(file);
  };
  if (settings.lora === null) {
    await saveModel();
    return files;
  }
  const file = folder.file('adapters.safetensors');
  await saveLora(model, file);
  files.push(file);
  if (settings.merge) {
    const isTernary = [...model.modules().values()].some((each) => each instanceof TernaryLinear && each.lora);
    mergeLora(model, { requantize: isTernary });
    if (isTernary && data.evaluation) {
      const loss = (await trainer.evaluate()).toFixed(3);
      voice.tell(`merged, with ternary weights rounded to trits anew: evaluation ${loss}`);
    }
    await saveModel();
  }
  return files;
}

/** Tells how the run ended. */
function writeEnd({ voice, context }: Run, result: TrainResult, files: readonly string[]): void {
  if (voice.isJson) {
    context.out.write(`${JSON.stringify({ ...result, files })}\n`);
    return;
  }
  const { step, loss, evaluation } = result;
  const figures = [loss === null ? '' : `, loss ${loss.toFixed(3)}`, evaluation === null ? '' : `, evaluation ${evaluation.toFixed(3)}`]; // prettier-ignore
  if (result.reason !== 'aborted') voice.tell(`done: step ${step}${figures.join('')}`);
  for (const file of files) context.out.write(`${file}\n`);
}
