// The map on its canvas: colours, graticule, marks; to be dragged, zoomed and walked by keys.

const HALF_WIDTH = 2 * Math.SQRT2; // of the whole sky in Hammer's projection; it is half as high
const STEP_DEG = 15; // of an arrow key on the whole sky
const LATTICE = 15; // screen pixels from one direction to the next

class SkyMap {
  /** `hover` and `select` are called with the pixel under the pointer, or null. */
  constructor(canvas, { hover, select }) {
    this.canvas = canvas;
    this.paint = canvas.getContext("2d");
    this.hover = hover;
    this.select = select;
    this.nside = 1;
    this.colourOf = () => 0;
    this.selected = null;
    this.fingers = new Map();
    this.home();
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  home() {
    this.lon = 0;
    this.lat = 0;
    this.zoom = 1;
    this.moved();
  }

  /** `angleOf` gives the direction to draw in a pixel [rad], or is null. */
  show(nside, colourOf, angleOf = null) {
    this.nside = nside;
    this.colourOf = colourOf;
    this.angleOf = angleOf;
    this.zoom = Math.min(this.zoom, this.maxZoom);
    this.redraw();
  }

  get maxZoom() {
    return Math.max(8, this.nside);
  }

  moved() {
    this.lat = Math.max(-90, Math.min(90, this.lat));
    this.lon = mod(this.lon, 360);
    this.frame = frameAt(this.lon, this.lat);
    // a finger scrolls the page past the whole sky, and moves a sky that is zoomed
    this.canvas.style.touchAction = this.zoom > 1 ? "none" : "pan-y";
    this.redraw();
  }

  zoomBy(factor) {
    this.zoom = Math.max(1, Math.min(this.maxZoom, this.zoom * factor));
    this.moved();
  }

  goTo(lon, lat) {
    this.lon = lon;
    this.lat = lat;
    this.moved();
  }

  /** Make a pixel visible without moving more than is needed: it is put in the middle. */
  reveal(pixel) {
    const [x, y] = this.place(pixel);
    const { width, height } = this.size;
    if (x < 0 || y < 0 || x > width || y > height) this.goTo(...this.lonLat(pixel));
  }

  lonLat(pixel) {
    const [z, lon] = centreOf(this.nside, pixel);
    return [lon * 360 / TAU, Math.asin(z) * 360 / TAU];
  }

  get size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  /** Screen pixels of one unit of the projection. */
  get unit() {
    return this.zoom * (this.size.width / 2 - 2) / HALF_WIDTH;
  }

  /** Where a pixel's centre is on the canvas, in CSS pixels. */
  place(pixel) {
    return this.onCanvas(vectorOf(...this.lonLat(pixel)));
  }

  onCanvas(v) {
    const [x, y] = project(this.frame, v), { width, height } = this.size;
    return [width / 2 - x * this.unit, height / 2 - y * this.unit];
  }

  /** The direction at a place of the canvas: [lon, lat] in degrees, or null outside the sky. */
  directionAt(left, top) {
    const { width, height } = this.size;
    const v = unproject((width / 2 - left) / this.unit, (height / 2 - top) / this.unit);
    if (!v) return null;
    const { ahead, east, north } = this.frame;
    return directionOf([0, 1, 2].map((k) => v[0] * ahead[k] + v[1] * east[k] + v[2] * north[k]));
  }

  pixelAt(left, top) {
    const at = this.directionAt(left, top);
    return at && pixelOf(this.nside, Math.sin(at[1] * TAU / 360), at[0] * TAU / 360);
  }

  // ---- drawing --------------------------------------------------------------------------------

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  draw() {
    const { width, height } = this.size;
    if (!width) return;
    const dense = Math.min(2, window.devicePixelRatio || 1);
    const w = Math.round(width * dense), h = Math.round(height * dense);
    if (this.canvas.width !== w || this.canvas.height !== h) {
      this.canvas.width = w;
      this.canvas.height = h;
    }
    const { paint } = this;
    paint.setTransform(1, 0, 0, 1, 0, 0);
    paint.clearRect(0, 0, w, h);
    const coarse = this.fingers.size ? 2 : 1; // in motion every other pixel is enough
    paint.imageSmoothingEnabled = false;
    paint.drawImage(this.image(Math.ceil(w / coarse), Math.ceil(h / coarse)), 0, 0, w, h);
    paint.setTransform(dense, 0, 0, dense, 0, 0);
    if (this.angleOf) this.drawDirections();
    this.drawGraticule();
    this.drawMarks();
  }

  /** The coloured sky, with the outline of the selected pixel. */
  image(w, h) {
    const key = `${w} ${h} ${this.zoom}`;
    if (this.cacheKey !== key) this.lay(w, h, key);
    const { ahead, east, north } = this.frame, { views, ids, sheet } = this;
    const bytes = new Uint32Array(w * h), palette = this.colourOf;
    for (let i = 0, k = 0; i < ids.length; i++, k += 3) {
      const a = views[k];
      if (a > 1) { // outside the sky
        ids[i] = -1;
        continue;
      }
      const e = views[k + 1], n = views[k + 2];
      const x = a * ahead[0] + e * east[0] + n * north[0];
      const y = a * ahead[1] + e * east[1] + n * north[1];
      ids[i] = pixelOf(this.nside, a * ahead[2] + e * east[2] + n * north[2], Math.atan2(y, x));
      bytes[i] = palette(ids[i]);
    }
    if (this.selected !== null) this.outline(bytes, w, h);
    const data = new ImageData(new Uint8ClampedArray(bytes.buffer), w, h);
    sheet.getContext("2d").putImageData(data, 0, 0);
    return sheet;
  }

  /** The vectors of all places of an image, in the frame of the view: they outlast a drag. */
  lay(w, h, key) {
    this.cacheKey = key;
    this.views = new Float64Array(3 * w * h);
    this.ids = new Int32Array(w * h);
    this.sheet = document.createElement("canvas");
    this.sheet.width = w;
    this.sheet.height = h;
    const scale = this.size.width / w / this.unit;
    for (let j = 0, k = 0; j < h; j++) {
      for (let i = 0; i < w; i++, k += 3) {
        const v = unproject((w / 2 - i - 0.5) * scale, (h / 2 - j - 0.5) * scale);
        this.views.set(v || [2, 0, 0], k);
      }
    }
  }

  outline(bytes, w, h) {
    const { ids, selected } = this;
    const near = [1, -1, w, -w, 2, -2, 2 * w, -2 * w];
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] !== selected) continue;
      for (const step of near) {
        if (ids[i + step] !== selected) {
          bytes[i] = 0xffffffff;
          if (ids[i + step] >= 0) bytes[i + step] = 0xff000000;
        }
      }
    }
  }

  /** Short lines along the directions, at places of a lattice: each of the pixel that is there. */
  drawDirections() {
    const { paint, unit } = this, { width, height } = this.size;
    const step = Math.max(LATTICE, unit / this.nside), half = 0.4 * LATTICE / unit;
    const lines = [];
    for (let top = step / 2; top < height; top += step) {
      for (let left = step / 2; left < width; left += step) {
        const at = this.directionAt(left, top);
        const angle = at ? this.angleOf(this.pixelAt(left, top)) : NaN;
        if (Number.isNaN(angle)) continue;
        const { ahead, east, north } = frameAt(...at);
        lines.push([-half, half].map((along) => this.onCanvas([0, 1, 2].map((k) => (
          ahead[k] + along * (Math.sin(angle) * east[k] - Math.cos(angle) * north[k]))))));
      }
    }
    for (const [colour, thick] of [["rgba(0, 0, 0, 0.55)", 3], ["#ffffff", 1.3]]) {
      paint.strokeStyle = colour;
      paint.lineWidth = thick;
      paint.beginPath();
      for (const [from, to] of lines) {
        if (Math.hypot(to[0] - from[0], to[1] - from[1]) > 2 * LATTICE) continue; // over the edge
        paint.moveTo(...from);
        paint.lineTo(...to);
      }
      paint.stroke();
    }
  }

  drawGraticule() {
    const { paint } = this;
    const step = this.zoom < 3 ? 30 : this.zoom < 8 ? 10 : this.zoom < 24 ? 5 : 2;
    paint.strokeStyle = "rgba(20, 24, 28, 0.4)";
    paint.lineWidth = 0.7;
    for (let lon = 0; lon < 360; lon += step) this.line((t) => vectorOf(lon, 180 * t - 90));
    for (let lat = -90 + step; lat < 90; lat += step) this.line((t) => vectorOf(360 * t, lat));
    const { width } = this.size;
    paint.font = "600 11px system-ui, sans-serif";
    paint.textAlign = "center";
    paint.textBaseline = "middle";
    const across = mod(Math.round(this.lon / step) * step, 360);
    for (let lat = -60; lat <= 60; lat += step) {
      if (lat) this.label(`${lat > 0 ? "+" : "−"}${Math.abs(lat)}°`, vectorOf(across, lat));
    }
    const along = this.zoom < 3 ? 0 : Math.round(this.lat / step) * step;
    const sparse = width < 500 && step === 30 ? 60 : step;
    for (let lon = 0; lon < 360; lon += sparse) this.label(`${lon}°`, vectorOf(lon, along));
  }

  /** A curve of the sphere, t from 0 to 1; broken where it leaves one edge for the other. */
  line(at) {
    const { paint } = this, n = 180;
    let before = null;
    paint.beginPath();
    for (let k = 0; k <= n; k++) {
      const here = this.onCanvas(at(k / n));
      const far = before && Math.hypot(here[0] - before[0], here[1] - before[1]) > this.unit;
      if (before && !far) paint.lineTo(...here);
      else paint.moveTo(...here);
      before = here;
    }
    paint.stroke();
  }

  label(text, v) {
    const [x, y] = this.onCanvas(v), { width, height } = this.size;
    if (x < 18 || y < 10 || x > width - 18 || y > height - 10) return;
    this.paint.lineJoin = "round";
    this.paint.lineWidth = 3;
    this.paint.strokeStyle = "rgba(255, 255, 255, 0.75)";
    this.paint.strokeText(text, x, y);
    this.paint.fillStyle = "#1d2226";
    this.paint.fillText(text, x, y);
    this.paint.lineWidth = 0.7;
    this.paint.strokeStyle = "rgba(20, 24, 28, 0.4)";
  }

  drawMarks() {
    const { paint } = this, { width, height } = this.size;
    const ring = (x, y, radius, cross) => {
      for (const [colour, thick] of [["#000000", 4], ["#ffffff", 2]]) {
        paint.strokeStyle = colour;
        paint.lineWidth = thick;
        paint.beginPath();
        if (!cross) paint.arc(x, y, radius, 0, TAU);
        for (const [dx, dy] of cross ? [[1, 0], [-1, 0], [0, 1], [0, -1]] : []) {
          paint.moveTo(x + 4 * dx, y + 4 * dy);
          paint.lineTo(x + radius * dx, y + radius * dy);
        }
        paint.stroke();
      }
    };
    const pixelSize = this.unit / this.nside; // about one, in screen pixels
    if (this.selected !== null && pixelSize < 16) ring(...this.place(this.selected), 9, false);
    if (this.byKeys) ring(width / 2, height / 2, 12, true);
  }

  // ---- pointer and keys -----------------------------------------------------------------------

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      this.setKeys(false);
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, at(event));
      this.travel = this.fingers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.fingers.has(event.pointerId)) this.drag(event.pointerId, at(event));
      else this.hover(this.pixelAt(...at(event)));
    });
    const lift = (event, chosen) => {
      if (!this.fingers.delete(event.pointerId)) return;
      const pixel = chosen && this.travel < 6 ? this.pixelAt(...at(event)) : null;
      if (pixel !== null) this.select(pixel);
      this.redraw();
    };
    canvas.addEventListener("pointerup", (event) => lift(event, true));
    canvas.addEventListener("pointercancel", (event) => lift(event, false));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("wheel", (event) => {
      // the page scrolls until the map is in use
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      const there = this.directionAt(...at(event));
      if (there) this.goTo(...there);
      this.zoomBy(2);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.setKeys(false));
  }

  setKeys(on) {
    if (this.byKeys !== on) this.redraw();
    this.byKeys = on;
  }

  drag(finger, now) {
    const before = this.fingers.get(finger);
    const others = [...this.fingers].filter(([id]) => id !== finger).map(([, place]) => place);
    this.fingers.set(finger, now);
    if (others.length) { // two fingers: their distance is the zoom
      const apart = (p) => Math.hypot(p[0] - others[0][0], p[1] - others[0][1]);
      this.zoomBy(apart(now) / Math.max(1, apart(before)));
      return;
    }
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    this.travel += Math.hypot(dx, dy);
    const degrees = 360 / TAU / this.unit;
    this.lat += dy * degrees;
    this.lon += dx * degrees / Math.max(0.2, Math.cos(this.lat * TAU / 360));
    this.moved();
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = STEP_DEG / this.zoom;
    const wide = step / Math.max(0.2, Math.cos(this.lat * TAU / 360));
    const actions = {
      ArrowLeft: () => this.goTo(this.lon + wide, this.lat),
      ArrowRight: () => this.goTo(this.lon - wide, this.lat),
      ArrowUp: () => this.goTo(this.lon, this.lat + step),
      ArrowDown: () => this.goTo(this.lon, this.lat - step),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      0: () => this.home(),
      Home: () => this.home(),
      Enter: () => this.select(this.middle),
      " ": () => this.select(this.middle),
    };
    const act = actions[event.key];
    if (!act) return;
    event.preventDefault();
    this.setKeys(true);
    act();
    this.hover(this.middle);
  }

  /** The pixel in the middle of the view, where keys select. */
  get middle() {
    return pixelOf(this.nside, Math.sin(this.lat * TAU / 360), this.lon * TAU / 360);
  }
}
