// What tests run in Node and in a browser, beside an exported library; arguments and results are JSON.
import { LSTM } from "./numlstm.js";

const url = (name) => new URL(name, import.meta.url);

/** Every case's outputs, h and c: of single steps (piece 0), or of so many steps a call. */
export async function outputs({ plain, cases }) {
  if (plain) WebAssembly.validate = () => false;
  const results = [];
  let fused = true;
  for (const { model, x, steps, batch, room, piece } of cases) {
    const lstm = await LSTM.load(url(model), { batch, steps: room });
    fused = lstm.fused;
    const y = [];
    const row = batch * lstm.inputSize;
    for (let done = 0; done < steps; done += piece || 1) {
      const count = Math.min(piece || 1, steps - done);
      const part = new lstm.h.constructor(x.slice(done * row, (done + count) * row));
      y.push(...(piece ? lstm.forward(part, count) : lstm.step(part)));
    }
    results.push([y, [...lstm.h], [...lstm.c]]);
  }
  return { fused, results };
}

function message(action) {
  try {
    action();
  } catch (error) {
    return String(error);
  }
  return "nothing";
}

/** What is said of each fault, and whether the instance gives the same numbers after it. */
export async function faults({ good, bad, both }) {
  const lstm = await LSTM.load(url(good));
  const x = [0.5, -0.25, 1];
  const before = [...lstm.forward(x, 3), ...lstm.step([2])];
  lstm.reset();
  lstm.forward(x, 3);
  const { module } = await LSTM.compile(url(good));
  const freed = lstm.stream();
  const h = lstm.h;
  const said = {};
  for (const [name, action] of Object.entries({
    "too many numbers": () => lstm.step([1, 2]),
    "too few": () => lstm.step([]),
    "no array": () => lstm.step("1"),
    nothing: () => lstm.step(),
    "no numbers": () => lstm.forward(["1", 2]),
    "a hole": () => lstm.forward([1, , 2]), // prettier-ignore
    "part of a step": () => lstm.forward(x, 1.5),
    "other steps": () => lstm.forward(x, 2),
    "short out": () => lstm.forward(x, 3, new Float32Array(2)),
    "no batch": () => lstm.stream({ batch: 0 }),
    "half a row": () => lstm.stream({ batch: 0.5 }),
    "too large a batch": () => lstm.stream({ batch: 2 ** 21 }),
    "no memory": () => lstm.stream({ batch: 2 ** 20, steps: 2 ** 12 }),
    "a little too much": () => lstm.stream({ steps: 2 ** 29 }),
    freed: () => (freed.free(), freed.free(), freed.step([1])),
    "freed h": () => freed.h,
    "freed reset": () => freed.reset(),
    "h of another size": () => (lstm.h = [1]),
    "no model": () => new LSTM({ module, model: new Uint8Array(200) }),
    empty: () => new LSTM({ module, model: new Uint8Array(0) }),
  }))
    said[name] = message(action);
  for (const [name, model] of Object.entries({ ...bad, "no such file": "absent.numlstm" })) {
    said[name] = await LSTM.load(url(model)).then(() => "nothing", String);
  }
  const two = await LSTM.load(url(both), { steps: 2 });
  said["a step both ways"] = message(() => two.step([1, 2]));
  said["a long sequence both ways"] = message(() => two.forward([1, 2, 3, 4, 5, 6]));
  const after = [...lstm.step([2])];
  const kept = h.length === 0 ? lstm.h : h; // views end when memory grows
  lstm.reset();
  return { said, same: String([...lstm.forward(x, 3), ...after]) === String(before), kept: kept.length };
}

/** Streams that take turns on one model, of which one is freed and another takes its place. */
export async function streams({ model, x }) {
  const first = await LSTM.load(url(model), { steps: 4 });
  const want = [...first.forward(x)];
  first.reset();
  const many = [first, first.stream({ steps: 9 }), first.stream()];
  const got = many.map(() => []);
  for (const value of x) many.forEach((stream, n) => got[n].push(...stream.step([value])));
  const memory = many[1].h.buffer.byteLength;
  for (let n = 0; n < 1000; n++) first.stream({ steps: 1000 }).free();
  const grown = first.h.buffer.byteLength;
  const again = first.stream();
  again.h = many[1].h;
  again.c = many[1].c;
  const last = [...again.step([1])].every((y, n) => y === many[1].step([1])[n]);
  const out = new Float32Array(x.length * first.outputSize);
  first.reset();
  return {
    same: got.every((one) => String(one) === String(want)),
    last,
    into: first.forward(Float32Array.from(x), x.length, out) === out && String([...out]) === String(want),
    pages: (grown - memory) / 65536,
    empty: first.forward([]).length,
  };
}

/** The same in a worker, which is handed what was compiled. */
export async function worker({ model, x }) {
  const worker = new Worker(url("worker.mjs"), { type: "module" });
  const said = new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = reject;
  });
  worker.postMessage({ compiled: await LSTM.compile(url(model)), x });
  return [...(await said)];
}

/** A second of sound by an AudioWorklet, block by block. */
export async function audio({ model, x }) {
  const context = new OfflineAudioContext(1, x.length, 48000);
  await context.audioWorklet.addModule(url("processor.mjs"));
  const node = new AudioWorkletNode(context, "model", {
    processorOptions: { compiled: await LSTM.compile(url(model)) },
  });
  const failed = new Promise((_, reject) => {
    node.onprocessorerror = () => reject(new Error("the processor failed"));
  });
  const buffer = new AudioBuffer({ length: x.length, sampleRate: 48000 });
  buffer.copyToChannel(Float32Array.from(x), 0);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(node).connect(context.destination);
  source.start();
  const rendered = await Promise.race([context.startRendering(), failed]);
  return [...rendered.getChannelData(0)];
}
