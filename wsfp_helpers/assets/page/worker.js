// Runs the parsers beside the page: a photograph comes in, the answers of both go out.  Nothing is fetched after "ready".
import { findDoubt, indexPng, labelMap, parse, toCanvas } from "./looks.js";

const RUNTIMES = {
  wasm: ["./ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["./ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
};
let ort, session, facts, last;

async function start() {
  const [bundle, binary] = RUNTIMES[self.name];
  ort = await import(bundle);
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  // Given as they are, so that no part of the runtime looks for files of its own.
  const [wasm, model, found] = await Promise.all([
    fetch(binary).then((answer) => answer.arrayBuffer()),
    fetch("parsers.onnx").then((answer) => answer.arrayBuffer()),
    fetch("facts.json").then((answer) => answer.json()),
  ]);
  facts = found;
  ort.env.wasm.wasmBinary = wasm;
  const threads = ort.env.wasm.numThreads;
  let where = `${threads} ${threads === 1 ? "thread" : "threads"}`;
  if (self.name === "wasm") await open(model, "wasm");
  else {
    try {
      await open(model, "webgpu");
      where = "graphics processor";
    } catch {
      await open(model, "wasm");
    }
  }
  postMessage({ kind: "ready", facts, where });
}

/** Open the networks and run them once, which allocates, with and without a mirror image. */
async function open(model, provider) {
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: [provider] });
  for (const count of provider === "webgpu" ? [1, 2] : [1]) {
    const found = await run({ data: new Uint8Array(count * 64 * 64 * 3), height: 64, width: 64 }, count);
    for (const { data, dims } of Object.values(found)) {
      const wanted = data.length / dims[1], sum = data.reduce((a, b) => a + b, 0);
      if (!(Math.abs(sum / wanted - 1) < 0.01)) throw new Error("the probabilities do not sum to 1");
    }
  }
}

async function run(picture, count) {
  const shape = [count, picture.height, picture.width, 3];
  return session.run({ pictures: new ort.Tensor("uint8", picture.data, shape) });
}

/** Probabilities of every parser for a square picture, averaged with its mirror image when `mirrored`. */
async function answer(picture, mirrored) {
  const { data, height, width } = picture;
  let both = picture;
  if (mirrored) {
    both = { data: new Uint8Array(2 * data.length), height, width };
    both.data.set(data);
    for (let i = 0; i < height * width; i++) {
      const from = (i - (i % width) + width - 1 - (i % width)) * 3;
      for (let c = 0; c < 3; c++) both.data[data.length + 3 * i + c] = data[from + c];
    }
  }
  const found = await run(both, mirrored ? 2 : 1), [, classes, size] = found[Object.keys(facts.parsers)[0]].dims;
  const plane = size * size;
  const probabilities = Object.keys(facts.parsers).map((name) => {
    const values = found[name].data, probability = values.slice(0, classes * plane);
    if (mirrored) {
      for (let k = 0; k < classes; k++) {
        const other = (classes + facts.mirror[k]) * plane;
        for (let y = 0; y < size; y++) {
          for (let x = 0; x < size; x++) {
            const i = k * plane + y * size + x;
            probability[i] = (probability[i] + values[other + y * size + size - 1 - x]) / 2;
          }
        }
      }
    }
    return probability;
  });
  return { probabilities, size };
}

onmessage = async ({ data: { kind, photograph, name, number } }) => {
  try {
    if (kind === "parse") {
      const begin = performance.now(), canvas = toCanvas(photograph), results = {};
      const size = { height: photograph.height, width: photograph.width }, parsed = await parse(canvas, answer, facts);
      last = { photograph: size, parsed: {} };
      Object.keys(facts.parsers).forEach((name, p) => {
        last.parsed[name] = parsed[p];
        results[name] = labelMap(parsed[p], canvas.height, canvas.width, facts.classes.length);
      });
      const doubt = findDoubt(parsed, canvas, size), seconds = (performance.now() - begin) / 1000;
      postMessage({ kind: "parsed", number, canvas, results, doubt, seconds });
    } else if (kind === "download") {
      const { height, width } = last.photograph;
      const map = labelMap(last.parsed[name], height, width, facts.classes.length);
      postMessage({ kind: "png", name, png: await indexPng(map, facts.palette) });
    }
  } catch (error) {
    postMessage({ kind: "failed", text: String(error) });
  }
};

start().catch((error) => postMessage({ kind: "failed", text: String(error) }));
