// The page's data: arrays in base64, colours, numbers in words.

const HALF_TURN = 254; // steps in which directions are given

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** An array of the page: {dtype: "f4" | "f2" | "u1", base64}. */
function arrayOf({ dtype, base64 }) {
  const bytes = bytesOf(base64);
  if (dtype === "u1") return bytes;
  if (dtype === "f4") return new Float32Array(bytes.buffer);
  return Float32Array.from(new Uint16Array(bytes.buffer), halfToNumber);
}

function halfToNumber(half) {
  const sign = half & 0x8000 ? -1 : 1, power = (half >> 10) & 31, rest = half & 1023;
  if (power === 31) return rest ? NaN : sign * Infinity;
  return sign * (power ? 2 ** (power - 25) * (1024 + rest) : 2 ** -24 * rest);
}

/** A number as text of so many digits, with a true minus sign. */
function say(value, digits = 4) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e5 && size >= 1e-3) {
    return String(Number(value.toPrecision(digits))).replace("-", "−");
  }
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const raised = [...power.replace("+", "")].map((sign) => SUPERSCRIPT[sign]).join("");
  return `${String(Number(mantissa)).replace("-", "−")} × 10${raised}`;
}

const SUPERSCRIPT = Object.fromEntries([..."-0123456789"].map((s, k) => [s, [..."⁻⁰¹²³⁴⁵⁶⁷⁸⁹"][k]]));

/** Colours as one number each, in the order of the bytes of a canvas. */
function paletteOf(base64) {
  const rgb = bytesOf(base64);
  const colour = (k) => (0xff000000 | (rgb[k + 2] << 16) | (rgb[k + 1] << 8) | rgb[k]) >>> 0;
  return Uint32Array.from({ length: rgb.length / 3 }, (_, k) => colour(3 * k));
}

function cssOf(colour) {
  return `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
}

/** Where a value lies between the ends of a layer's colours, 0 to 1. */
function shareOf({ stretch, low, high }) {
  if (stretch === "log") {
    const [a, b] = [Math.log(low), Math.log(high)];
    return (value) => value > 0 ? (Math.log(value) - a) / (b - a) : NaN;
  }
  if (stretch === "asinh") {
    const soft = high / 30, top = Math.asinh(high / soft), bottom = Math.asinh(low / soft);
    return (value) => (Math.asinh(value / soft) - bottom) / (top - bottom);
  }
  return (value) => (value - low) / (high - low);
}

/** The value at a share of the colours: the other way round. */
function valueAt({ stretch, low, high }, share) {
  if (stretch === "log") return low * (high / low) ** share;
  if (stretch === "asinh") {
    const soft = high / 30, top = Math.asinh(high / soft), bottom = Math.asinh(low / soft);
    return soft * Math.sinh(bottom + share * (top - bottom));
  }
  return low + share * (high - low);
}

/** A sky of the page, its arrays read. */
class Sky {
  constructor(card) {
    Object.assign(this, card);
    this.pixels = 12 * this.nside * this.nside;
    this.layers = card.layers.map((layer) => ({
      ...layer, values: layer.values ? arrayOf(layer.values) : null,
      angle: layer.angle ? arrayOf(layer.angle) : null,
    }));
    this.chances = card.chances.map((chance) => ({ ...chance, values: arrayOf(chance.values) }));
    const spectra = card.spectra;
    if (spectra.kind === "polarisation") {
      this.data = arrayOf(spectra.data);
      this.fits = spectra.fits.map((fit) => ({
        name: fit.name,
        residual: arrayOf(fit.residual),
        numbers: fit.numbers.map((one) => ({ name: one.name, values: arrayOf(one.values) })),
      }));
    } else {
      this.line = { low: arrayOf(spectra.low), high: arrayOf(spectra.high) };
      this.line.steps = arrayOf(spectra.steps);
      let row = 0; // only pixels that are seen have a row
      this.line.rows = Int32Array.from(this.line.low, (low) => Number.isFinite(low) ? row++ : -1);
    }
  }

  /** Values of a layer: as given, or those of a model's probability, or of a band. */
  valuesOf(layer) {
    if (layer.values) return layer.values;
    if ("model" in layer) {
      const first = layer.model * this.pixels;
      return this.chances[layer.method].values.subarray(first, first + this.pixels);
    }
    const start = (layer.stokes * this.spectra.frequency.length + layer.band) * this.pixels;
    return this.data.subarray(start, start + this.pixels);
  }

  /** The direction of a layer in a pixel, from south towards east [rad]; NaN where it has none. */
  angleOf(layer, pixel) {
    const step = layer.angle[pixel];
    return step === 255 ? NaN : step * TAU / 2 / HALF_TURN;
  }

  /** Q (0) or U (1) of a pixel, band by band. */
  observed(pixel, stokes) {
    const n = this.spectra.frequency.length;
    return Array.from({ length: n }, (_, k) => this.data[(stokes * n + k) * this.pixels + pixel]);
  }

  /** What a fit leaves of it, in units of the noise. */
  residual(fit, pixel, stokes) {
    const n = this.spectra.frequency.length;
    return Array.from({ length: n }, (_, k) => fit.residual[(stokes * n + k) * this.pixels + pixel]);
  }

  /** The 21 cm line of a pixel [K], or null where masked. */
  lineOf(pixel) {
    const { low, high, steps, rows } = this.line, n = this.spectra.velocity.length;
    if (rows[pixel] < 0) return null;
    const row = steps.subarray(rows[pixel] * n, (rows[pixel] + 1) * n);
    const size = (high[pixel] - low[pixel]) / 255;
    return Array.from(row, (step) => low[pixel] + size * step);
  }

  chance(method, model, pixel) {
    return this.chances[method].values[model * this.pixels + pixel];
  }
}
