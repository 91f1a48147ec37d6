/** A model of numlstm for JavaScript. Written by `numlstm export`. */

/** Numbers of the model: its input, output, h and c. */
export type Numbers = @ARRAY@;

/** Sizes of a stream. */
export interface StreamOptions {
  /** Rows, each with its own h and c; 1 for a single stream. The default is 1. */
  batch?: number;
  /**
   * Steps that are run at once, at most. The default is 64. A sequence may be longer, but not if the model is
   * bidirectional.
   */
  steps?: number;
}

/** What `LSTM.compile` gives. It can be posted to a worker, or to an AudioWorklet. */
export interface Compiled {
  module: WebAssembly.Module;
  model: Uint8Array;
  /** Whether multiply-adds are fused, so that results have the bits of numlstm in Python. */
  fused: boolean;
}

/**
 * A stream of a model: its h and c, from call to call.
 *
 * Every function throws if an argument is wrong, and changes nothing then. Arrays are contiguous, as in numlstm with
 * `batch_first=False`.
 */
export class LSTM {
  /**
   * Read and compile a model.
   *
   * @param url of `model.numlstm`; in Node and Deno also the path of the file
   */
  static load(url: string | URL, options?: StreamOptions): Promise<LSTM>;

  /** The first half of `load`, for places that cannot fetch. `new LSTM(compiled)` is the second half. */
  static compile(url: string | URL): Promise<Compiled>;

  constructor(compiled: Compiled, options?: StreamOptions);

  readonly batch: number;
  readonly steps: number;
  readonly inputSize: number;
  readonly outputSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  /** 2 if the model is bidirectional. */
  readonly numDirections: number;
  /** 0 for none. */
  readonly projSize: number;
  /** Whether multiply-adds are fused, so that results have the bits of numlstm in Python. */
  readonly fused: boolean;

  /** Another stream of the same model, with h and c zero. It shares the weights. */
  stream(options?: StreamOptions): LSTM;

  /** Give back the memory of this stream. Later calls throw. */
  free(): void;

  /**
   * Run one step: x is (batch, inputSize), the result (batch, outputSize). Not for bidirectional models.
   *
   * @param out is filled and returned, if it is given
   */
  step(x: ArrayLike<number>, out?: Numbers): Numbers;

  /**
   * Run a sequence: x is (steps, batch, inputSize), the result (steps, batch, outputSize).
   *
   * @param steps are counted from x, if they are not given
   * @param out is filled and returned, if it is given
   */
  forward(x: ArrayLike<number>, steps?: number, out?: Numbers): Numbers;

  /** Set h and c to zero. */
  reset(): void;

  /** h, as (numLayers * numDirections, batch, projSize or hiddenSize), to read and to write. Get it anew after each `stream`. */
  get h(): Numbers;
  set h(values: ArrayLike<number>);

  /** c, as (numLayers * numDirections, batch, hiddenSize), likewise. */
  get c(): Numbers;
  set c(values: ArrayLike<number>);
}
