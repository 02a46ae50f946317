// The viewer put together: which sky, which map, which pixel.

function startViewer() {
  const get = (name) => document.getElementById(`sky-${name}`);
  const settings = JSON.parse(get("settings").textContent);
  const palettes = Object.fromEntries(
    Object.entries(settings.palettes).map(([name, base64]) => [name, paletteOf(base64)]));
  const hidden = paletteOf(settings.hidden)[0];
  const cards = [...document.querySelectorAll("script.sky-data")];
  const read = new Map();
  const panel = new Panel(get("facts"), get("plots"));
  const state = { sky: null, layer: null, pixel: null };
  const map = new SkyMap(get("canvas"), { hover: say_where, select: choose });

  function openSky(place) {
    if (!read.has(place)) read.set(place, new Sky(JSON.parse(cards[place].textContent)));
    state.sky = read.get(place);
    get("note").textContent = state.sky.note;
    listLayers();
    get("pixel").max = state.sky.pixels - 1;
    openLayer(state.sky.first);
    choose(state.sky.start);
  }

  function listLayers() {
    const groups = new Map();
    state.sky.layers.forEach((layer, k) => {
      if (!groups.has(layer.group)) {
        const group = element("optgroup");
        group.label = layer.group;
        groups.set(layer.group, group);
      }
      groups.get(layer.group).append(element("option", layer.name, { value: k }));
    });
    get("layer").replaceChildren(...groups.values());
  }

  function openLayer(k) {
    const layer = state.layer = state.sky.layers[k];
    const values = state.sky.valuesOf(layer), palette = palettes[layer.colours];
    get("layer").value = k;
    let colourOf;
    if (layer.classes) {
      colourOf = (pixel) => values[pixel] >= 0 ? palette[values[pixel]] : hidden;
    } else {
      const share = shareOf(layer), colours = new Uint32Array(state.sky.pixels);
      for (let pixel = 0; pixel < colours.length; pixel++) {
        const at = share(values[pixel]);
        colours[pixel] = Number.isNaN(at) ? hidden
          : palette[Math.max(0, Math.min(255, Math.floor(256 * at)))];
      }
      colourOf = (pixel) => colours[pixel];
    }
    const { sky } = state;
    map.show(sky.nside, colourOf, layer.angle ? (pixel) => sky.angleOf(layer, pixel) : null);
    drawScale(layer, palette);
    get("canvas").setAttribute("aria-label", `Map of the sky: ${layer.name}. ${settings.keys}`);
    say_where(state.pixel);
  }

  function drawScale(layer, palette) {
    const box = get("scale");
    if (layer.classes) {
      box.replaceChildren(...layer.classes.map((name, k) => {
        const item = element("span", name, { class: "sky-key" });
        const dot = element("span", "", { class: "sky-swatch" });
        dot.style.setProperty("--hue", cssOf(palette[k]));
        item.prepend(dot);
        return item;
      }), element("p", layer.group));
      return;
    }
    const stops = Array.from({ length: 17 }, (_, k) => cssOf(palette[Math.min(255, 16 * k)]));
    const bar = element("div", "", { class: "sky-bar" });
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const ends = element("div", "", { class: "sky-ends" });
    for (const share of [0, 0.5, 1]) ends.append(element("span", say(valueAt(layer, share), 3)));
    const words = [layer.unit, layer.stretch === "linear" ? "" : `${layer.stretch} scale`];
    const title = `${layer.group}: ${layer.name}`;
    box.replaceChildren(bar, ends, element("p", [title, ...words].filter(Boolean).join(", ")));
  }

  function valueIn(pixel) {
    const value = state.sky.valuesOf(state.layer)[pixel];
    if (state.layer.classes) return state.layer.classes[value] ?? "not observed";
    return Number.isFinite(value) ? `${say(value)} ${state.layer.unit}`.trim() : "masked";
  }

  function say_where(pixel) {
    if (!state.layer) return;
    const shown = pixel ?? state.pixel;
    if (shown === null) return;
    const [lon, lat] = map.lonLat(shown);
    get("status").textContent = `Pixel ${shown}: l ${lon.toFixed(1)}°, b ${
      say(Number(lat.toFixed(1)))}°, ${state.layer.name}: ${valueIn(shown)}`;
  }

  function choose(pixel, typed = false) {
    state.pixel = map.selected = pixel;
    const where = map.lonLat(pixel);
    panel.show(state.sky, pixel, where);
    get("pixel").value = pixel;
    if (!typed) { // what the reader wrote stays as it is
      get("lon").value = where[0].toFixed(2);
      get("lat").value = where[1].toFixed(2);
    }
    say_where(pixel);
    map.redraw();
  }

  function goToPixel() {
    const pixel = get("pixel").valueAsNumber;
    if (!Number.isInteger(pixel) || pixel < 0 || pixel >= state.sky.pixels) return;
    choose(pixel);
    map.reveal(pixel);
  }

  function goToDirection() {
    const [lon, lat] = ["lon", "lat"].map((name) => get(name).valueAsNumber); // NaN where empty
    if (!Number.isFinite(lon) || !(Math.abs(lat) <= 90)) return;
    const pixel = pixelOf(state.sky.nside, Math.sin(lat * TAU / 360), lon * TAU / 360);
    choose(pixel, true);
    map.reveal(pixel);
  }

  get("view").addEventListener("change", (event) => openSky(Number(event.target.value)));
  get("layer").addEventListener("change", (event) => openLayer(Number(event.target.value)));
  get("in").addEventListener("click", () => map.zoomBy(1.5));
  get("out").addEventListener("click", () => map.zoomBy(1 / 1.5));
  get("home").addEventListener("click", () => map.home());
  get("pixel").addEventListener("change", goToPixel);
  for (const name of ["lon", "lat"]) get(name).addEventListener("change", goToDirection);
  get("form").addEventListener("submit", (event) => event.preventDefault());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => panel.plot());
  openSky(0);
  get("viewer").hidden = false;
  map.redraw();
  panel.fit();
  window.foreglow = { map, panel, state, pixelOf, centreOf, project, unproject, frameAt };
}

startViewer();
