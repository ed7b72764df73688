// The worker that runs the network, so that the page goes on meanwhile.

import * as ort from './ort/ort.wasm.min.mjs';

ort.env.wasm.wasmPaths = new URL('ort/', import.meta.url).href;  // absolute: else it is taken for a path below ort/
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

let session;

const WORK = {load, label};

onmessage = async ({data}) => {
  try {
    const result = await WORK[data.kind](data);
    postMessage({result}, result ? [result.labels.buffer, result.confidence.buffer] : []);
  } catch (error) {
    const text = String(error?.message ?? error);
    const full = /alloc|memory/i.test(text);
    postMessage({error: full ? 'The browser has too little memory for this size. Choose a smaller one.' : text});
  }
};

async function load({bytes}) {
  const model = await download('model.onnx', bytes);
  postMessage({report: 'Preparing the network'});
  session = await ort.InferenceSession.create(model, {executionProviders: ['wasm']});
}

// Fetches a file; `size` is that of its bytes, for the progress.
async function download(name, size) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} is not to be had (${response.status}).`);
  const data = new Uint8Array(size), reader = response.body.getReader();
  let done = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (done + part.value.length > size) throw new Error(`${name} is another file than this page was built for.`);
    data.set(part.value, done);
    done += part.value.length;
    postMessage({report: `Loading the network: ${megabytes(done)} of ${megabytes(size)} MB`, share: done / size});
  }
  if (done < size) throw new Error(`${name} is cut off.`);
  return data;
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(0);

// Labels RGBA pixels. Returns {width, height, labels, confidence}.
async function label({pixels, width, height}) {
  const size = width * height, colors = new Uint8Array(3 * size);
  for (let place = 0; place < size; place++) {
    colors[3 * place] = pixels[4 * place];
    colors[3 * place + 1] = pixels[4 * place + 1];
    colors[3 * place + 2] = pixels[4 * place + 2];
  }
  const images = new ort.Tensor('uint8', colors, [1, height, width, 3]);
  const found = await session.run({images});
  const labels = Uint8Array.from(found.labels.data), confidence = new Uint8Array(size);
  const probabilities = found.probabilities.data, classes = found.probabilities.dims[3];
  for (let place = 0; place < size; place++) {
    confidence[place] = Math.round(255 * probabilities[place * classes + labels[place]]);
  }
  for (const tensor of Object.values(found)) tensor.dispose();
  return {width, height, labels, confidence};
}
