// Label PNGs: 8 bits, the values themselves with a palette, or colors (PNG 1.2, chapters 3 and 4).

const CRC = Uint32Array.from({length: 256}, (_, number) => {
  for (let bit = 0; bit < 8; bit++) number = number & 1 ? 0xedb88320 ^ (number >>> 1) : number >>> 1;
  return number;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

function chunk(kind, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The label PNG of a result: a Blob. The `value` of each class is what its pixels get: a number, whose color the
// palette then holds, or a color itself.
export async function labelPng({width, height, labels}, classes) {
  const colored = classes.some(({value}) => Array.isArray(value));
  const samples = colored ? 3 : 1;
  const rows = new Uint8Array(height * (1 + samples * width));  // before each row a filter type: 0, the row as it is
  const values = classes.map(({value}) => [value].flat());
  for (let y = 0, from = 0, to = 0; y < height; y++) {
    to++;
    for (let x = 0; x < width; x++, from++) {
      for (let sample = 0; sample < samples; sample++) rows[to++] = values[labels[from]][sample];
    }
  }
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, colored ? 2 : 3], 8);
  const palette = new Uint8Array(768);
  if (!colored) classes.forEach(({value, color}) => palette.set(color, 3 * value));
  const start = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), end = chunk('IEND', new Uint8Array(0));
  const chunks = [chunk('IHDR', head), ...(colored ? [] : [chunk('PLTE', palette)]), chunk('IDAT', await deflated(rows))];
  return new Blob([start, ...chunks, end], {type: 'image/png'});
}
