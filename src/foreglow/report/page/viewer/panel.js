// What the page says of one pixel: tables, and plots of its spectrum by uPlot.

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function tableOf(head, lines, label) {
  const table = element("table");
  const top = table.createTHead().insertRow();
  for (const name of head) top.append(element("th", name, { scope: "col" }));
  const body = table.createTBody();
  for (const [first, ...rest] of lines) {
    const row = body.insertRow();
    const title = element("th", "", { scope: "row" });
    title.append(...[first].flat());
    row.append(title);
    for (const cell of rest) row.append(cell instanceof Node ? cell : element("td", cell));
  }
  const box = element("div", "", {
    class: "scroll", tabindex: "0", role: "region", "aria-label": label,
  });
  box.append(table);
  return box;
}

function swatch(place) {
  return element("span", "", { class: "sky-swatch", style: `--hue: var(--class-${place})` });
}

class Panel {
  constructor(facts, plots) {
    this.facts = facts;
    this.plots = plots;
    this.drawn = [];
    this.asResiduals = false;
    new ResizeObserver(() => this.fit()).observe(plots);
  }

  show(sky, pixel, where) {
    this.sky = sky;
    this.pixel = pixel;
    this.facts.replaceChildren(
      element("h3", `Pixel ${pixel}`),
      element("p", `l ${where[0].toFixed(2)}°, b ${say(Number(where[1].toFixed(2)))}°`,
        { class: "sky-where" }),
    );
    if (sky.classes.length) this.facts.append(this.chances());
    if (sky.fits?.length) this.facts.append(this.fits());
    if (!sky.classes.length) this.facts.append(this.values());
    this.plot();
  }

  values() {
    const { sky, pixel } = this;
    const lines = sky.layers.filter((layer) => layer.values).map((layer) => (
      [layer.name, `${say(layer.values[pixel])} ${layer.unit}`.trim()]));
    return tableOf(["Map", "Here"], lines, "Values of the maps in this pixel");
  }

  chances() {
    const { sky, pixel } = this;
    const bar = (share) => {
      const cell = element("td", share < 0.001 ? "<0.001" : share.toFixed(3));
      cell.className = "sky-chance";
      cell.style.setProperty("--share", `${100 * share || 0}%`);
      return cell;
    };
    const truth = sky.truth ? arrayOf(sky.truth)[pixel] : -1;
    const lines = sky.classes.map((name, k) => {
      const tag = k === truth ? [element("small", " true model")] : [];
      const cells = sky.chances.map((_, method) => bar(sky.chance(method, k, pixel)));
      return [[swatch(k), name, ...tag], ...cells];
    });
    const head = ["Probability of", ...sky.chances.map((chance) => chance.name)];
    return tableOf(head, lines, "Probability of each model in this pixel");
  }

  fits() {
    const { sky, pixel } = this;
    const names = [...new Set(sky.fits.flatMap((fit) => fit.numbers.map((one) => one.name)))];
    const lines = sky.fits.map((fit, k) => {
      const found = Object.fromEntries(fit.numbers.map((one) => [one.name, one.values[pixel]]));
      return [[swatch(k), fit.name],
        ...names.map((name) => name in found ? say(found[name], 3) : "")];
    });
    return tableOf(["Best fit of", ...names], lines, "Fits of the models to this pixel");
  }

  // ---- plots ----------------------------------------------------------------------------------

  plot() {
    const style = getComputedStyle(this.plots);
    this.hue = (name) => style.getPropertyValue(name).trim();
    for (const one of this.drawn) one.destroy();
    this.drawn = [];
    this.plots.replaceChildren();
    if (this.sky.spectra.kind === "polarisation") this.plotPolarisation();
    else this.plotLine();
    this.fit();
  }

  plotPolarisation() {
    const { sky, pixel } = this;
    if (sky.fits.length) this.plots.append(this.residualSwitch());
    const both = [0, 1].map((stokes) => sky.observed(pixel, stokes));
    const { sigma } = sky.spectra;
    const largest = Math.max(...both.flat().map(Math.abs), 1e-12);
    for (const stokes of [0, 1]) {
      const rest = sky.fits.map((fit) => sky.residual(fit, pixel, stokes));
      const letter = "QU"[stokes];
      if (this.asResiduals) {
        this.add(`${letter} less each fit, in units of the noise`, rest, {
          y: {}, unit: "", zero: true, dots: true,
        });
      } else {
        const fits = rest.map((line) => line.map((r, k) => both[stokes][k] - r * sigma[k]));
        this.add(`${letter} [µK_RJ]`, [both[stokes], ...fits], {
          y: { distr: 4, asinh: Math.max(Math.min(...sigma), largest / 3e3) },
          unit: "µK_RJ", errors: sigma, data: true,
        });
      }
    }
  }

  residualSwitch() {
    const label = element("label", "", { class: "sky-switch" });
    const box = element("input", "", { type: "checkbox", id: "sky-residuals" });
    box.checked = this.asResiduals;
    box.addEventListener("change", () => {
      this.asResiduals = box.checked;
      this.plot();
      document.getElementById("sky-residuals").focus();
    });
    label.append(box, " Show what each fit leaves, in units of the noise");
    return label;
  }

  /** A plot against frequency: the data with their errors, then the fits. */
  add(title, lines, { y, unit, errors, data, zero, dots }) {
    const { sky } = this, x = sky.spectra.frequency;
    const names = [...(data ? ["data"] : []), ...sky.fits.map((fit) => fit.name)];
    const colour = (k) => data && k === 0 ? this.hue("--ink")
      : this.hue(`--class-${k - (data ? 1 : 0)}`);
    const series = lines.map((_, k) => {
      const points = dots || (data && k === 0);
      return {
        label: names[k], stroke: colour(k), width: points ? 0 : 1.6, scale: "y",
        dash: points ? undefined : [[], [7, 4], [2, 3], [9, 3, 2, 3]][(k - 1) % 4],
        points: { show: points, size: 6, fill: colour(k), stroke: colour(k) },
        value: (_, value) => value == null ? "–" : say(value, 4),
      };
    });
    const hook = (u) => {
      if (zero) this.level(u, 0);
      if (errors && Math.max(...errors) > 0) this.errorBars(u, lines[0], errors);
    };
    // room for the error bars
    const all = lines.flat().filter(Number.isFinite);
    const spread = errors ? lines[0].flatMap((v, k) => [v - errors[k], v + errors[k]]) : [];
    const ends = [Math.min(...all, ...spread), Math.max(...all, ...spread)];
    const margin = zero ? 0.4 : 0.06 * (ends[1] - ends[0]);
    const range = y.distr ? asinhRange(ends, y.asinh) : [ends[0] - margin, ends[1] + margin];
    const ticks = [10, 20, 50, 100, 200, 500].filter((f) => f > x[0] / 1.3 && f < 1.3 * x.at(-1));
    this.make(title, [x, ...lines], series, {
      x: { time: false, distr: 3, range: [x[0] / 1.15, x.at(-1) * 1.15] },
      y: { ...y, range },
    }, {
      label: "Frequency [GHz]", splits: () => ticks, values: (_, all) => all.map(String),
      filter: (_, all) => all,
    }, y.distr ? { splits: () => asinhTicks(range, y.asinh), filter: (_, all) => all } : {},
    (value) => `${say(value, 4)} GHz`, hook);
  }

  plotLine() {
    const line = this.sky.lineOf(this.pixel);
    if (!line) {
      this.plots.append(element("p", "This pixel is masked: nothing was predicted here."));
      return;
    }
    const series = [{
      label: "brightness", stroke: this.hue("--class-1"), width: 1.6,
      paths: uPlot.paths.stepped({ align: 0 }), points: { show: false },
      value: (_, value) => value == null ? "–" : `${say(value, 3)} K`,
    }];
    const top = Math.max(...line) || 1, bottom = Math.min(...line, 0);
    this.make("21 cm line [K]", [this.sky.spectra.velocity, line], series, {
      x: { time: false }, y: { range: [bottom - 0.02 * top, 1.06 * top] },
    }, { label: "Velocity [km/s], LSRK" }, {}, (value) => `${say(value, 4)} km/s`,
    (u) => this.level(u, 0));
  }

  make(title, data, series, scales, xAxis, yAxis, xValue, hook) {
    const holder = element("figure", "", { class: "sky-plot" });
    holder.append(element("h4", title));
    this.plots.append(holder);
    const axis = {
      stroke: this.hue("--soft"), grid: { stroke: this.hue("--line"), width: 1 },
      ticks: { stroke: this.hue("--line"), size: 5 }, font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif", labelSize: 20,
    };
    const signs = (_, all) => all.map((value) => value == null ? "" : say(value, 3));
    const made = new uPlot({
      width: 320, height: 260, scales, cursor: { y: false, drag: { x: false, y: false } },
      series: [{ label: "at", value: (_, value) => value == null ? "–" : xValue(value) }, ...series],
      axes: [{ ...axis, size: 34, values: signs, ...xAxis }, { ...axis, size: 62, values: signs, ...yAxis }],
      hooks: { draw: [hook] },
    }, data, holder);
    this.drawn.push(made);
  }

  errorBars(u, values, errors) {
    const { ctx } = u, dense = window.devicePixelRatio || 1;
    ctx.save();
    ctx.strokeStyle = this.hue("--ink");
    ctx.lineWidth = 1.2 * dense;
    values.forEach((value, k) => {
      const x = u.valToPos(u.data[0][k], "x", true);
      const [top, low] = [value + errors[k], value - errors[k]].map((v) => u.valToPos(v, "y", true));
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, low);
      for (const y of [top, low]) {
        ctx.moveTo(x - 3 * dense, y);
        ctx.lineTo(x + 3 * dense, y);
      }
      ctx.stroke();
    });
    ctx.restore();
  }

  level(u, value) {
    const { ctx } = u, y = u.valToPos(value, "y", true);
    ctx.save();
    ctx.strokeStyle = this.hue("--soft");
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, y);
    ctx.lineTo(u.bbox.left + u.bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  /** Every plot as wide as its place. */
  fit() {
    for (const plot of this.drawn) {
      const width = Math.floor(plot.root.parentElement.clientWidth);
      if (width && width !== plot.width) plot.setSize({ width, height: 260 });
    }
  }
}

function asinhRange([low, high], soft) {
  const [a, b] = [Math.asinh(low / soft), Math.asinh(high / soft)];
  const margin = Math.max(0.05 * (b - a), 0.1);
  return [soft * Math.sinh(a - margin), soft * Math.sinh(b + margin)];
}

/** Powers of ten of both signs that are not crowded about zero, and zero. */
function asinhTicks([low, high], soft) {
  const found = low < 0 && high > 0 ? [0] : [];
  const top = Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high))));
  const share = (v) => Math.asinh(v / soft), all = share(high) - share(low);
  for (let power = top; power > top - 12; power--) {
    for (const value of [10 ** power, -(10 ** power)]) {
      const free = found.every((other) => Math.abs(share(value) - share(other)) > 0.07 * all);
      if (value > low && value < high && free) found.push(value);
    }
  }
  return found.sort((a, b) => a - b);
}
