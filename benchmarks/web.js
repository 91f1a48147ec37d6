// Measured by web.py in a page: calls of numlstm and of onnxruntime-web in turns.
import * as ort from "./ort/ort.wasm.min.mjs";
import { LSTM } from "./numlstm.js";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;

/** Microseconds a call. */
async function timed(call, calls) {
  const begin = performance.now();
  for (let n = 0; n < calls; n++) {
    const answer = call();
    if (answer instanceof Promise) await answer;
  }
  return ((performance.now() - begin) * 1000) / calls;
}

/** For each engine, microseconds a call of every round; and the largest difference of their results. */
export async function measure({ name, input, hidden, steps, rounds, milliseconds, onnxruntime }) {
  const x = Float32Array.from({ length: steps * input }, (_, n) => Math.sin(n / 5));
  const out = new Float32Array(steps * hidden);
  const engines = {};
  const first = {};
  const relaxed = await LSTM.compile(`${name}.numlstm`);
  const validate = WebAssembly.validate;
  WebAssembly.validate = () => false;
  const plain = await LSTM.compile(`${name}.numlstm`);
  WebAssembly.validate = validate;
  for (const [engine, compiled] of Object.entries({ fused: relaxed, plain })) {
    const lstm = new LSTM(compiled, { steps: Math.min(steps, 128) });
    engines[engine] = steps === 1 ? () => lstm.step(x, out) : () => lstm.forward(x, steps, out);
    first[engine] = [...engines[engine]()];
  }
  if (onnxruntime) {
    const session = await ort.InferenceSession.create(`${name}.onnx`, {
      executionProviders: ["wasm"],
      graphOptimizationLevel: "all",
    });
    const state = () => new ort.Tensor("float32", new Float32Array(hidden), [1, 1, hidden]);
    const feeds = { input: new ort.Tensor("float32", x, [steps, 1, input]), h_0: state(), c_0: state() };
    engines.onnxruntime = async () => {
      const results = await session.run(feeds);
      [feeds.h_0, feeds.c_0] = [results.h_n, results.c_n];
      return results.output.data;
    };
    first.onnxruntime = [...(await engines.onnxruntime())];
  }
  const calls = {};
  const times = {};
  for (const [engine, call] of Object.entries(engines)) {
    times[engine] = [];
    for (let n = 0; n < 200; n++) await call(); // until it is compiled
    calls[engine] = Math.max(1, Math.round((milliseconds * 1000) / (await timed(call, 20))));
  }
  for (let round = 0; round < rounds; round++)
    for (const [engine, call] of Object.entries(engines)) times[engine].push(await timed(call, calls[engine]));
  const worst = Math.max(
    ...Object.values(first).map((one) => Math.max(...one.map((value, n) => Math.abs(value - first.fused[n])))),
  );
  return { times, worst, fused: relaxed.fused };
}
